"""Convolution that is fast on CPU as well as on accelerators.

XLA's convolution is the right one on GPU and TPU. On CPU its backward pass is slow, and inside a
compiled loop, where a training step lives, tens of times slower still. Two other ways to compute
the same numbers are made of matrix products alone, which XLA runs fast everywhere:

- 'patches': one product of every patch with the kernel, several pixels of a row at a time.
- 'fourier': a convolution is a product of spectra. For the second layer of the paper's CNN (9x9
  pixels, 200 to 200 channels, 5x5 kernel) that is 6 times fewer multiplications, the discrete
  Fourier transforms included, which for images this small are products with constant matrices.
  They are orthogonal, so that the rounding error is no larger than that of the direct sum.

All three are plain JAX, so every derivative and `vmap` over kernels work.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from memjax.errors import InputError
from memjax.models.fusion import gradient_apart

METHODS = ("auto", "lax", "patches", "fourier")

# 'SAME' (with zeros), 'VALID', or the rows and columns of zeros ((above, below), (left, right)).
Padding = str | tuple[tuple[int, int], tuple[int, int]]


def convolution(
    images: jax.Array,
    kernel: jax.Array,
    padding: Padding = "SAME",
    method: str = "auto",
    stride: int = 1,
) -> jax.Array:
    """Convolves images with a kernel (a cross-correlation, as everywhere in the field).

    Args:
        images: [n height width channels_in], floating point.
        kernel: [kernel_height kernel_width channels_in channels_out], of the same type.
        padding: 'SAME' (with zeros), 'VALID', or ((above, below), (left, right)) rows and columns.
        method: 'lax', 'patches' or 'fourier'; 'auto' takes 'lax' on accelerators, and on CPU
            whichever of the other two needs fewer multiplications. The methods differ by rounding.
        stride: pixels from window to window, along both axes; 'fourier' has 1 only.

    Returns:
        [n height width channels_out] for 'SAME' and stride 1, of the type of `images`.

    Raises:
        InputError: an unknown method or padding, or a stride that the method does not have.

    Example:
        >>> images, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))
        >>> convolution(images, kernel, "VALID")[0, 0, 0, 0].round(3)
        Array(18., dtype=float32)
    """
    if method not in METHODS:
        raise InputError(f"convolution method={method!r}: must be one of {', '.join(METHODS)}")
    if isinstance(padding, str) and padding not in ("SAME", "VALID"):
        raise InputError(f"convolution padding={padding!r}: must be SAME, VALID or pairs of pixels")
    if stride < 1 or (stride > 1 and method == "fourier"):
        raise InputError(f"convolution stride={stride}: must be 1, or above for another method")
    strides = stride, stride
    if method == "lax" or (method == "auto" and jax.default_backend() != "cpu"):
        return jax.lax.conv_general_dilated(
            images, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    pads: Any = padding
    if isinstance(padding, str):
        pads = jax.lax.padtype_to_pads(images.shape[1:3], kernel.shape[:2], strides, padding)
    if method == "auto":
        method = "patches" if stride > 1 else _cheaper(images, kernel, pads)
    if method == "fourier":
        return _fourier(images, kernel, pads)
    return _patches(images, kernel, pads, stride)


class Conv(nn.Module):
    """A convolution layer with the parameters of `flax.linen.Conv`, and its names.

    Attributes:
        features: channels out.
        kernel_size: (height, width).
        padding: see `convolution`.
        stride: likewise.
        use_bias: whether to add a bias per channel.
        method: see `convolution`; it changes speed, not the parameters.
        kernel_init: as flax's.

    Example:
        >>> layer, images = Conv(8, (3, 3)), jnp.ones((2, 5, 5, 1))
        >>> params = layer.init(jax.random.key(0), images)
        >>> bool(jnp.allclose(nn.Conv(8, (3, 3)).apply(params, images),
        ...                   layer.apply(params, images), atol=1e-6))
        True
    """

    features: int
    kernel_size: tuple[int, int]
    padding: Padding = "SAME"
    stride: int = 1
    use_bias: bool = True
    method: str = "auto"
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, images.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, shape[-1:]) if self.use_bias else None
        images, kernel, bias = nn.dtypes.promote_dtype(images, kernel, bias)
        outputs = convolution(images, kernel, self.padding, self.method, self.stride)
        return outputs if bias is None else outputs + bias.reshape(1, 1, 1, -1)


def _cheaper(images: jax.Array, kernel: jax.Array, pads) -> str:
    """The method with fewer multiplications for a batch of this shape."""
    if images.dtype not in (jnp.float32, jnp.float64):  # no complex type of that precision
        return "patches"
    n, height, width, _ = images.shape
    kernel_area, channels_in, channels_out = kernel.shape[0] * kernel.shape[1], *kernel.shape[2:]
    out_height, out_width = _output_size(images, kernel, pads)
    patch_area = kernel.shape[0] * (kernel.shape[1] + _block(kernel.shape[1]) - 1)
    patches = n * out_height * out_width * patch_area * channels_in * channels_out
    # A real signal of `size` pixels has half as many independent frequencies. A complex product is
    # 4 multiplications; a transform multiplies each pixel by a cosine and a sine.
    size = (height + max(pads[0])) * (width + max(pads[1]))
    fourier = size * (
        2 * n * channels_in * channels_out
        + n * (height * width * channels_in + out_height * out_width * channels_out)
        + kernel_area * channels_in * channels_out
    )
    return "fourier" if fourier < patches else "patches"


def _output_size(images: jax.Array, kernel: jax.Array, pads, stride: int = 1) -> tuple[int, int]:
    height, width = (
        (images.shape[1 + a] + sum(pads[a]) - kernel.shape[a]) // stride + 1 for a in (0, 1)
    )
    return height, width


def _patches(images: jax.Array, kernel: jax.Array, pads, stride: int = 1) -> jax.Array:
    """Convolution as products [places, patch] x [patch, block * channels_out], in batch chunks.

    A patch serves a block of neighbouring pixels of a row. It is as wide as all of them see, and
    the kernel stands in it once for each, a pixel further, among zeros. That is up to twice the
    multiplications, but the patches are several times fewer, and memory is what takes the time.

    The kernel's gradient sums over all pixels, and on CPU XLA is several times slower at one
    product with so long a sum than at shorter ones: hence the kernel is repeated for each chunk.
    """
    height, width = _output_size(images, kernel, pads, stride)
    kernel_height, kernel_width, channels_in, channels_out = kernel.shape
    block = _block(kernel_width) if stride == 1 else 1
    places = -(-width // block)
    (above, below), (left, right) = pads
    right += places * block - width
    images = jnp.pad(images, ((0, 0), (above, below), (left, right), (0, 0)))

    def windows(axis: int, first: int, count: int) -> jax.Array:
        end = first + (count - 1) * stride + 1
        return jax.lax.slice_in_dim(images, first, end, stride, axis)

    # First along the rows, then along the columns: fewer and longer slices than all at once.
    if block > 1:  # a patch is this block of the row and the next
        blocks = images.reshape(*images.shape[:2], places + 1, block * channels_in)
        columns = [blocks[:, :, :-1], blocks[:, :, 1:]]
    else:
        columns = [windows(2, x, places) for x in range(kernel_width)]
    images = jnp.concatenate(columns, axis=-1)
    images = jnp.concatenate([windows(1, y, height) for y in range(kernel_height)], axis=-1)
    chunks = _num_chunks(images.shape[0], height * places)
    patches = images.reshape(chunks, -1, images.shape[-1])
    # [kernel_height, kernel_width + block - 1, channels_in, block, channels_out]
    shifted = [jnp.pad(kernel, ((0, 0), (i, block - 1 - i), (0, 0), (0, 0))) for i in range(block)]
    stacked = jnp.stack(shifted, axis=3).reshape(1, -1, block * channels_out)
    kernels = jnp.broadcast_to(stacked, (chunks, *stacked.shape[1:]))
    outputs = jnp.einsum("bpk,bko->bpo", patches, kernels)
    outputs = outputs.reshape(-1, height, places * block, channels_out)[:, :, :width]
    return gradient_apart(outputs, kernel.ravel()[0] > 0)


def _block(kernel_width: int) -> int:
    """Pixels that a patch serves: their windows cover two blocks exactly."""
    return max(1, kernel_width - 1)


def _num_chunks(n: int, num_pixels: int) -> int:
    """The largest divisor of the batch size that leaves a chunk at least 4096 pixels (or is 1)."""
    fitting = [chunks for chunks in range(1, n + 1) if n % chunks == 0]
    return max(chunks for chunks in fitting if chunks == 1 or n // chunks * num_pixels >= 4096)


def _fourier(images: jax.Array, kernel: jax.Array, pads) -> jax.Array:
    """Convolution as a product of spectra, one matrix product per frequency.

    The transform is of period `size + max(pads)`: what wraps around reads the zeros between the end
    of the image and its next period, which stand for the padding on either side.
    """
    periods = tuple(images.shape[1 + axis] + max(pads[axis]) for axis in (0, 1))
    outputs = _output_size(images, kernel, pads)
    dtype = images.dtype
    image_waves, _ = _waves(periods, images.shape[1:3], (0, 0))
    kernel_waves, _ = _waves(periods, kernel.shape[:2], (-pads[0][0], -pads[1][0]))
    output_waves, weights = _waves(periods, outputs, (0, 0))

    def einsum(expression: str, waves: np.ndarray, values: jax.Array) -> jax.Array:
        return jnp.einsum(expression, waves.astype(dtype), values)

    # f: frequencies, h and w: pixels. The kernel's conjugate spectrum makes it a correlation.
    image_spectrum = jax.lax.complex(
        einsum("fhw,nhwi->fni", image_waves.real, images),
        einsum("fhw,nhwi->fni", image_waves.imag, images),
    )
    kernel_spectrum = jax.lax.complex(
        einsum("fhw,hwio->fio", kernel_waves.real, kernel),
        einsum("fhw,hwio->fio", -kernel_waves.imag, kernel),
    )
    spectrum = jnp.einsum("fni,fio->fno", image_spectrum, kernel_spectrum)
    output_waves = output_waves * weights
    return einsum("fhw,fno->nhwo", output_waves.real, spectrum.real) + einsum(
        "fhw,fno->nhwo", output_waves.imag, spectrum.imag
    )


def _waves(periods, shape, first) -> tuple[np.ndarray, np.ndarray]:
    """Plane waves exp(-2 pi i (u y / height + v x / width)) at the pixels of an array.

    Args:
        periods: (height, width) of one period.
        shape: (height, width) of the array.
        first: coordinates (y, x) of its first pixel.

    Returns:
        complex [frequencies height width], one of each conjugate pair of frequencies, and the
        weights [frequencies 1 1] of the inverse transform.
    """
    u, v = (index.ravel() for index in np.indices(periods))
    mirrored = (-u % periods[0]) * periods[1] + -v % periods[1]
    index = u * periods[1] + v
    kept = index <= mirrored
    weights = np.where(index == mirrored, 1, 2)[kept] / index.size
    y, x = np.arange(shape[0]) + first[0], np.arange(shape[1]) + first[1]
    turns = np.multiply.outer(u[kept] / periods[0], y)[:, :, None]
    turns = turns + np.multiply.outer(v[kept] / periods[1], x)[:, None, :]
    return np.exp(-2j * np.pi * turns), weights[:, None, None]
