"""Norms of per-example gradients from activations and their cotangents ("ghost" norms).

The gradient of one example with respect to the kernel of a dense layer is the outer product of what
goes in, `a`, and the derivative of the loss with respect to what comes out, `d`; its squared norm
is |a|^2 |d|^2 (Goodfellow 2015, "Efficient per-example gradient computations"). With several
positions (a sequence, a convolution, a kernel that is used again) it is the sum of
<a_p, a_q> <d_p, d_q> over pairs of positions, the Gram form, or the squared norm of the product
sum_p a_p d_p, whichever is less work.

All of it is written for ONE example; callers vmap it.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax.analysis.conv_factors import ConvFactors
from memjax.analysis.forward_pass import apply_equation, evaluate
from memjax.analysis.param_uses import Kernel, ParamUses


class TracedExample(NamedTuple):
    """The forward pass of one example, ready to be pulled back.

    Attributes:
      logits: [classes].
      pull_back: maps d loss / d logits to two dicts: equation -> d loss / d its output, for the
        equations of kernels, and leaf -> d loss / d leaf, for the leaves without kernels.
      activations: equation -> what the kernel is multiplied with there.
    """

    logits: jax.Array
    pull_back: Callable[[jax.Array], tuple[dict[int, jax.Array], dict[int, jax.Array]]]
    activations: dict[int, jax.Array]


class LeafGradient(NamedTuple):
    """The gradients of some functions by one leaf, up to the order of its elements.

    They are the outer products of `rows` [matrices rows] and `columns` [functions matrices
    columns], or, where `rows` is None, `columns` [functions elements] itself.
    """

    rows: jax.Array | None
    columns: jax.Array


def trace_example(uses: ParamUses, leaves: Sequence[jax.Array], image: jax.Array) -> TracedExample:
    """Runs one image through the model and keeps what its gradients need.

    Args:
      uses: from `find_param_uses`.
      leaves: `jax.tree.leaves(params)`.
      image: [...], without n.

    Returns:
      The logits, their pull-back, and the activations.
    """
    kernels = {kernel.index: kernel for leaf in uses.kernels.values() for kernel in leaf}
    plain = {leaf: leaves[leaf] for leaf in {*uses.elementwise, *uses.shared, *uses.other}}
    # Zeros, added to the output of an equation: their cotangent is that of the output.
    outputs = {index: kernel.equation.outvars[0].aval for index, kernel in kernels.items()}
    zeros = {index: jnp.zeros(aval.shape, aval.dtype) for index, aval in outputs.items()}

    def forward(shifts: dict, plain: dict) -> tuple[jax.Array, dict]:
        activations = {}

        def apply(index: int, equation: Any, operands: list[Any]) -> list[Any]:
            results = apply_equation(equation, operands)
            if index in kernels:
                activations[index] = operands[kernels[index].activation]
                results = [results[0] + shifts[index]]
            return results

        inputs = [plain.get(i, leaf) for i, leaf in enumerate(leaves)]
        closed = uses.jaxpr
        (logits,) = evaluate(closed.jaxpr, closed.consts, [*inputs, image[None]], apply)
        return logits[0], activations

    return TracedExample(*jax.vjp(forward, zeros, plain, has_aux=True))


def squared_norm(uses: ParamUses, traced: TracedExample, cotangent: jax.Array) -> jax.Array:
    """Returns the squared norm of the gradient of a function of one example's logits.

    Args:
      uses: from `find_param_uses`.
      traced: from `trace_example`.
      cotangent: [classes], the derivative of the function with respect to the logits.

    Returns:
      A scalar, in float32 (float64 for a float64 model).
    """
    by_output, by_leaf = traced.pull_back(cotangent)
    terms = [_sum_of_squares(gradient) for gradient in by_leaf.values()]
    for kernels in uses.kernels.values():
        if _form(kernels) == "pixel_gram":
            (kernel,) = kernels
            conv = ConvFactors(kernel.equation)
            columns = kernel.view.scale * conv.cotangents(by_output[kernel.index])
            gram = conv.patch_gram(traced.activations[kernel.index])
            terms.append(jnp.sum(gram * _gram(columns)))
        else:
            rows, columns = _factors(kernels, traced.activations, by_output)
            terms.append(_outer_squared_norm(_form(kernels), rows, columns))
    # Rounding may leave a sum of a Gram form just below 0.
    return jnp.maximum(sum(terms), 0)


def leaf_gradients(
    uses: ParamUses, traced: TracedExample, cotangents: jax.Array
) -> list[LeafGradient]:
    """Returns gradients by every leaf, for inner products between examples.

    Args:
      uses: from `find_param_uses`.
      traced: from `trace_example`.
      cotangents: [functions classes], the derivative of each function by the logits.

    Returns:
      One for each leaf that has a derivative; a kernel used at one position as an outer product.
    """
    by_output, by_leaf = jax.vmap(traced.pull_back)(cotangents)
    num_functions = len(cotangents)
    gradients = [
        LeafGradient(None, gradient.reshape(num_functions, -1)) for gradient in by_leaf.values()
    ]

    for kernels in uses.kernels.values():
        factors = functools.partial(_factors, kernels, traced.activations)
        if _form(kernels) == "outer":
            rows, columns = jax.vmap(factors, out_axes=(None, 0))(by_output)
            gradients.append(LeafGradient(rows[:, 0], columns[:, :, 0]))
        else:
            products = jax.vmap(lambda d, factors=factors: _product(*factors(d)))(by_output)
            gradients.append(LeafGradient(None, products.reshape(num_functions, -1)))
    return gradients


def elements_per_example(uses: ParamUses, leaves: Sequence[jax.Array]) -> int:
    """Returns how many numbers `squared_norm` keeps for one example."""
    total = sum(leaves[leaf].size for leaf in {*uses.elementwise, *uses.shared, *uses.other})
    for kernels in uses.kernels.values():
        matrices, positions, rows, columns = _sizes(kernels)
        form = _form(kernels)
        total += matrices * positions * columns  # of the output; rows may be a batch's, or constant
        if form == "pixel_gram":
            total += 2 * matrices * ConvFactors(kernels[0].equation).pixels ** 2
        elif form == "gram":
            total += 2 * matrices * positions**2
        elif form == "product":
            total += matrices * rows * (columns + (0 if kernels[0].is_dense else positions))
    return total


def gradient_elements(uses: ParamUses, leaves: Sequence[jax.Array]) -> int:
    """Returns how many numbers `leaf_gradients` returns for one example and one function."""
    plain = {*uses.elementwise, *uses.shared, *uses.other}
    total = sum(leaves[leaf].size for leaf in plain)
    for leaf, kernels in uses.kernels.items():
        matrices, _, _, columns = _sizes(kernels)
        total += matrices * columns if _form(kernels) == "outer" else leaves[leaf].size
    return total


def _sizes(kernels: Sequence[Kernel]) -> tuple[int, int, int, int]:
    """Returns the numbers of matrices, positions, rows and columns of a leaf's gradient."""
    kernel = kernels[0]
    if not kernel.is_dense:
        conv = ConvFactors(kernel.equation)
        return conv.groups, conv.positions, conv.patch_size, conv.features
    contracting, batch = kernel.equation.params["dimension_numbers"]
    shape = kernel.equation.invars[kernel.activation].aval.shape
    matrices = math.prod(shape[axis] for axis in batch[kernel.activation])
    rows = math.prod(shape[axis] for axis in contracting[kernel.activation])
    weights = math.prod(kernel.equation.invars[1 - kernel.activation].aval.shape)
    positions = sum(
        math.prod(use.equation.outvars[0].aval.shape) * rows // weights for use in kernels
    )
    return matrices, positions, rows, weights // (matrices * rows)


def _form(kernels: Sequence[Kernel]) -> str:
    """Returns which form of the norm is the least work, judged by shape."""
    matrices, positions, rows, columns = _sizes(kernels)
    if positions == 1:
        return "outer"
    product_work = matrices * positions * rows * columns
    if kernels[0].is_dense:
        is_gram = matrices * positions**2 * (rows + columns) < product_work
        return "gram" if is_gram else "product"
    gram_work = ConvFactors(kernels[0].equation).gram_work() + matrices * positions**2 * columns
    return "pixel_gram" if gram_work < product_work else "product"


def _outer_squared_norm(form: str, rows: jax.Array, columns: jax.Array) -> jax.Array:
    if form == "product":
        return _sum_of_squares(_product(rows, columns))
    if form == "gram":
        return jnp.sum(_gram(rows) * _gram(columns))
    return jnp.sum(jnp.square(_widen(rows)).sum((1, 2)) * jnp.square(_widen(columns)).sum((1, 2)))


def _factors(
    kernels: Sequence[Kernel],
    activations: dict[int, jax.Array],
    by_output: dict[int, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Returns [matrices positions rows] and [matrices positions columns] of a leaf's gradient."""
    first = kernels[0]
    if not first.is_dense:
        conv = ConvFactors(first.equation)
        columns = first.view.scale * conv.cotangents(by_output[first.index])
        return conv.patches(activations[first.index]), columns
    parts = []
    for kernel in kernels:
        rows, columns = _dense_factors(kernel, activations[kernel.index], by_output[kernel.index])
        is_transposed = kernel.layout != first.layout
        parts.append((columns, rows) if is_transposed else (rows, columns))
    # Each use adds its outer products to one gradient: more positions, cross terms and all.
    rows, columns = (jnp.concatenate(sides, axis=1) for sides in zip(*parts, strict=True))
    return rows, columns


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
    if side == 0:
        return rows, by_output.reshape(*sizes[:2], -1)
    return rows, by_output.reshape(sizes[0], -1, sizes[1]).transpose(0, 2, 1)


def _product(rows: jax.Array, columns: jax.Array) -> jax.Array:
    return jnp.einsum("bpk,bpm->bkm", _widen(rows), _widen(columns))


def _gram(vectors: jax.Array) -> jax.Array:
    vectors = _widen(vectors)
    return jnp.einsum("bpk,bqk->bpq", vectors, vectors)


def _sum_of_squares(array: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(_widen(array)))


def _widen(array: jax.Array) -> jax.Array:
    """Returns the array in at least float32: squares of half precision overflow."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
