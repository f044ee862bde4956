"""Sharpness of the loss around a network: the extreme Hessian eigenvalue and the Hessian trace.

The Hessian is that of the mean loss over the examples, with respect to every floating-point leaf of
`params`; leaves behind `stop_gradient` add zero rows. It is never formed: everything is built from
Hessian-vector products, forward mode over reverse mode.

Source: Arpit et al. (workshop version, 2017) take the largest-magnitude eigenvalue as sharpness.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax import memory
from memjax.analysis._arguments import check_key
from memjax.analysis._jaxprs import inlined_jaxpr, num_values
from memjax.analysis._lanczos import inner, lanczos, random_like
from memjax.analysis._leaves import merge_params, split_params
from memjax.analysis.inputs import ExampleLoss, LogitsFn, check_model
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.microbatch import (
    check_microbatch_size,
    check_size,
    examples_at_once,
    microbatch_shape,
    pad_examples,
)


class HessianEigenvalue(NamedTuple):
    """The Hessian eigenvalue of the largest magnitude.

    Attributes:
      eigenvalue: scalar, with its sign, in units of loss / params^2.
      residual: scalar, |H v - eigenvalue v| of the unit Ritz vector v: some eigenvalue of H lies
        within this distance, and the error is usually near its square over the spectral gap.
      num_iterations: int32 scalar; the Hessian-vector products it took.
    """

    eigenvalue: jax.Array
    residual: jax.Array
    num_iterations: jax.Array


class HessianTrace(NamedTuple):
    """The trace of the Hessian, estimated.

    Attributes:
      trace: scalar, in units of loss / params^2.
      standard_error: scalar, of the trace, over the probes.
    """

    trace: jax.Array
    standard_error: jax.Array


def hessian_eigenvalue(
    key: jax.Array,
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    num_iterations: int = 50,
    tolerance: float = 1e-3,
    microbatch_size: int | None = None,
    example_loss: ExampleLoss = softmax_cross_entropy,
) -> HessianEigenvalue:
    """Returns the largest-magnitude eigenvalue of the Hessian of the mean loss, by Lanczos.

    Lanczos with full reorthogonalisation, from a random start, until the residual is at most
    `tolerance` times the eigenvalue's magnitude or `num_iterations` products are done: look at
    `residual`. Memory holds `num_iterations` vectors of the size of `params`.

    Args:
      key: a typed key, for the start vector.
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode.
      params: a pytree; integer and bool leaves stay as they are.
      images: [n ...].
      labels: [n], integer.
      num_iterations: the most Hessian-vector products.
      tolerance: relative residual at which to stop.
      microbatch_size: the most examples to differentiate at once. By default all, linearised once
        for all iterations, where the memory holds the activations of all examples; else as many
        as fit, again for every product. Changes nothing but rounding.
      example_loss: (logits [classes], label) -> scalar.

    Returns:
      A `HessianEigenvalue`.

    Raises:
      InputError: `params` without a derivative, no examples, labels that are no classes, logits
        that mix the examples, or a size below 1.

    Example:
      >>> def logits_fn(params, images):
      ...     return images @ params
      >>> def squared_error(logits, label):
      ...     return 0.5 * (logits[0] - label) ** 2
      >>> images, labels = jnp.array([[2.0, 0.0], [0.0, 4.0]]), jnp.array([0, 1])
      >>> hessian_eigenvalue(jax.random.key(0), logits_fn, jnp.zeros((2, 1)), images, labels,
      ...                    example_loss=squared_error).eigenvalue.round(4)
      Array(8., dtype=float32)
    """
    size = check_size("num_iterations", num_iterations)
    arguments, settings = _checked(logits_fn, params, images, labels, microbatch_size, example_loss)
    return _eigenvalue(check_key(key), *arguments, tolerance, num_iterations=size, **settings)


def _checked(
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    microbatch_size: int | None,
    example_loss: ExampleLoss,
) -> tuple[tuple, dict[str, Any]]:
    """Returns the arrays, and what a program is compiled for."""
    arrays = check_model(
        logits_fn,
        params,
        images,
        labels,
        example_loss=example_loss,
        by_params=True,
        one_device=False,
    )
    size = check_microbatch_size(microbatch_size)
    static = {"logits_fn": logits_fn, "microbatch_size": size, "example_loss": example_loss}
    return tuple(arrays), static


_STATIC = ("logits_fn", "microbatch_size", "example_loss")


@functools.partial(jax.jit, static_argnames=(*_STATIC, "num_iterations"))
def _eigenvalue(
    key: jax.Array,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    tolerance: float,
    *,
    num_iterations: int,
    logits_fn: LogitsFn,
    microbatch_size: int | None,
    example_loss: ExampleLoss,
) -> HessianEigenvalue:
    weights, hessian_product = _hessian_product(
        logits_fn, params, images, labels, microbatch_size, example_loss
    )
    size = sum(leaf.size for leaf in weights)
    return HessianEigenvalue(
        *lanczos(key, hessian_product, weights, min(num_iterations, size), tolerance)
    )


def hessian_trace(
    key: jax.Array,
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    num_probes: int = 100,
    microbatch_size: int | None = None,
    example_loss: ExampleLoss = softmax_cross_entropy,
) -> HessianTrace:
    """Returns the trace of the Hessian of the mean loss, by Hutchinson's estimator.

    The mean of v^T H v over random sign vectors v, which is unbiased; its variance is twice the
    sum of the squared off-diagonal entries of H, over the number of probes.

    Source: Hutchinson 1990.

    Args:
      key: a typed key, for the probes.
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode.
      params: a pytree; integer and bool leaves stay as they are.
      images: [n ...].
      labels: [n], integer.
      num_probes: number of Hessian-vector products, at least 2.
      microbatch_size: how many examples are differentiated at once; see `hessian_eigenvalue`.
      example_loss: (logits [classes], label) -> scalar.

    Returns:
      A `HessianTrace`.

    Raises:
      InputError: as of `hessian_eigenvalue`, or a size out of range.

    Example:
      >>> def logits_fn(params, images):
      ...     return images @ params
      >>> def squared_error(logits, label):
      ...     return 0.5 * (logits[0] - label) ** 2
      >>> images, labels = jnp.array([[2.0, 0.0], [0.0, 4.0]]), jnp.array([0, 1])
      >>> hessian_trace(jax.random.key(0), logits_fn, jnp.zeros((2, 1)), images, labels,
      ...               example_loss=squared_error)
      HessianTrace(trace=Array(10., dtype=float32), standard_error=Array(0., dtype=float32))
    """
    count = check_size("num_probes", num_probes, at_least=2)
    arguments, settings = _checked(logits_fn, params, images, labels, microbatch_size, example_loss)
    return _trace(check_key(key), *arguments, num_probes=count, **settings)


@functools.partial(jax.jit, static_argnames=(*_STATIC, "num_probes"))
def _trace(
    key: jax.Array,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    *,
    num_probes: int,
    logits_fn: LogitsFn,
    microbatch_size: int | None,
    example_loss: ExampleLoss,
) -> HessianTrace:
    weights, hessian_product = _hessian_product(
        logits_fn, params, images, labels, microbatch_size, example_loss
    )

    def quadratic_form(probe_key: jax.Array) -> jax.Array:
        probe = random_like(jax.random.rademacher, probe_key, weights)
        return inner(probe, hessian_product(probe))

    forms = jax.lax.map(quadratic_form, jax.random.split(key, num_probes))
    return HessianTrace(forms.mean(), forms.std(ddof=1) / num_probes**0.5)


def _hessian_product(
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    microbatch_size: int | None,
    example_loss: ExampleLoss,
) -> tuple[list[jax.Array], Callable[[list[jax.Array]], list[jax.Array]]]:
    """Returns the differentiable leaves and v -> H v over lists of arrays like them."""
    n = images.shape[0]
    floating, fixed = split_params(params)
    weights, structure = jax.tree.flatten(floating)

    def share_of_mean_loss(
        weights: list[jax.Array], images: jax.Array, labels: jax.Array, counts: jax.Array
    ) -> jax.Array:
        logits = logits_fn(merge_params(jax.tree.unflatten(structure, weights), fixed), images)
        losses = jax.vmap(example_loss)(logits, labels)
        return (losses * counts.astype(losses.dtype)).sum() / n

    gradient = jax.grad(share_of_mean_loss)
    if microbatch_size is None:
        microbatch_size = _as_many_as_fit(logits_fn, params, images)
    if microbatch_size >= n:
        counts = jnp.ones(n)
        return weights, jax.linearize(lambda w: gradient(w, images, labels, counts), weights)[1]
    microbatches = _microbatches(images, labels, microbatch_size)

    def product(vector: list[jax.Array]) -> list[jax.Array]:
        def add(total: list[jax.Array], batch: tuple) -> tuple[list[jax.Array], None]:
            _, part = jax.jvp(lambda w: gradient(w, *batch), (weights,), (vector,))
            return jax.tree.map(jnp.add, total, part), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, weights), microbatches)[0]

    return weights, product


def _as_many_as_fit(logits_fn: LogitsFn, params: Any, images: jax.Array) -> int:
    """Returns n where the activations of all examples fit, else the size of a microbatch."""
    one_image = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    # Values, tangents, and the same of the backward pass.
    elements = 4 * num_values(inlined_jaxpr(logits_fn, params, one_image))
    if 4 * elements * images.shape[0] <= memory.memory_budget() // 4:
        return images.shape[0]
    return examples_at_once(elements)


def _microbatches(
    images: jax.Array, labels: jax.Array, size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cuts the examples into [batches size ...], with a count of 0 for those that are padding."""
    n = images.shape[0]
    num_batches, size = microbatch_shape(n, size)

    def cut(values: jax.Array) -> jax.Array:
        values = pad_examples(values, size * num_batches)
        # Strided batches: every device that holds a block of the examples works on each of them.
        return values.reshape(size, num_batches, *values.shape[1:]).swapaxes(0, 1)

    counts = (jnp.arange(size * num_batches) < n).astype(jnp.float32)
    return cut(images), cut(labels), counts.reshape(size, num_batches).T
