"""EK-FAC: an inverse of the Gauss-Newton matrix, layer by layer, in Kronecker-factored eigenbases.

Of a layer whose gradient is a sum over positions of outer products of an input a and an output
gradient g, the basis is that of E[a a'] and E[g g'], and the eigenvalues are the second moments of
the gradient in that basis (George et al. 2018). Other leaves (biases) are a layer with a = 1, whose
block is then exact.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax.analysis._ghost.factors import gradient_factors, gradient_sizes
from memjax.analysis._ghost.kernels import ParamUses
from memjax.analysis._ghost.param_uses import find_param_uses
from memjax.analysis._ghost.trace import trace_example
from memjax.analysis._precision import widened
from memjax.analysis.inputs import ExampleLoss, LogitsFn
from memjax.errors import InputError

# The largest leaf that is no dense layer or convolution: its covariance is formed.
_LARGEST_PLAIN_LEAF = 4096


class Factors(NamedTuple):
    """The gradients of some functions by one leaf, of one example.

    `rows: [positions rows]`, `columns: [functions positions columns]`.
    """

    rows: jax.Array
    columns: jax.Array


class Block(NamedTuple):
    """Of one leaf: `row_basis [rows rows]`, `column_basis`, `eigenvalues [rows columns]`."""

    row_basis: jax.Array
    column_basis: jax.Array
    eigenvalues: jax.Array


def layers(logits_fn: LogitsFn, params: Any, images: jax.Array) -> ParamUses:
    """Returns the layers, or raises InputError where one is of a kind that EK-FAC is not for."""
    uses, leaves = find_param_uses(logits_fn, params, images), jax.tree.leaves(params)
    for kernels in uses.kernels.values():
        if kernels[0].kind == "lookup" or gradient_sizes(kernels).matrices != 1:
            raise InputError(
                "logits_fn: has a layer that EK-FAC is not for (a lookup, or several matrices in "
                "one); it knows dense layers and convolutions; method='cg' is for all"
            )
    for leaf in (*uses.elementwise, *uses.shared, *uses.other):
        if leaves[leaf].size > _LARGEST_PLAIN_LEAF:
            raise InputError(
                f"logits_fn: a leaf of shape {leaves[leaf].shape} is used in a way that EK-FAC "
                "does not know; it knows dense layers and convolutions; method='cg' is for all"
            )
    return uses


def example_factors(
    uses: ParamUses, leaves: Sequence[jax.Array], image: jax.Array, cotangents_of: Any
) -> list[Factors]:
    """Returns the factors of every leaf; `cotangents_of(logits) -> [functions classes]`."""
    traced = trace_example(uses, leaves, image)
    by_output, by_leaf = jax.vmap(traced.pull_back)(cotangents_of(traced.logits))
    one = jnp.ones((1, 1), traced.logits.dtype)
    found = [
        Factors(one, widened(gradient.reshape(len(gradient), 1, -1)))
        for gradient in by_leaf.values()
    ]
    for kernels in uses.kernels.values():
        rows, columns = jax.vmap(
            lambda d, kernels=kernels: gradient_factors(kernels, traced.activations, d),
            out_axes=(None, 0),
        )(by_output)
        found.append(Factors(widened(rows[0]), widened(columns[:, 0])))
    return found


def curvature_roots(example_loss: ExampleLoss, logits: jax.Array, label: jax.Array) -> jax.Array:
    """Returns s [classes classes] with s' s the Hessian of the loss by the logits (convex)."""
    hessian = jax.hessian(lambda logits: example_loss(logits, label))(logits)
    values, vectors = jnp.linalg.eigh(hessian)
    return jnp.sqrt(jnp.maximum(values, 0))[:, None] * vectors.T


def fit(
    uses: ParamUses,
    leaves: Sequence[jax.Array],
    images: jax.Array,
    labels: jax.Array,
    example_loss: ExampleLoss,
) -> list[Block]:
    """Returns the Gauss-Newton matrix of the mean loss; images: [microbatches m ...]."""

    def factors(images: jax.Array, labels: jax.Array) -> list[Factors]:
        def of_example(image: jax.Array, label: jax.Array) -> list[Factors]:
            roots = lambda logits: curvature_roots(example_loss, logits, label)  # noqa: E731
            return example_factors(uses, leaves, image, roots)

        return jax.vmap(of_example)(images, labels)

    def covariances(microbatch: tuple[jax.Array, jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
        return [
            (
                _einsum("npr,nps->rs", block.rows, block.rows),
                _einsum("nfpc,nfpd->cd", block.columns, block.columns),
            )
            for block in factors(*microbatch)
        ]

    count = images.shape[0] * images.shape[1]
    sums = _sum_over(covariances, (images, labels))
    bases = [
        (jnp.linalg.eigh(rows / count)[1], jnp.linalg.eigh(columns / count)[1])
        for rows, columns in sums
    ]

    def second_moments(microbatch: tuple[jax.Array, jax.Array]) -> list[jax.Array]:
        return [
            _second_moment(rotate(block, *basis))
            for block, basis in zip(factors(*microbatch), bases, strict=True)
        ]

    moments = _sum_over(second_moments, (images, labels))
    return [Block(*basis, moment / count) for basis, moment in zip(bases, moments, strict=True)]


def rotate(block: Factors, row_basis: jax.Array, column_basis: jax.Array) -> Factors:
    """Returns factors (with any leading axes) in the eigenbasis."""
    return Factors(
        jnp.matmul(block.rows, row_basis, precision="highest"),
        jnp.matmul(block.columns, column_basis, precision="highest"),
    )


def _second_moment(block: Factors) -> jax.Array:
    if block.rows.shape[1] == 1:
        return _einsum("npr,nfpc->rc", block.rows**2, block.columns**2)
    gradients = _einsum("npr,nfpc->nfrc", block.rows, block.columns)
    return jnp.sum(gradients**2, axis=(0, 1))


def _einsum(subscripts: str, *operands: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, *operands, precision="highest")


def _sum_over(fn: Any, microbatches: Any) -> Any:
    """Returns the sum of fn over microbatches, one of them in memory at a time."""
    shapes = jax.eval_shape(fn, jax.tree.map(lambda leaf: leaf[0], microbatches))
    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(total: Any, microbatch: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, fn(microbatch)), None

    return jax.lax.scan(add, start, microbatches)[0]


def solve(blocks: Sequence[Block], queries: Sequence[Factors], damping: float | None) -> list:
    """Returns (matrix + damping)^-1 of every query's gradient, [queries rows columns] a leaf.

    Queries and results are in the eigenbasis. Without a damping it is a tenth of each leaf's mean
    eigenvalue (Grosse et al. 2023).
    """
    found = []
    for block, query in zip(blocks, queries, strict=True):
        gradients = _einsum("qpr,qfpc->qrc", query.rows, query.columns)
        values = block.eigenvalues
        added = 0.1 * jnp.mean(values) if damping is None else damping
        # Where nothing is curved and nothing is added, nothing is known: such directions stay out.
        total = values + added
        found.append(
            jnp.where(total[None] > 0, gradients / jnp.where(total > 0, total, 1)[None], 0)
        )
    return found


def products(solved: Sequence[jax.Array], examples: Sequence[Factors]) -> jax.Array:
    """Returns the inner products [n queries] of solved queries with gradients of examples."""
    total = [
        _einsum("npqc,nfpc->nq", _einsum("npr,qrc->npqc", example.rows, block), example.columns)
        for block, example in zip(solved, examples, strict=True)
    ]
    return sum(total[1:], total[0])
