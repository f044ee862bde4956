"""Gradient and curvature of single examples' losses with respect to their images."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from memjax.analysis._arguments import check_key, check_number
from memjax.analysis._precision import largest_magnitude, scaled_norm, wide_dtype, widened
from memjax.analysis.gradients import scaled_cotangent
from memjax.analysis.inputs import ExampleLoss, LogitsFn, check_model
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.microbatch import check_microbatch_size, check_size, over_microbatches


def input_gradient_norms(
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    microbatch_size: int | None = None,
    *,
    example_loss: ExampleLoss = softmax_cross_entropy,
) -> jax.Array:
    """Returns the l2 norm of the gradient of every example's loss with respect to its image.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, inference mode.
      params: pytree of arrays.
      images: [n ...], float.
      labels: [n], integers in [0, classes).
      microbatch_size: examples computed at once; None for all. Changes nothing but rounding.
      example_loss: `example_loss(logits [classes], label) -> scalar`.

    Returns:
      [n], float32 (float64 for a float64 model): nats for each unit of `images`. Memorized
      examples keep their relative precision.

    Raises:
      InputError: images that are not float, labels that are no classes, logits that mix the
        examples, or arrays of different lengths.

    Example:
      >>> def logits_fn(params, images):
      ...     return images @ params
      >>> images = jnp.zeros((1, 2))
      >>> input_gradient_norms(logits_fn, jnp.array([[3.0, 0.0], [4.0, 0.0]]), images, [0])
      Array([2.5], dtype=float32)
    """
    params, images, labels = check_model(
        logits_fn, params, images, labels, example_loss=example_loss, by_images=True
    )
    size = check_microbatch_size(microbatch_size)
    return _input_gradient_norms(logits_fn, params, images, labels, size, example_loss)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _input_gradient_norms(logits_fn, params, images, labels, microbatch_size, example_loss):
    def norms(images: jax.Array, labels: jax.Array) -> jax.Array:
        logits, pull_back = jax.vjp(functools.partial(logits_fn, params), images)
        cotangents, scales = jax.vmap(functools.partial(scaled_cotangent, example_loss))(
            logits, labels
        )
        (gradients,) = pull_back(cotangents)
        return scales * jax.vmap(scaled_norm)(widened(gradients))

    return over_microbatches(norms, images, labels, microbatch_size=microbatch_size)


def input_loss_curvature(
    key: jax.Array,
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    num_probes: int = 10,
    step_size: float | None = None,
    microbatch_size: int | None = None,
    *,
    example_loss: ExampleLoss = softmax_cross_entropy,
) -> jax.Array:
    """Returns how curved every example's loss is around its image: a score of memorization.

    The root mean square of |H v| over random sign vectors v, where H is the Hessian of the loss
    with respect to the image; it estimates the Frobenius norm of H, the root of the trace of H H.
    Garg et al. 2023, "Memorization through the lens of curvature of loss function around samples",
    take H v from two gradients `step_size` apart, [gradient(x + step v) - gradient(x)] / step, and
    rank by the mean square; averaged over the epochs of training it finds mislabelled and memorized
    examples.

    Args:
      key: a typed key, for the probes; every example has its own. Or [n] keys, those themselves.
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, inference mode.
      params: pytree of arrays.
      images: [n ...], float.
      labels: [n], integers in [0, classes).
      num_probes: sign vectors for each example.
      step_size: None for the exact product H v; otherwise how far apart the two gradients are, in
        units of `images` (a ReLU network has kinks that only a finite step sees).
      microbatch_size: examples computed at once; None for all. Changes nothing but rounding.
      example_loss: `example_loss(logits [classes], label) -> scalar`.

    Returns:
      [n], float32 (float64 for a float64 model): nats for each squared unit of `images`.

    Raises:
      InputError: as `input_gradient_norms`, a size below 1, or a step that is not above 0.

    Example:
      >>> def logits_fn(params, images):
      ...     return images @ params
      >>> def squared(logits, label):
      ...     return jnp.sum(logits**2) / 2
      >>> input_loss_curvature(jax.random.key(0), logits_fn, 3 * jnp.eye(4), jnp.ones((1, 4)), [0],
      ...                      example_loss=squared)
      Array([18.], dtype=float32)
    """
    params, images, labels = check_model(
        logits_fn, params, images, labels, example_loss=example_loss, by_images=True
    )
    count, size = check_size("num_probes", num_probes), check_microbatch_size(microbatch_size)
    if step_size is not None:
        check_number("step_size", step_size, above=0)
    key = check_key(key, len(images))
    arguments = (logits_fn, params, images, labels, step_size, count, size, example_loss)
    return _input_loss_curvature(key, *arguments)


@functools.partial(jax.jit, static_argnums=(1, 6, 7, 8))
def _input_loss_curvature(
    key, logits_fn, params, images, labels, step_size, num_probes, microbatch_size, example_loss
):
    def curvature(key: jax.Array, image: jax.Array, label: jax.Array) -> jax.Array:
        def logits_of(image: jax.Array) -> jax.Array:
            return logits_fn(params, image[None])[0]

        _, scale = scaled_cotangent(example_loss, logits_of(image), label)

        def scaled_loss(image: jax.Array) -> jax.Array:
            return example_loss(widened(logits_of(image)), label) / scale

        gradient = jax.grad(scaled_loss)

        def product(probe: jax.Array) -> jax.Array:
            if step_size is None:
                return jax.jvp(gradient, (image,), (probe,))[1]
            step = jnp.asarray(step_size, image.dtype)
            return (gradient(image + step * probe) - gradient(image)) / step

        probes = jax.random.rademacher(key, (num_probes, *image.shape), image.dtype)
        products = widened(jax.lax.map(product, probes))
        largest = largest_magnitude(products)
        total = jnp.sum(jnp.square(products / largest)) / num_probes
        return scale.astype(wide_dtype(products.dtype)) * largest * jnp.sqrt(total)

    keys = key if key.ndim else jax.random.split(key, len(images))
    return over_microbatches(
        jax.vmap(curvature), keys, images, labels, microbatch_size=microbatch_size
    )
