"""Max pooling that is quick to differentiate on CPU."""

import jax
import jax.numpy as jnp


def max_pool(images: jax.Array, window: int) -> jax.Array:
    """Maximum over square windows that do not overlap; rows and columns left over are dropped.

    Equal to `flax.linen.max_pool` with strides equal to the window, also in that the first of
    several equal values gets the whole gradient; but that gradient, XLA's select-and-scatter, is
    slow on CPU.

    Args:
        images: [n height width channels].
        window: height and width of the windows, at most those of the images.

    Returns:
        [n height//window width//window channels].

    Example:
        >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2).ravel()
        Array([ 5.,  7., 13., 15.], dtype=float32)
    """
    n, height, width, channels = images.shape
    rows, columns = height // window, width // window
    images = images[:, : rows * window, : columns * window]
    return _window_max(images.reshape(n, rows, window, columns, window, channels))


@jax.custom_jvp
def _window_max(windows: jax.Array) -> jax.Array:
    """[n rows window columns window channels] -> [n rows columns channels]."""
    return windows.max(axis=(2, 4))


@_window_max.defjvp
def _window_max_jvp(primals, tangents):
    """Remembers where the maximum was.

    The gradient of `jnp.max` compares the values with the maximum instead. XLA may compute the
    values anew for that, rounded otherwise; then none is the maximum, and the gradient is 0 / 0.
    """
    (windows,), (tangent,) = primals, tangents
    window = windows.shape[2]
    dtype = jnp.int8 if window < 12 else jnp.int32

    # A loop, for XLA would find the maximum of a window anew for every pixel of it.
    def look(position: jax.Array, found: tuple[jax.Array, jax.Array]):
        best, index = found
        row = jax.lax.dynamic_index_in_dim(windows, position // window, 2, keepdims=False)
        value = jax.lax.dynamic_index_in_dim(row, position % window, 3, keepdims=False)
        is_better = (value > best) | jnp.isnan(value)
        place = jnp.asarray(position, dtype)
        return jnp.where(is_better, value, best), jnp.where(is_better, place, index)

    first = windows[:, :, 0, :, 0]
    best, index = jax.lax.fori_loop(1, window**2, look, (first, jnp.zeros_like(first, dtype)))
    positions = jnp.arange(window**2, dtype=index.dtype).reshape(1, 1, window, 1, window, 1)
    is_maximum = index[:, :, None, :, None] == positions
    return best, jnp.sum(jnp.where(is_maximum, tangent, 0), axis=(2, 4))
