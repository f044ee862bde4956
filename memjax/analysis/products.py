"""Inner products of per-example gradients between two sets (TracIn), and projections (TRAK)."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from memjax import memory
from memjax.analysis._arguments import check_key
from memjax.analysis._ghost.param_uses import find_param_uses
from memjax.analysis._ghost.products import (
    LeafGradient,
    gradient_elements,
    inner_products,
    leaf_gradients,
)
from memjax.analysis._ghost.trace import trace_example
from memjax.analysis._leaves import merge_params, split_params
from memjax.analysis._precision import wide_dtype
from memjax.analysis.gradients import scaled_cotangent
from memjax.analysis.inputs import ExampleLoss, LogitsFn, check_model
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.microbatch import (
    check_microbatch_size,
    check_size,
    examples_at_once,
    over_microbatches,
)
from memjax.errors import InputError


def gradient_products(
    logits_fn: LogitsFn,
    params: Any,
    images_a: jax.Array,
    labels_a: jax.Array,
    images_b: jax.Array,
    labels_b: jax.Array,
    block_size: int | None = None,
    *,
    example_loss: ExampleLoss = softmax_cross_entropy,
) -> jax.Array:
    """Returns the inner product of every gradient of one set with every gradient of another.

    Summed over the checkpoints of a run, times their learning rates, this is TracIn: how much a
    step on example a of training lowered the loss of example b (Pruthi et al. 2020, equation 1).
    The gradient of a dense layer is never formed: its products are <a_i, a_j> <d_i, d_j>. Those of
    other layers are, for one block of each side at a time.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, inference mode.
      params: pytree of arrays; integer leaves, and what is behind `stop_gradient`, count nothing.
      images_a: [n_a ...].
      labels_a: [n_a], integers in [0, classes).
      images_b: [n_b ...]; their gradients are computed again for every block of `images_a`.
      labels_b: [n_b].
      block_size: examples of each side at once; None: as many as keep the memory small. Changes
        nothing but rounding.
      example_loss: `example_loss(logits [classes], label) -> scalar`.

    Returns:
      [n_a n_b], float32 (float64 for a float64 model).

    Raises:
      InputError: as `gradient_norms`, or images of different shapes on the two sides.

    Example:
      >>> def logits_fn(params, images):
      ...     return images @ params
      >>> images, labels = jnp.array([[1.0, 0.0], [1.0, 1.0]]), jnp.array([0, 1])
      >>> gradient_products(logits_fn, jnp.zeros((2, 2)), images, labels, images, labels)
      Array([[ 0.5, -0.5],
             [-0.5,  1. ]], dtype=float32)
    """
    settings: dict[str, Any] = {"example_loss": example_loss, "by_params": True}
    params, images_a, labels_a = check_model(logits_fn, params, images_a, labels_a, **settings)
    params, images_b, labels_b = check_model(logits_fn, params, images_b, labels_b, **settings)
    if images_a.shape[1:] != images_b.shape[1:] or images_a.dtype != images_b.dtype:
        raise InputError(
            "images_b: must have the shape and dtype of images_a without n, "
            f"{images_a.dtype}{images_a.shape[1:]}, not {images_b.dtype}{images_b.shape[1:]}"
        )
    size = None if block_size is None else check_size("block_size", block_size)
    sets = (images_a, labels_a, images_b, labels_b)
    return _gradient_products(logits_fn, params, *sets, size, example_loss)


@functools.partial(jax.jit, static_argnums=(0, 6, 7))
def _gradient_products(
    logits_fn, params, images_a, labels_a, images_b, labels_b, block_size, example_loss
):
    leaves = jax.tree.leaves(params)
    uses = find_param_uses(logits_fn, params, images_a)
    size = examples_at_once(2 * gradient_elements(uses, leaves), block_size)

    @jax.vmap
    def gradients(image: jax.Array, label: jax.Array) -> tuple[list[LeafGradient], jax.Array]:
        traced = trace_example(uses, leaves, image)
        cotangent, scale = scaled_cotangent(example_loss, traced.logits, label)
        return leaf_gradients(uses, traced, cotangent[None]), scale

    def rows(*block_a: jax.Array) -> jax.Array:
        gradients_a, scales_a = gradients(*block_a)

        def columns(*block_b: jax.Array) -> jax.Array:
            gradients_b, scales_b = gradients(*block_b)
            products = inner_products(gradients_b, gradients_a)[:, :, 0, 0]
            return products * scales_b[:, None] * scales_a[None]

        return over_microbatches(columns, images_b, labels_b, microbatch_size=size).T

    return over_microbatches(rows, images_a, labels_a, microbatch_size=size)


def projected_gradients(
    key: jax.Array,
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    dimension: int,
    microbatch_size: int | None = None,
    *,
    example_loss: ExampleLoss = softmax_cross_entropy,
) -> jax.Array:
    """Returns every example's gradient, projected to a few dimensions by random signs.

    Inner products of the projections are those of the gradients in expectation over keys, with a
    standard deviation of at most sqrt(2 / dimension) times the product of the two norms (Johnson
    and Lindenstrauss 1984). They are the features of TRAK (Park et al. 2023), for whatever function
    of the logits `example_loss` is.

    The signs depend on the key and the shapes in `params` alone: the same key projects the
    gradients of another set, or of another checkpoint, alike. They are drawn block by block, and
    gradients formed for a microbatch at a time: neither [n n_params] nor [n_params dimension] is
    ever there.

    Args:
      key: a typed key, for the projection.
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, inference mode.
      params: pytree of arrays.
      images: [n ...].
      labels: [n], integers in [0, classes).
      dimension: k, of the projections.
      microbatch_size: examples whose gradients are formed at once, for which all signs are drawn
        once; None: as many as keep the memory small. Changes nothing but rounding.
      example_loss: `example_loss(logits [classes], label) -> scalar`.

    Returns:
      [n k], float32 (float64 for a float64 model).

    Raises:
      InputError: as `gradient_norms`, or a dimension below 1.

    Example:
      >>> def logits_fn(params, images):
      ...     return images @ params
      >>> images, labels = jnp.eye(2), jnp.array([0, 1])
      >>> arguments = (logits_fn, jnp.zeros((2, 2)), images, labels)
      >>> projected_gradients(jax.random.key(0), *arguments, dimension=5).shape
      (2, 5)
    """
    params, images, labels = check_model(
        logits_fn, params, images, labels, example_loss=example_loss, by_params=True
    )
    dimension = check_size("dimension", dimension)
    size = check_microbatch_size(microbatch_size)
    arguments = (logits_fn, params, images, labels, dimension, size, example_loss)
    return _projected_gradients(check_key(key), *arguments)


@functools.partial(jax.jit, static_argnums=(1, 5, 6, 7))
def _projected_gradients(
    key, logits_fn, params, images, labels, dimension, microbatch_size, example_loss
):
    floating, fixed = split_params(params)

    @jax.vmap
    def gradients(image: jax.Array, label: jax.Array) -> tuple[list[jax.Array], jax.Array]:
        logits, pull_back = jax.vjp(
            lambda floating: logits_fn(merge_params(floating, fixed), image[None])[0], floating
        )
        cotangent, scale = scaled_cotangent(example_loss, logits, label)
        return [leaf.reshape(-1) for leaf in jax.tree.leaves(pull_back(cotangent))], scale

    def projections(images: jax.Array, labels: jax.Array) -> jax.Array:
        leaves, scales = gradients(images, labels)
        keys = jax.random.split(key, len(leaves))
        parts = [_projected(k, leaf, dimension) for k, leaf in zip(keys, leaves, strict=True)]
        return sum(parts[1:], parts[0]) * scales[:, None] / math.sqrt(dimension)

    elements = sum(leaf.size for leaf in jax.tree.leaves(floating))
    size = examples_at_once(elements, microbatch_size)
    return over_microbatches(projections, images, labels, microbatch_size=size)


def _projected(key: jax.Array, vectors: jax.Array, dimension: int) -> jax.Array:
    """Returns vectors [n size] times random signs [size dimension], drawn in blocks of rows."""
    dtype = wide_dtype(vectors.dtype)
    num_vectors, size = vectors.shape
    block = max(1, min(size, memory.working_bytes() // 32 // dimension))
    num_blocks = -(-size // block)
    padded = jnp.pad(vectors.astype(dtype), ((0, 0), (0, num_blocks * block - size)))
    blocks = padded.reshape(num_vectors, num_blocks, block).swapaxes(0, 1)

    def add(total: jax.Array, place_and_block: tuple[jax.Array, jax.Array]):
        place, values = place_and_block
        signs = jax.random.rademacher(jax.random.fold_in(key, place), (block, dimension), dtype)
        return total + jnp.matmul(values, signs, precision="highest"), None

    start = jnp.zeros((num_vectors, dimension), dtype)
    return jax.lax.scan(add, start, (jnp.arange(num_blocks), blocks))[0]
