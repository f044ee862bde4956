"""A convolution of one example as a product of matrices: patches, and inner products of patches."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memjax.analysis._precision import widened

# A sum over window places costs about this many multiply-adds of a matrix product, for each term.
_SUM_COST = 8


class ConvFactors:
    """The shapes of one `conv_general_dilated` equation in the forward pass of one example.

    Its batch is 1, or what was folded into it (views, frames, patches of the one example): that is
    one more axis of places, along which the window is 1. For every group of features, the gradient
    of the kernel is the sum over positions (places of the window) of the outer product of a patch
    and the derivative by the output there.

    Attributes:
      groups: feature groups.
      positions: places of the window, P.
      patch_size: elements of a patch in one group, K.
      features: outputs of one group, M.
      pixels: elements of the padded image, over one channel, Q.
    """

    def __init__(self, equation: Any):
        self._params = equation.params
        self._dimensions = equation.params["dimension_numbers"]
        images, kernel = (variable.aval.shape for variable in equation.invars)
        output = equation.outvars[0].aval.shape
        self._window = [1, *(kernel[axis] for axis in self._dimensions.rhs_spec[2:])]
        out_spec = self._dimensions.out_spec
        self._output = [output[axis] for axis in (out_spec[0], *out_spec[2:])]
        self._strides = [1, *self._params["window_strides"]]
        self._dilation = [1, *self._params["rhs_dilation"]]
        padding = zip(self._params["padding"], self._params["lhs_dilation"], strict=True)
        self._padding = [(0, 0, 0), *((low, high, step - 1) for (low, high), step in padding)]
        lhs_spec = self._dimensions.lhs_spec
        sizes = [images[axis] for axis in (lhs_spec[0], *lhs_spec[2:])]
        self._padded = [
            low + high + size + (size - 1) * interior
            for size, (low, high, interior) in zip(sizes, self._padding, strict=True)
        ]
        self.groups = self._params["feature_group_count"]
        self.positions = math.prod(self._output)
        self.channels = images[lhs_spec[1]] // self.groups
        self.patch_size = math.prod(self._window) * self.channels
        self.features = output[out_spec[1]] // self.groups
        self.pixels = math.prod(self._padded)

    def gram_work(self) -> int:
        """Returns the multiply-adds, about, of `patch_gram`."""
        work = self.pixels**2 * self.channels
        sizes = list(self._padded)
        for axis, (window, output) in enumerate(zip(self._window, self._output, strict=True)):
            sizes[axis] = output
            work += _SUM_COST * (window if window > 1 else 0) * math.prod(sizes) ** 2
        return self.groups * work

    def patches(self, images: jax.Array) -> jax.Array:
        """Returns the patches [groups positions patch_size] of the images of one example."""
        patches = self._padded_image(images)
        num_axes = len(self._window)
        for axis in range(num_axes):
            patches = jnp.stack(self._shifted(patches, axis, axis), axis=num_axes)
        places = math.prod(self._window)
        patches = patches.reshape(self.positions, places, self.groups, self.channels)
        return patches.transpose(2, 0, 1, 3).reshape(self.groups, self.positions, self.patch_size)

    def patch_gram(self, images: jax.Array) -> jax.Array:
        """Returns the inner products [groups positions positions] of all pairs of patches.

        Patches need not be built for that: the inner products of single pixels are summed over the
        window, one spatial axis after the other.
        """
        num_axes = len(self._window)
        image = widened(self._padded_image(images))
        image = image.reshape(self.pixels, self.groups, self.channels)
        gram = jnp.einsum("pgc,qgc->gpq", image, image, precision="highest")
        gram = gram.reshape(self.groups, *self._padded, *self._padded)
        for axis in range(num_axes):
            rows = self._shifted(gram, axis, 1 + axis, 1 + num_axes + axis)
            gram = sum(rows[1:], rows[0])
        return gram.reshape(self.groups, self.positions, self.positions)

    def cotangents(self, outputs: jax.Array) -> jax.Array:
        """Returns the derivative by the output as [groups positions features]."""
        spec = self._dimensions.out_spec
        outputs = outputs.transpose(spec[0], *spec[2:], spec[1])
        outputs = outputs.reshape(self.positions, self.groups, self.features)
        return outputs.transpose(1, 0, 2)

    def _padded_image(self, images: jax.Array) -> jax.Array:
        spec = self._dimensions.lhs_spec
        image = images.transpose(spec[0], *spec[2:], spec[1])
        return lax.pad(image, jnp.zeros((), image.dtype), [*self._padding, (0, 0, 0)])

    def _shifted(self, array: jax.Array, spatial_axis: int, *axes: int) -> list[jax.Array]:
        """Returns, for every place of the window along one axis, the elements there."""
        stride, dilation = self._strides[spatial_axis], self._dilation[spatial_axis]
        length = (self._output[spatial_axis] - 1) * stride + 1
        shifted = []
        for place in range(self._window[spatial_axis]):
            start = place * dilation
            part = array
            for axis in axes:
                part = lax.slice_in_dim(part, start, start + length, stride, axis)
            shifted.append(part)
        return shifted
