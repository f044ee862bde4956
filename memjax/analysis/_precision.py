"""Numbers that float32, or half precision, would lose on the way."""

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
