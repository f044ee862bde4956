"""Lanczos iteration over lists of arrays."""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from memjax.analysis._precision import power_of_two, wide_dtype, widened


def lanczos(
    key: jax.Array,
    product: Callable[[list[jax.Array]], list[jax.Array]],
    like: list[jax.Array],
    num_iterations: int,
    tolerance: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lanczos on a symmetric operator over lists of arrays shaped `like`.

    Returns:
      (eigenvalue of the largest magnitude, residual norm, iterations).
    """
    start = random_like(jax.random.normal, key, like)
    start = scaled(start, 1 / norm(start))
    basis = [jnp.zeros((num_iterations, *leaf.shape), leaf.dtype) for leaf in like]
    dtype = norm(start).dtype
    zeros = jnp.zeros(num_iterations, dtype)
    infinity = jnp.asarray(jnp.inf, dtype)

    def unconverged(state: tuple) -> jax.Array:
        step, _, _, _, _, eigenvalue, residual = state
        return (step < num_iterations) & ~(residual <= tolerance * jnp.abs(eigenvalue))

    def extend(state: tuple) -> tuple:
        step, vector, basis, diagonal, off_diagonal, _, _ = state
        basis = [b.at[step].set(v) for b, v in zip(basis, vector, strict=True)]
        image = product(vector)
        diagonal = diagonal.at[step].set(inner(vector, image))
        # Twice is enough to be orthogonal to machine precision; once is not.
        image = orthogonalized(orthogonalized(image, basis), basis)
        length = norm(image)
        tridiagonal = (
            jnp.diag(diagonal) + jnp.diag(off_diagonal[:-1], 1) + jnp.diag(off_diagonal[:-1], -1)
        )
        # Rows not reached yet are zero: their eigenvalue 0 is never the largest in magnitude.
        eigenvalues, vectors = jnp.linalg.eigh(tridiagonal)
        largest = jnp.argmax(jnp.abs(eigenvalues))
        residual = length * jnp.abs(vectors[step, largest])
        following = scaled(image, jnp.where(length > 0, 1 / length, 0))
        off_diagonal = off_diagonal.at[step].set(length)
        state = (step + 1, following, basis, diagonal, off_diagonal)
        return (*state, eigenvalues[largest], residual)

    state = (jnp.int32(0), start, basis, zeros, zeros, jnp.zeros((), dtype), infinity)
    steps, *_, eigenvalue, residual = jax.lax.while_loop(unconverged, extend, state)
    return eigenvalue, residual, steps


def orthogonalized(vector: list[jax.Array], basis: list[jax.Array]) -> list[jax.Array]:
    """Removes the components along the orthonormal rows of `basis` (zero rows remove nothing)."""
    dot = functools.partial(jnp.tensordot, precision="highest")
    products = (dot(b, v, v.ndim) for b, v in zip(basis, vector, strict=True))
    components = functools.reduce(jnp.add, products)
    return [v - dot(components.astype(v.dtype), b, 1) for b, v in zip(basis, vector, strict=True)]


def random_like(sampler: Callable, key: jax.Array, like: list[jax.Array]) -> list[jax.Array]:
    """One draw cut into the leaves: a draw for each leaf takes seconds to compile on a CPU."""
    ends = list(itertools.accumulate(leaf.size for leaf in like))
    dtype = max((wide_dtype(leaf.dtype) for leaf in like), key=lambda dtype: dtype.itemsize)
    parts = jnp.split(sampler(key, (ends[-1],), dtype), ends[:-1])
    return [
        part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, like, strict=True)
    ]


def inner(first: list[jax.Array], second: list[jax.Array]) -> jax.Array:
    """Returns the inner product of two lists, in float32 or wider."""
    products = (
        jnp.vdot(a, b, precision="highest", preferred_element_type=wide_dtype(a.dtype))
        for a, b in zip(first, second, strict=True)
    )
    return functools.reduce(jnp.add, products)


def norm(vector: list[jax.Array]) -> jax.Array:
    """Returns the Euclidean norm of a list, whose squares may be too small for float32."""
    scale = power_of_two(vector)
    parts = [widened(leaf) / scale for leaf in vector]
    return scale * jnp.sqrt(inner(parts, parts))


def scaled(vector: list[jax.Array], factor: jax.Array) -> list[jax.Array]:
    """Returns a list times a scalar, each array in its own type."""
    return [leaf * factor.astype(leaf.dtype) for leaf in vector]
