"""Gradients of single examples, and their norms (GraNd, Paul et al. 2021)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from memjax.analysis.example_mixing import check_examples_independent
from memjax.analysis.ghost import elements_per_example, squared_norm, trace_example
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.microbatch import check_on_one_device, examples_at_once, over_microbatches
from memjax.analysis.param_uses import find_param_uses
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
      params: pytree of float arrays.
      images: [n ...].
      labels: [n].
      microbatch_size: examples computed at once; None for all. Changes nothing but rounding.

    Returns:
      A pytree like `params`, every leaf with a leading axis n. It is n times as large as `params`:
      for norms alone, use `gradient_norms`.

    Raises:
      InputError: images and labels differ in length, are empty, or are sharded over devices.

    Example:
      >>> def loss_fn(params, image, label):
      ...     return (params @ image - label) ** 2
      >>> images = jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> per_example_gradients(loss_fn, jnp.ones(2), images, jnp.zeros(2))
      Array([[2., 0.],
             [0., 8.]], dtype=float32)
    """
    check_on_one_device(images, labels)
    return _per_example_gradients(loss_fn, params, images, labels, microbatch_size)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _per_example_gradients(loss_fn, params, images, labels, microbatch_size):
    gradient = jax.vmap(jax.grad(loss_fn), in_axes=(None, 0, 0))
    return over_microbatches(
        functools.partial(gradient, params), images, labels, microbatch_size=microbatch_size
    )


def gradient_norms(
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    method: str = "auto",
    microbatch_size: int | None = None,
    *,
    example_loss: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
) -> jax.Array:
    """Returns the norm of every example's gradient with respect to all parameters.

    At initialisation, averaged over seeds, this is the GraNd score (Paul et al. 2021, "Deep
    learning on a data diet"). The kernels of dense and convolution layers are found in the jaxpr
    of `logits_fn`, and their gradients are never formed where activations and cotangents give the
    norm for less; offsets and scales cost next to nothing. Any other use of a parameter (a scan, a
    normalised weight) is differentiated example by example, for that parameter alone.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, any JAX model in
        inference mode. Every image's logits must depend on that image alone. Compiled once for
        each function object: pass the same one again, not a new lambda.
      params: pytree of arrays; integer leaves, and what is behind `stop_gradient`, count nothing.
      images: [n ...].
      labels: [n].
      method: "ghost" as above, but an error where a parameter would need its gradients formed;
        "vmap" forms all gradients, a microbatch at a time (slow, simple, the reference);
        "auto" as above.
      microbatch_size: examples computed at once; None: as many as keep the memory small. Changes
        nothing but rounding.
      example_loss: `example_loss(logits [classes], label) -> scalar`.

    Returns:
      [n] norms, float32 (float64 for a float64 model).

    Raises:
      InputError: an unknown method; images and labels that differ in length, are empty or sharded
        over devices; logits that mix the examples (BatchNorm in training mode), as far as the jaxpr
        shows it; "ghost" for a model with a parameter it does not know how to treat.

    Example:
      >>> def logits_fn(params, images):
      ...     return images @ params["kernel"] + params["bias"]
      >>> params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros((1, 2))}
      >>> images = jnp.array([[0.0, 0.0], [3.0, 4.0]])
      >>> print(gradient_norms(logits_fn, params, images, jnp.array([0, 1])).round(2))
      [0.71 3.61]
    """
    if method not in ("auto", "ghost", "vmap"):
        raise InputError(f"method: {method!r} is unknown; it is 'auto', 'ghost' or 'vmap'")
    check_on_one_device(images, labels)
    return _gradient_norms(logits_fn, params, images, labels, method, microbatch_size, example_loss)


@functools.partial(jax.jit, static_argnums=(0, 4, 5, 6))
def _gradient_norms(logits_fn, params, images, labels, method, microbatch_size, example_loss):
    check_examples_independent(logits_fn, params, images)
    leaves = jax.tree.leaves(params)
    if method == "vmap":
        elements = sum(leaf.size for leaf in leaves)

        def norm(image: jax.Array, label: jax.Array) -> jax.Array:
            return _plain_gradient_norm(logits_fn, params, image, label, example_loss)
    else:
        uses = find_param_uses(logits_fn, params, images)
        if method == "ghost" and uses.other:
            raise InputError(_unknown_uses(params, uses.other))
        elements = elements_per_example(uses, leaves)

        def norm(image: jax.Array, label: jax.Array) -> jax.Array:
            traced = trace_example(uses, leaves, image)
            cotangent = jax.grad(example_loss)(traced.logits, label)
            return jnp.sqrt(squared_norm(uses, traced, cotangent))

    return over_microbatches(
        jax.vmap(norm),
        images,
        labels,
        microbatch_size=examples_at_once(elements, microbatch_size),
    )


def _plain_gradient_norm(logits_fn, params, image, label, example_loss):
    leaves, structure = jax.tree.flatten(params)
    floats = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def loss(float_leaves: list[jax.Array]) -> jax.Array:
        replaced = dict(zip(floats, float_leaves, strict=True))
        merged = [replaced.get(i, leaf) for i, leaf in enumerate(leaves)]
        (logits,) = logits_fn(jax.tree.unflatten(structure, merged), image[None])
        return example_loss(logits, label)

    gradients = jax.grad(loss)([leaves[i] for i in floats])
    squares = [
        jnp.sum(jnp.square(g.astype(jnp.promote_types(g.dtype, jnp.float32)))) for g in gradients
    ]
    return jnp.sqrt(sum(squares))


def _unknown_uses(params: Any, other: dict[int, str]) -> str:
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    found = ", ".join(f"params{names[leaf]} in {primitive!r}" for leaf, primitive in other.items())
    return f"method: 'ghost' does not know how to treat {found}; use 'auto'"
