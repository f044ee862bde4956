"""Influence functions: what one more example of a kind would do to the minimum reached.

They look at the trained network alone, and suppose that training has converged to a minimum that
the damped Gauss-Newton matrix describes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import memjax.analysis._ekfac as ekfac
from memjax.analysis._arguments import check_number
from memjax.analysis._leaves import merge_params, split_params
from memjax.analysis._precision import power_of_two
from memjax.analysis._unrolled.sensitivity_inputs import positive
from memjax.analysis.attribution_measures import (
    Measure,
    check_measured,
    check_query_shapes,
    make_measure,
)
from memjax.analysis.inputs import check_model
from memjax.analysis.losses import softmax_cross_entropy
from memjax.errors import InputError

_METHODS = ("cg", "ekfac")
_CG_DAMPING = 0.01


def influence_functions(
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    query_images: jax.Array,
    query_labels: jax.Array,
    *,
    method: str = "ekfac",
    damping: float | None = None,
    measure: str | Measure = "loss",
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    microbatch_size: int | None = None,
    example_loss: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
) -> jax.Array:
    """Returns -grad measure(query)' (G + damping)^-1 grad loss(example) / n, of all pairs.

    G is the Gauss-Newton matrix of the mean training loss at `params`. With the units and signs of
    `example_attribution`, which it equals for a linear model and a squared error, once training
    with the damping as weight decay has converged.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, inference mode.
      params: the TRAINED network.
      images: [n ...], the training examples.
      labels: [n ...].
      query_images: [queries ...].
      query_labels: [queries ...].
      method: 'cg', conjugate gradients: exact up to the tolerance, for any network; 'ekfac',
        Kronecker-factored (dense layers, convolutions; biases exactly): one query or a thousand at
        nearly the price of one pass over the examples.
      damping: added to G. None: .01 for 'cg'; a tenth of each layer's mean eigenvalue for 'ekfac'.
      measure: 'loss', 'margin' or a function, as in `example_attribution`.
      max_iterations: of conjugate gradients.
      tolerance: relative residual at which they end.
      microbatch_size: examples at a time, 100 by default; changes rounding only.
      example_loss: `example_loss(logits [classes], label) -> scalar`, convex in the logits.

    Returns:
      [queries n].

    Raises:
      InputError: the shapes do not fit, an option is out of range, or EK-FAC does not know a layer.

    Example:
      >>> def logits_fn(weights, images):
      ...     return images @ weights
      >>> found = influence_functions(
      ...     logits_fn, jnp.zeros((2, 2)), jnp.eye(2), jnp.array([0, 1]), jnp.eye(2),
      ...     jnp.array([0, 1]), method="cg", damping=0.25)
      >>> (found.round(3) + 0.0).tolist()
      [[-0.5, 0.0], [0.0, -0.5]]

    Reference: Koh and Liang 2017; Grosse et al. 2023 for EK-FAC; George et al. 2018.
    """
    check_model(logits_fn, params, images, labels, example_loss=example_loss, by_params=True)
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    query_images, query_labels = check_query_shapes(images, labels, query_images, query_labels)
    if method not in _METHODS:
        raise InputError(f"method is {method!r}, must be one of {', '.join(_METHODS)}")
    if damping is not None:
        check_number("damping", damping, at_least=0)
    positive("max_iterations", max_iterations, 1)
    size = min(positive("microbatch_size", microbatch_size, 100), len(images))
    # Microbatches of one size: the largest not above `size` that divides n.
    size = next(m for m in range(size, 0, -1) if len(images) % m == 0)
    measure = make_measure(measure, example_loss)
    query_labels = check_measured(logits_fn, params, query_images, query_labels, measure)
    arguments = (params, images, labels, query_images, query_labels)
    if method == "ekfac":
        ekfac.layers(logits_fn, params, images)
        return _by_ekfac(logits_fn, *arguments, damping, measure, size, example_loss)
    damping = _CG_DAMPING if damping is None else damping
    return _by_cg(
        logits_fn, *arguments, damping, measure, size, example_loss, max_iterations, tolerance
    )


@functools.partial(jax.jit, static_argnums=(0, 6, 7, 8, 9))
def _by_ekfac(
    logits_fn, params, images, labels, query_images, query_labels, damping, measure, size,
    example_loss,
):  # fmt: skip
    uses, leaves = ekfac.layers(logits_fn, params, images), jax.tree.leaves(params)
    microbatches = (_split(images, size), _split(labels, size))
    blocks = ekfac.fit(uses, leaves, *microbatches, example_loss)

    def gradients(of: Measure, images: jax.Array, labels: jax.Array) -> list[ekfac.Factors]:
        def of_example(image: jax.Array, label: jax.Array) -> list[ekfac.Factors]:
            cotangent = lambda logits: jax.grad(of)(logits, label)[None]  # noqa: E731
            return ekfac.example_factors(uses, leaves, image, cotangent)

        found = jax.vmap(of_example)(images, labels)
        return [
            ekfac.rotate(factors, block.row_basis, block.column_basis)
            for factors, block in zip(found, blocks, strict=True)
        ]

    solved = ekfac.solve(blocks, gradients(measure, query_images, query_labels), damping)
    products = jax.lax.map(
        lambda microbatch: ekfac.products(solved, gradients(example_loss, *microbatch)),
        microbatches,
    )
    return -products.reshape(len(images), -1).T / len(images)


def _split(array: jax.Array, size: int) -> jax.Array:
    return array.reshape(-1, size, *array.shape[1:])


@functools.partial(jax.jit, static_argnums=(0, 7, 8, 9, 10))
def _by_cg(
    logits_fn, params, images, labels, query_images, query_labels, damping, measure, size,
    example_loss, max_iterations, tolerance,
):  # fmt: skip
    floating, fixed = split_params(params)
    microbatches = (_split(images, size), _split(labels, size))

    def logits(floating: Any, images: jax.Array) -> jax.Array:
        return logits_fn(merge_params(floating, fixed), images)

    def curve(vector: Any) -> Any:
        """Returns (G + damping) vector."""

        def add(total: Any, microbatch: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            images, labels = microbatch
            found, moved = jax.jvp(lambda p: logits(p, images), (floating,), (vector,))
            by_logits = jax.vmap(jax.grad(example_loss))
            _, bent = jax.jvp(lambda z: by_logits(z, labels), (found,), (moved,))
            _, pull_back = jax.vjp(lambda p: logits(p, images), floating)
            return jax.tree.map(jnp.add, total, pull_back(bent)[0]), None

        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, vector), microbatches)
        return jax.tree.map(lambda t, v: t / len(images) + damping * v, total, vector)

    def gradient(image: jax.Array, label: jax.Array) -> Any:
        return jax.grad(lambda p: measure(logits(p, image[None])[0], label))(floating)

    def solved(gradient: Any) -> tuple[Any, jax.Array]:
        """Returns the solution over a scale, and the scale.

        The squares of what a memorized query's gradient is would be 0 in float32.
        """
        scale = power_of_two(jax.tree.leaves(gradient))
        solution, _ = jax.scipy.sparse.linalg.cg(
            curve,
            jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), gradient),
            tol=tolerance,
            maxiter=max_iterations,
        )
        return solution, scale

    def slopes(vector: Any) -> jax.Array:
        """Returns [n]: by how much the loss of every example changes along the vector."""

        def of_microbatch(microbatch: tuple[jax.Array, jax.Array]) -> jax.Array:
            images, labels = microbatch

            def losses(floating: Any) -> jax.Array:
                return jax.vmap(example_loss)(logits(floating, images), labels)

            return jax.jvp(losses, (floating,), (vector,))[1]

        return jax.lax.map(of_microbatch, microbatches).reshape(-1)

    # Two maps: the solver takes a batch along the first axis only.
    solutions, scales = jax.vmap(solved)(jax.vmap(gradient)(query_images, query_labels))
    return -jax.vmap(slopes)(solutions) * scales[:, None] / len(images)
