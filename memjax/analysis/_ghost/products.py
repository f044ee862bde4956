"""Inner products of per-example gradients: those of kernels at one position are never formed."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from memjax.analysis._ghost.factors import (
    gradient_factors,
    gradient_form,
    gradient_sizes,
    lookup_factors,
    product,
    scattered,
)
from memjax.analysis._ghost.kernels import Kernel, ParamUses
from memjax.analysis._ghost.trace import Place, TracedExample, plain_leaves
from memjax.analysis._precision import widened


class LeafGradient(NamedTuple):
    """The gradients of some functions by one leaf, up to the order of its elements.

    They are the outer products of `rows` [matrices rows] and `columns` [functions matrices
    columns], or, where `rows` is None, `columns` [functions elements] itself.
    """

    rows: jax.Array | None
    columns: jax.Array


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
        if gradient_form(kernels) == "outer":
            rows, columns = jax.vmap(
                lambda d, kernels=kernels: gradient_factors(kernels, traced.activations, d),
                out_axes=(None, 0),
            )(by_output)
            gradients.append(LeafGradient(rows[:, 0], columns[:, :, 0]))
        else:
            formed = jax.vmap(
                lambda d, kernels=kernels: kernel_gradient(kernels, traced.activations, d)
            )(by_output)
            gradients.append(LeafGradient(None, formed.reshape(num_functions, -1)))
    return gradients


def kernel_gradient(
    kernels: Sequence[Kernel],
    activations: dict[Place, jax.Array],
    by_output: dict[Place, jax.Array],
) -> jax.Array:
    """Returns the gradient by one leaf, its elements in the order that its uses have in common."""
    if all(kernel.kind == "lookup" for kernel in kernels):
        factors = lookup_factors(kernels, activations, by_output)
        return scattered(*factors, gradient_sizes(kernels).rows)
    return product(*gradient_factors(kernels, activations, by_output))


def inner_products(left: Sequence[LeafGradient], right: Sequence[LeafGradient]) -> jax.Array:
    """Returns [n_left n_right functions functions] of gradients with leading axes n."""
    products = [_inner_products(a, b) for a, b in zip(left, right, strict=True)]
    return sum(products[1:], products[0])


def _inner_products(left: LeafGradient, right: LeafGradient) -> jax.Array:
    def einsum(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(subscripts, widened(a), widened(b), precision="highest")

    if left.rows is None or right.rows is None:
        return einsum("ice,jde->ijcd", left.columns, right.columns)
    rows = einsum("imr,jmr->ijm", left.rows, right.rows)
    columns = einsum("icmk,jdmk->ijmcd", left.columns, right.columns)
    return einsum("ijm,ijmcd->ijcd", rows, columns)


def gradient_elements(uses: ParamUses, leaves: Sequence[jax.Array]) -> int:
    """Returns how many numbers `leaf_gradients` returns for one example and one function."""
    total = sum(leaves[leaf].size for leaf in plain_leaves(uses))
    for kernels in uses.kernels.values():
        sizes = gradient_sizes(kernels)
        is_outer = gradient_form(kernels) == "outer"
        total += sizes.matrices * sizes.columns if is_outer else sizes.elements
    return total
