"""Norms of per-example gradients from activations and their cotangents ("ghost" norms).

The gradient of one example with respect to the kernel of a dense layer is the outer product of what
goes in, `a`, and the derivative of the loss with respect to what comes out, `d`; its squared norm
is |a|^2 |d|^2 (Goodfellow 2015, "Efficient per-example gradient computations"). With several
positions it is the sum of <a_p, a_q> <d_p, d_q> over pairs of positions, the Gram form, or the
squared norm of the product sum_p a_p d_p, whichever is less work. Of a table of which rows are
taken, <a_p, a_q> is whether p and q took the same row.

All of it is written for ONE example; callers vmap it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from memjax.analysis._ghost.conv_factors import ConvFactors
from memjax.analysis._ghost.factors import (
    gradient_factors,
    gradient_form,
    gradient_sizes,
    gram,
    lookup_factors,
    product,
    scattered,
    sum_of_squares,
)
from memjax.analysis._ghost.kernels import Kernel, ParamUses
from memjax.analysis._ghost.trace import Place, TracedExample, plain_leaves
from memjax.analysis._precision import power_of_two, widened


def leaf_norms(
    uses: ParamUses, traced: TracedExample, cotangent: jax.Array
) -> dict[int, jax.Array]:
    """Returns the norm of the gradient of a function of one example's logits, by leaf.

    Args:
      uses: from `find_param_uses`.
      traced: from `trace_example`.
      cotangent: [classes], the derivative of the function with respect to the logits.

    Returns:
      leaf -> scalar, in float32 (float64 for a float64 model), of the leaves with a derivative.
    """
    squares = _scaled_squares(uses, traced, cotangent)
    return {leaf: scale * jnp.sqrt(square) for leaf, (scale, square) in squares.items()}


def gradient_norm(uses: ParamUses, traced: TracedExample, cotangent: jax.Array) -> jax.Array:
    """Returns the norm by all leaves: a scalar."""
    each = _scaled_squares(uses, traced, cotangent).values()
    scales, squares = (jnp.stack(parts) for parts in zip(*each, strict=True))
    largest = jnp.max(scales)
    return largest * jnp.sqrt(jnp.sum(squares * jnp.square(scales / largest)))


def _scaled_squares(
    uses: ParamUses, traced: TracedExample, cotangent: jax.Array
) -> dict[int, tuple[jax.Array, jax.Array]]:
    """Returns for each leaf a scale, and the squared norm of the gradient over that scale."""
    by_output, by_leaf = traced.pull_back(cotangent)
    found = {}
    for leaf, gradient in by_leaf.items():
        scale, (whole,) = _scaled([gradient])
        found[leaf] = scale, sum_of_squares(whole)
    for leaf, kernels in uses.kernels.items():
        places = [kernel.place for kernel in kernels]
        scale, scaled = _scaled([by_output[place] for place in places])
        columns = dict(zip(places, scaled, strict=True))
        square = _squared_norm_of_kernel(kernels, traced.activations, columns)
        # Rounding may leave a sum of a Gram form just below 0.
        found[leaf] = scale, jnp.maximum(square, 0)
    return found


def _scaled(arrays: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
    """Returns a scale, and the arrays over it: squares of small ones would be 0 in float32."""
    # A divisor of half precision must be one of its numbers; its squares are none that vanish.
    least = max(float(jnp.finfo(array.dtype).tiny) for array in arrays)
    scale = jnp.maximum(power_of_two(arrays), least)
    return scale, [array / scale.astype(array.dtype) for array in arrays]


def _squared_norm_of_kernel(
    kernels: Sequence[Kernel],
    activations: dict[Place, jax.Array],
    by_output: dict[Place, jax.Array],
) -> jax.Array:
    form = gradient_form(kernels)
    if form == "pixel_gram":
        (kernel,) = kernels
        conv = ConvFactors(kernel.equation)
        columns = kernel.view.scale * conv.cotangents(by_output[kernel.place])
        return jnp.sum(conv.patch_gram(activations[kernel.place]) * gram(columns))
    if all(kernel.kind == "lookup" for kernel in kernels):
        places, columns = lookup_factors(kernels, activations, by_output)
        if form != "product":
            is_same = (places[:, None] == places[None]).astype(widened(columns).dtype)
            return jnp.sum(is_same * gram(columns[None])[0])
        return sum_of_squares(scattered(places, columns, gradient_sizes(kernels).rows))
    rows, columns = gradient_factors(kernels, activations, by_output)
    if form == "product":
        return sum_of_squares(product(rows, columns))
    if form == "gram":
        return jnp.sum(gram(rows) * gram(columns))
    squares = [jnp.square(widened(factor)).sum((1, 2)) for factor in (rows, columns)]
    return jnp.sum(squares[0] * squares[1])


def elements_per_example(uses: ParamUses, leaves: Sequence[jax.Array]) -> int:
    """Returns how many numbers `gradient_norm` keeps for one example."""
    total = sum(leaves[leaf].size for leaf in plain_leaves(uses))
    for kernels in uses.kernels.values():
        sizes, form = gradient_sizes(kernels), gradient_form(kernels)
        matrices, positions, rows, columns = sizes
        total += matrices * positions * columns  # of the output; rows may be a batch's, or constant
        if form == "pixel_gram":
            total += 2 * matrices * ConvFactors(kernels[0].equation).pixels ** 2
        elif form in ("gram", "lookup"):
            total += 2 * matrices * positions**2
        elif form == "product":
            total += sizes.elements
            total += matrices * rows * positions if kernels[0].kind == "conv" else 0
    return total
