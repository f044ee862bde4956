"""Numbers that float32, or half precision, would lose on the way."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def wide_dtype(dtype: Any) -> Any:
    """Returns float64 for float64, and float32 for all else (also under strict promotion)."""
    return jnp.dtype(jnp.float64 if dtype == jnp.float64 else jnp.float32)


def widened(array: jax.Array) -> jax.Array:
    """Returns the array in float32, or as it is in float64."""
    return array.astype(wide_dtype(array.dtype))


def scaled_norm(vector: jax.Array) -> jax.Array:
    """Returns the l2 norm over all elements, whose squares may be too small for float32."""
    scale = largest_magnitude(vector)
    return scale * jnp.sqrt(jnp.sum(jnp.square(vector / scale)))


def largest_magnitude(vector: jax.Array) -> jax.Array:
    """Returns the largest |element|, 1 where all are 0: what to divide by before squaring."""
    largest = jnp.max(jnp.abs(vector))
    return jnp.where(largest == 0, 1, largest)


def widened_norm(array: jax.Array) -> jax.Array:
    """Returns the l2 norm over all elements in float32 or wider, as rounded as without a scale."""
    scale = power_of_two([array])
    return scale * jnp.sqrt(jnp.sum(jnp.square(widened(array) / scale)))


def power_of_two(arrays: Sequence[jax.Array]) -> jax.Array:
    """Returns one near the largest |element| of all arrays: to divide by it rounds nothing.

    It is 1 where all are 0, or where one is not finite.
    """
    each = (jnp.max(jnp.abs(widened(array)), initial=0) for array in arrays)
    largest = functools.reduce(jnp.maximum, each)
    _, exponent = jnp.frexp(jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1))
    return jnp.ldexp(jnp.ones_like(largest), exponent - 1)
