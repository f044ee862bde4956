"""The gradient of a kernel as a sum of outer products, in whatever form is the least work.

With several positions (a sequence, a convolution, a kernel that is used again, the steps of a scan)
the gradient of one example is the sum over positions of the outer product of a row, what goes in,
and a column, the derivative of the loss by what comes out.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax.analysis._ghost.conv_factors import ConvFactors
from memjax.analysis._ghost.kernels import Kernel
from memjax.analysis._precision import widened


class Sizes(NamedTuple):
    """Of a leaf's gradient: `matrices` sums over `positions` of products [rows columns]."""

    matrices: int
    positions: int
    rows: int
    columns: int

    @property
    def elements(self) -> int:
        """Of the gradient itself."""
        return self.matrices * self.rows * self.columns


def gradient_sizes(kernels: Sequence[Kernel]) -> Sizes:
    """Returns the sizes of the gradient of the leaf that all these kernels are."""
    each = [_sizes(kernel) for kernel in kernels]
    return each[0]._replace(positions=sum(sizes.positions for sizes in each))


def _sizes(kernel: Kernel) -> Sizes:
    activation, weights = (
        kernel.equation.invars[i].aval.shape for i in (kernel.activation, 1 - kernel.activation)
    )
    if kernel.kind == "conv":
        conv = ConvFactors(kernel.equation)
        sizes = Sizes(conv.groups, conv.positions, conv.patch_size, conv.features)
    elif kernel.kind == "lookup":
        sizes = Sizes(1, math.prod(activation[:-1]), weights[0], math.prod(weights[1:]))
    else:
        contracting, batch = kernel.equation.params["dimension_numbers"]
        matrices = math.prod(activation[axis] for axis in batch[kernel.activation])
        rows = math.prod(activation[axis] for axis in contracting[kernel.activation])
        positions = math.prod(activation) // max(1, matrices * rows)
        sizes = Sizes(matrices, positions, rows, math.prod(weights) // max(1, matrices * rows))
    if kernel.scan_length is None:
        return sizes
    if kernel.is_stacked:
        return sizes._replace(matrices=kernel.scan_length * sizes.matrices)
    return sizes._replace(positions=kernel.scan_length * sizes.positions)


def gradient_form(kernels: Sequence[Kernel]) -> str:
    """Returns which form of the gradient's norm is the least work, judged by shape.

    'outer' of one position, 'lookup' of rows of a table, 'pixel_gram' and 'gram' of the inner
    products of all pairs of positions, 'product' of the gradient of one example itself.
    """
    matrices, positions, rows, columns = gradient_sizes(kernels)
    if positions == 1:
        return "outer"
    if all(kernel.kind == "lookup" for kernel in kernels):
        return "lookup" if positions**2 <= rows * columns else "product"
    product_work = matrices * positions * rows * columns
    if kernels[0].kind != "conv":
        is_gram = matrices * positions**2 * (rows + columns) < product_work
        return "gram" if is_gram else "product"
    if kernels[0].scan_length is not None:
        return "product"
    gram_work = ConvFactors(kernels[0].equation).gram_work() + matrices * positions**2 * columns
    return "pixel_gram" if gram_work < product_work else "product"


def gradient_factors(
    kernels: Sequence[Kernel],
    activations: dict[tuple[int, ...], jax.Array],
    by_output: dict[tuple[int, ...], jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Returns [matrices positions rows] and [matrices positions columns] of a leaf's gradient."""
    first, parts = kernels[0], []
    for kernel in kernels:
        rows, columns = _factors(kernel, activations[kernel.place], by_output[kernel.place])
        is_transposed = kernel.kind != "conv" and kernel.layout != first.layout
        parts.append((columns, rows) if is_transposed else (rows, columns))
    # Each use adds its outer products to one gradient: more positions, cross terms and all.
    rows, columns = (jnp.concatenate(sides, axis=1) for sides in zip(*parts, strict=True))
    return rows, columns


def lookup_factors(
    kernels: Sequence[Kernel],
    activations: dict[tuple[int, ...], jax.Array],
    by_output: dict[tuple[int, ...], jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Returns which row of the table each position took [positions], and its [positions columns].

    A position that lies outside of the table took none: its columns are 0.
    """
    parts = []
    for kernel in kernels:
        places, columns = activations[kernel.place], by_output[kernel.place]
        if kernel.scan_length is None:
            parts.append(_lookup(kernel, places, columns))
        else:
            each = jax.vmap(lambda p, c, kernel=kernel: _lookup(kernel, p, c))(places, columns)
            parts.append((each[0].reshape(-1), each[1].reshape(-1, each[1].shape[-1])))
    places, columns = (jnp.concatenate(sides) for sides in zip(*parts, strict=True))
    return places, columns


def _factors(
    kernel: Kernel, activation: jax.Array, by_output: jax.Array
) -> tuple[jax.Array, jax.Array]:
    if kernel.scan_length is None:
        return _factors_of_step(kernel, activation, by_output)
    rows, columns = jax.vmap(lambda a, d: _factors_of_step(kernel, a, d))(activation, by_output)
    return _merged_steps(kernel, rows), _merged_steps(kernel, columns)


def _merged_steps(kernel: Kernel, factors: jax.Array) -> jax.Array:
    """Returns [steps matrices positions k] with the steps among the matrices or the positions."""
    steps, matrices, positions, size = factors.shape
    if kernel.is_stacked:
        return factors.reshape(steps * matrices, positions, size)
    return factors.swapaxes(0, 1).reshape(matrices, steps * positions, size)


def _factors_of_step(
    kernel: Kernel, activation: jax.Array, by_output: jax.Array
) -> tuple[jax.Array, jax.Array]:
    if kernel.kind == "conv":
        conv = ConvFactors(kernel.equation)
        return conv.patches(activation), kernel.view.scale * conv.cotangents(by_output)
    if kernel.kind == "lookup":
        places, columns = _lookup(kernel, activation, by_output)
        num_rows = kernel.equation.invars[0].aval.shape[0]
        return jax.nn.one_hot(places, num_rows, dtype=columns.dtype)[None], columns[None]
    return _dense_factors(kernel, activation, by_output)


def _lookup(
    kernel: Kernel, indices: jax.Array, by_output: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns [positions] and [positions columns] of a gather of rows."""
    parameters, table = kernel.equation.params, kernel.equation.invars[0].aval.shape
    offsets = parameters["dimension_numbers"].offset_dims
    places = [axis for axis in range(by_output.ndim) if axis not in offsets]
    columns = by_output.transpose(*places, *offsets).reshape(-1, math.prod(table[1:]))
    indices = indices.reshape(-1)
    clipped = jnp.clip(indices, 0, table[0] - 1)
    if parameters["mode"] == jax.lax.GatherScatterMode.FILL_OR_DROP:
        columns = jnp.where((indices == clipped)[:, None], columns, 0)
    return clipped, kernel.view.scale * columns


def _dense_factors(
    kernel: Kernel, activation: jax.Array, by_output: jax.Array
) -> tuple[jax.Array, jax.Array]:
    contracting, batch = kernel.equation.params["dimension_numbers"]
    side = kernel.activation
    free = [i for i in range(activation.ndim) if i not in {*contracting[side], *batch[side]}]
    sizes = [
        math.prod(activation.shape[axis] for axis in axes)
        for axes in (batch[side], free, contracting[side])
    ]
    rows = activation.transpose(*batch[side], *free, *contracting[side]).reshape(sizes)
    # The output's axes are: batch, free of the left operand, free of the right one.
    by_output = kernel.view.scale * by_output
    num_columns = _sizes(kernel).columns
    if side == 0:
        return rows, by_output.reshape(*sizes[:2], num_columns)
    return rows, by_output.reshape(sizes[0], num_columns, sizes[1]).transpose(0, 2, 1)


def product(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns the gradient [matrices rows columns]."""
    return jnp.einsum("bpk,bpm->bkm", widened(rows), widened(columns), precision="highest")


def gram(vectors: jax.Array) -> jax.Array:
    """Returns the inner products [matrices positions positions] of [matrices positions k]."""
    # Products of Gram matrices cancel: 10 bits of a TensorFloat are not enough.
    vectors = widened(vectors)
    return jnp.einsum("bpk,bqk->bpq", vectors, vectors, precision="highest")


def sum_of_squares(array: jax.Array) -> jax.Array:
    """Returns the sum of squares in at least float32: those of half precision overflow."""
    return jnp.sum(jnp.square(widened(array)))


def scattered(places: jax.Array, columns: jax.Array, num_rows: int) -> jax.Array:
    """Returns the gradient [rows columns] of a table of which `places` were taken."""
    zeros: Any = jnp.zeros((num_rows, columns.shape[1]), widened(columns).dtype)
    return zeros.at[places].add(widened(columns))
