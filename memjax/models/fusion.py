"""What XLA is not to compute together."""

from typing import Any

import jax
import jax.numpy as jnp


def apart(values: Any, either: jax.Array) -> Any:
    """Returns the values; on CPU, XLA computes what is before and after them one by one.

    What it fuses on CPU can be several times slower than its parts: numbers of a channel are
    computed anew for every pixel, and in what becomes the rows of a matrix product, the pixel that
    a number is of is found by division. An `optimization_barrier` does not last until it fuses.

    Args:
        values: any pytree; its gradient passes in the same way.
        either: bool scalar that XLA cannot know; the values are the same whatever it is.

    Example:
        >>> kernel = jnp.array([2.0, -1.0])
        >>> jax.jit(lambda kernel: apart(3 * kernel, kernel[0] > 0))(kernel)
        Array([ 6., -3.], dtype=float32)
    """
    if jax.default_backend() != "cpu":
        return values

    def kept(values: Any) -> Any:
        return values

    def negated_twice(values: Any) -> Any:  # or there would be no choice left
        return jax.tree.map(lambda leaf: jnp.negative(jnp.negative(leaf)), values)

    return jax.lax.cond(either, kept, negated_twice, values)
