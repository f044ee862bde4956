"""The step of LASS (Langevin adversarial sample search), usable inside a jitted training step.

Arpit et al. 2017, section 4.1: x~ moves by `step_size * sign(gradient) + noise_scale * normal`, is
clipped to the box, and stops as soon as the predicted class has changed.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from memjax.analysis.losses import label_mask

# The paper's alpha, beta and r are .25, .2 and .3: both steps scale with the radius.
STEP_SIZE_PER_RADIUS = 0.25 / 0.3
NOISE_SCALE_PER_RADIUS = 0.2 / 0.3


def example_keys(key: jax.Array, num_examples: int) -> jax.Array:
    """Returns one key per example, [n]: example i's is the same whatever n is."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(num_examples))


def inner_box(
    images: jax.Array, radius: jax.typing.ArrayLike, clip: tuple | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns the box of max-norm `radius` around each image, rounded inwards.

    Args:
      images: [n ...], float.
      radius: scalar, in the units of `images`.
      clip: (lowest, highest) valid pixel, which the box is cut to, or None.

    Returns:
      (lower, upper), both [n ...]: no point between them is further than `radius` from the image
      even in exact arithmetic.

    Example:
      >>> inner_box(jnp.zeros((1, 2)), 0.5, clip=(0.0, 1.0))[0].tolist()
      [[0.0, 0.0]]
    """
    radius = jnp.asarray(radius, images.dtype)
    lower = jnp.nextafter(images - radius, images)
    upper = jnp.nextafter(images + radius, images)
    if clip is not None:
        lower = jnp.maximum(lower, jnp.asarray(clip[0], images.dtype))
        upper = jnp.minimum(upper, jnp.asarray(clip[1], images.dtype))
    return lower, upper


def lass_objective(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Returns what LASS ascends: the logsumexp of the other logits minus that of `label`.

    Its gradient is that of the cross-entropy of class `label` divided by (1 - probability of
    `label`), so the sign is the same; but it does not vanish where that probability rounds to 1.

    Args:
      logits: [classes], float.
      label: integer scalar, the predicted class of the unmoved image.

    Returns:
      A scalar, negative log odds of `label`.

    Example:
      >>> lass_objective(jnp.array([100.0, 0.0, 0.0]), jnp.int32(0)).round(2)
      Array(-99.31, dtype=float32)
    """
    others = jnp.where(label_mask(logits, label), -jnp.inf, logits)
    return jax.nn.logsumexp(others) - logits[label]


def lass_move(
    key: jax.Array,
    point: jax.Array,
    gradient: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    step_size: jax.Array,
    noise_scale: jax.Array,
) -> jax.Array:
    """Returns one example moved once: a sign step and Gaussian noise, clipped to [lower, upper]."""
    noise = jax.random.normal(key, point.shape, point.dtype)
    return jnp.clip(point + step_size * jnp.sign(gradient) + noise_scale * noise, lower, upper)


def lass_step(
    keys: jax.Array,
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    points: jax.Array,
    labels: jax.Array,
    lower: jax.Array,
    upper: jax.Array,
    step_size: jax.typing.ArrayLike,
    noise_scale: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """Returns `points` after one LASS step; points whose class has already changed stay.

    Pure and jittable; per-example keys, so an example's step does not depend on its batch.

    Args:
      keys: [n], one typed key per example.
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode.
      params: the network's parameters, any pytree.
      points: [n ...], float, inside the box.
      labels: [n], int: the class predicted for the unmoved images (never the true label).
      lower: [n ...], the box's lower corner.
      upper: [n ...], the box's upper corner.
      step_size: scalar, of the sign step, in the units of `points`.
      noise_scale: scalar, standard deviation of the noise, in the units of `points`.

    Returns:
      (points [n ...], changed [n]): the moved points, and whether the class of the given `points`,
      before this step, was already another one.

    Example:
      >>> logits_fn = lambda params, images: images @ params
      >>> points, labels = jnp.array([[1.0, 0.5]]), jnp.array([0])
      >>> keys = example_keys(jax.random.key(0), 1)
      >>> points, changed = lass_step(
      ...     keys, logits_fn, jnp.eye(2), points, labels, points - 1, points + 1, 0.25, 0.0)
      >>> points.tolist(), changed.tolist()
      ([[0.75, 0.75]], [False])
    """

    def total(points):
        logits = logits_fn(params, points)
        # The gradient of the sum is every example's own gradient, and is safe when sharded.
        return jax.vmap(lass_objective)(logits, labels).sum(), logits

    gradients, logits = jax.grad(total, has_aux=True)(points)
    changed = logits.argmax(-1) != labels
    step_size = jnp.asarray(step_size, points.dtype)
    noise_scale = jnp.asarray(noise_scale, points.dtype)
    moved = jax.vmap(lass_move, (0, 0, 0, 0, 0, None, None))(
        keys, points, gradients, lower, upper, step_size, noise_scale
    )
    return jax.vmap(jnp.where)(changed, points, moved), changed


def lass_samples(
    key: jax.Array,
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    radius: jax.typing.ArrayLike,
    num_steps: int,
    step_size: jax.typing.ArrayLike | None = None,
    noise_scale: jax.typing.ArrayLike | None = None,
    *,
    clip: tuple[float, float] | None = None,
) -> jax.Array:
    """Returns LASS samples after a fixed number of steps, for adversarial training (Figure 10).

    Pure and jittable, with no gradient through the search: call it inside a training step. An
    example stays where its class first changed. For measuring, `memjax.analysis.critical.lass`
    gives the same points and drops the finished examples from the work.

    Args:
      key: typed key; example i uses fold_in(fold_in(key, i), step).
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode.
      params: the network's parameters, any pytree.
      images: [n ...], float.
      radius: scalar, max-norm radius of the box, in the units of `images`.
      num_steps: how many steps.
      step_size: scalar, in the units of `images`; None: radius * .25 / .3.
      noise_scale: scalar, in the units of `images`; None: radius * .2 / .3.
      clip: (lowest, highest) valid pixel, which the box is cut to, or None.

    Returns:
      [n ...] points within `radius` of `images`.

    Example:
      >>> logits_fn = lambda params, images: images @ params
      >>> images = jnp.array([[0.6, 0.5], [0.9, 0.1]])
      >>> samples = lass_samples(jax.random.key(0), logits_fn, jnp.eye(2), images, 0.1, 20)
      >>> logits_fn(jnp.eye(2), samples).argmax(-1).tolist()
      [1, 0]
    """
    step_size = radius * STEP_SIZE_PER_RADIUS if step_size is None else step_size
    noise_scale = radius * NOISE_SCALE_PER_RADIUS if noise_scale is None else noise_scale
    images = jax.lax.stop_gradient(images)
    params = jax.lax.stop_gradient(params)
    lower, upper = inner_box(images, radius, clip)
    labels = logits_fn(params, images).argmax(-1)
    keys = example_keys(key, images.shape[0])

    def step(points, index):
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        points, _ = lass_step(
            step_keys, logits_fn, params, points, labels, lower, upper, step_size, noise_scale
        )
        return points, None

    return jax.lax.scan(step, images, jnp.arange(num_steps))[0]
