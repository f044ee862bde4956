"""What XLA is not to compute together."""

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_jvp
def gradient_apart(values: Any, either: jax.Array) -> Any:
    """Returns the values; on CPU, XLA computes their gradient before it computes with it.

    What it fuses on CPU can be several times slower than its parts: numbers of a channel are
    computed anew for every pixel, and in what becomes the rows of a matrix product, the pixel that
    a number is of is found by division. An `optimization_barrier` does not last until it fuses.

    Args:
        values: any pytree.
        either: bool scalar that XLA cannot know; the gradient is the same whatever it is.

    Example:
        >>> kernel = jnp.array([2.0, -1.0])
        >>> jax.grad(lambda kernel: jnp.sum(gradient_apart(kernel, kernel[0] > 0) ** 2))(kernel)
        Array([ 4., -2.], dtype=float32)
    """
    return values


@gradient_apart.defjvp
def _gradient_apart_jvp(primals, tangents):
    values, either = primals
    tangent, _ = tangents
    if jax.default_backend() == "cpu":
        tangent = jax.lax.cond(either, _kept, _negated_twice, tangent)
    return values, tangent


def _kept(values: Any) -> Any:
    return values


def _negated_twice(values: Any) -> Any:
    """The same again, but XLA does not see it; of two equal branches nothing would be left."""
    return jax.tree.map(lambda leaf: jnp.negative(jnp.negative(leaf)), values)
