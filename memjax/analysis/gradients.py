"""Gradients of single examples, and their norms (GraNd, Paul et al. 2021)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from memjax.analysis._ghost.kernels import ParamUses
from memjax.analysis._ghost.norms import elements_per_example, leaf_norms
from memjax.analysis._ghost.param_uses import find_param_uses
from memjax.analysis._ghost.trace import trace_example
from memjax.analysis._leaves import is_floating, merge_params, split_params
from memjax.analysis._precision import (
    largest_magnitude,
    scaled_norm,
    widened,
    widened_norm,
)
from memjax.analysis.inputs import ExampleLoss, LogitsFn, as_array, check_model, check_params
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.microbatch import (
    check_lengths,
    check_microbatch_size,
    check_on_one_device,
    examples_at_once,
    over_microbatches,
)
from memjax.errors import InputError


def per_example_gradients(
    loss_fn: Callable[[Any, jax.Array, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    microbatch_size: int | None = None,
) -> Any:
    """Returns the gradient of every example's loss with respect to the parameters.

    Args:
      loss_fn: `loss_fn(params, image, label) -> scalar`, for ONE example.
      params: pytree of arrays; the gradient of an integer leaf is 0.
      images: [n ...].
      labels: [n ...], given to `loss_fn` one by one.
      microbatch_size: examples computed at once; None for all. Changes nothing but rounding.

    Returns:
      A pytree like `params`, every leaf with a leading axis n. It is n times as large as `params`:
      for norms alone, use `gradient_norms`.

    Raises:
      InputError: images and labels differ in length, are empty, or are sharded over devices; no
        leaf of `params` is floating, or one is complex; the loss is no float scalar.

    Example:
      >>> def loss_fn(params, image, label):
      ...     return (params @ image - label) ** 2
      >>> images = jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> per_example_gradients(loss_fn, jnp.ones(2), images, jnp.zeros(2))
      Array([[2., 0.],
             [0., 8.]], dtype=float32)
    """
    params = check_params(params)
    images, labels = as_array("images", images), as_array("labels", labels)
    check_lengths(images, labels)
    check_on_one_device(images, labels)
    if not any(is_floating(leaf) for leaf in jax.tree.leaves(params)):
        raise InputError("params: no leaf of params is floating, so none has a derivative")
    size = check_microbatch_size(microbatch_size)
    return _per_example_gradients(loss_fn, params, images, labels, size)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _per_example_gradients(loss_fn, params, images, labels, microbatch_size):
    floating, fixed = split_params(params)

    def loss(floating: Any, image: jax.Array, label: jax.Array) -> jax.Array:
        value = loss_fn(merge_params(floating, fixed), image, label)
        if jnp.shape(value) or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise InputError(f"loss_fn: must return one float for one example, not {value}")
        return value

    gradient = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))
    gradients = over_microbatches(
        functools.partial(gradient, floating), images, labels, microbatch_size=microbatch_size
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros((len(images), *leaf.shape), leaf.dtype), fixed)
    return merge_params(gradients, zeros)


def gradient_norms(
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    method: str = "auto",
    microbatch_size: int | None = None,
    *,
    by_leaf: bool = False,
    with_logits: bool = False,
    example_loss: ExampleLoss = softmax_cross_entropy,
) -> Any:
    """Returns the norm of every example's gradient with respect to all parameters.

    At initialisation, averaged over seeds, this is the GraNd score (Paul et al. 2021, "Deep
    learning on a data diet"). The kernels of dense and convolution layers and the tables of
    embeddings, in scans too, are found in the jaxpr of `logits_fn`, and their gradients are never
    formed where activations and cotangents give the norm for less; offsets and scales cost next to
    nothing. Any other use of a parameter (a product of parameters, a cond) is differentiated
    example by example, for that parameter alone.

    The norms of memorized examples keep their relative precision: up to a margin of 80 and more.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, any JAX model in
        inference mode. Every image's logits must depend on that image alone. Compiled once for
        each function object: pass the same one again, not a new lambda.
      params: pytree of arrays; integer leaves, and what is behind `stop_gradient`, count nothing.
      images: [n ...].
      labels: [n], integers in [0, classes).
      method: "ghost" as above, but an error where a parameter would need its gradients formed;
        "vmap" forms all gradients, a microbatch at a time (slow, simple, the reference);
        "auto" as above.
      microbatch_size: examples computed at once; None: as many as keep the memory small. Changes
        nothing but rounding.
      by_leaf: whether to return the norm by each leaf of `params` instead of by all of them.
      with_logits: whether to return the logits as well, which are computed on the way.
      example_loss: `example_loss(logits [classes], label) -> scalar`.

    Returns:
      [n] norms, float32 (float64 for a float64 model); with `by_leaf` a pytree like `params` of
      [n] norms, 0 by a leaf without a derivative. With `with_logits` a pair: that, and the logits
      [n classes].

    Raises:
      InputError: an unknown method; images and labels that differ in length, are empty or sharded
        over devices; labels that are no classes (as far as they are concrete; the norm of a traced
        one is nan); logits that mix the examples (BatchNorm in training mode); `params` without a
        derivative; "ghost" for a model with a parameter it does not know how to treat.

    Example:
      >>> def logits_fn(params, images):
      ...     return images @ params["kernel"] + params["bias"]
      >>> params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros((1, 2))}
      >>> images = jnp.array([[0.0, 0.0], [3.0, 4.0]])
      >>> print(gradient_norms(logits_fn, params, images, jnp.array([0, 1])).round(2))
      [0.71 3.61]
      >>> norms = gradient_norms(logits_fn, params, images, jnp.array([0, 1]), by_leaf=True)
      >>> print(norms["kernel"].round(2))
      [0.   3.54]
    """
    if method not in ("auto", "ghost", "vmap"):
        raise InputError(f"method: {method!r} is unknown; it is 'auto', 'ghost' or 'vmap'")
    params, images, labels = check_model(
        logits_fn, params, images, labels, example_loss=example_loss, by_params=True
    )
    size = check_microbatch_size(microbatch_size)
    arguments = (logits_fn, params, images, labels, method, size, bool(by_leaf), example_loss)
    norms, logits = _gradient_norms(*arguments, bool(with_logits))
    return (norms, logits) if with_logits else norms


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6, 7, 8))
def _gradient_norms(
    logits_fn, params, images, labels, method, microbatch_size, by_leaf, example_loss, with_logits
):
    leaves, structure = jax.tree.flatten(params)
    if method == "vmap":
        elements = sum(leaf.size for leaf in leaves)

        def norms(image: jax.Array, label: jax.Array) -> Any:
            found = _plain_gradient_norms(logits_fn, params, image, label, example_loss)
            return found, logits_fn(params, image[None])[0] if with_logits else None
    else:
        uses = find_param_uses(logits_fn, params, images)
        if method == "ghost":
            _check_no_gradient_is_formed(params, uses)
        elements = elements_per_example(uses, leaves)

        def norms(image: jax.Array, label: jax.Array) -> Any:
            traced = trace_example(uses, leaves, image)
            cotangent, scale = scaled_cotangent(example_loss, traced.logits, label)
            norms = leaf_norms(uses, traced, cotangent)
            found = {leaf: scale * norm for leaf, norm in norms.items()}
            return found, traced.logits if with_logits else None

    def wanted(image: jax.Array, label: jax.Array) -> Any:
        found, logits = norms(image, label)
        if not by_leaf:
            return scaled_norm(jnp.stack(list(found.values()))), logits
        zero = jnp.zeros_like(next(iter(found.values())))
        by_leaves = [found.get(leaf, zero) for leaf in range(len(leaves))]
        return jax.tree.unflatten(structure, by_leaves), logits

    return over_microbatches(
        jax.vmap(wanted),
        images,
        labels,
        microbatch_size=examples_at_once(elements, microbatch_size),
    )


def scaled_cotangent(
    example_loss: ExampleLoss, logits: jax.Array, label: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the derivative of the loss by the logits over its largest entry, and that entry.

    Pulling back is linear, so what comes out is that of the scaled loss; squares of the derivatives
    of a memorized example would be 0 in float32.
    """
    derivative = jax.grad(lambda logits: example_loss(logits, label))(widened(logits))
    scale = largest_magnitude(derivative)
    return (derivative / scale).astype(logits.dtype), scale


def _plain_gradient_norms(logits_fn, params, image, label, example_loss):
    floating, fixed = split_params(params)
    logits, pull_back = jax.vjp(
        lambda floating: logits_fn(merge_params(floating, fixed), image[None])[0], floating
    )
    cotangent, scale = scaled_cotangent(example_loss, logits, label)
    (gradients,) = pull_back(cotangent)
    places = [i for i, leaf in enumerate(jax.tree.leaves(params)) if is_floating(leaf)]
    each = zip(places, jax.tree.leaves(gradients), strict=True)
    return {i: scale * widened_norm(g) for i, g in each}


def _check_no_gradient_is_formed(params: Any, uses: ParamUses) -> None:
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    found = [f"params{names[leaf]} in {primitive!r}" for leaf, primitive in uses.other.items()]
    found += [f"params{names[leaf]} in several ways at once" for leaf in sorted(uses.shared)]
    if found:
        raise InputError(
            f"method: 'ghost' does not know how to treat {', '.join(found)}; use 'auto'"
        )
