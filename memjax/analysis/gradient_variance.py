"""How much the gradient of an example's logit by its image changes over training (VoG).

Agarwal, D'souza and Hooker 2022, "Estimating example difficulty using variance of gradients".
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from memjax.analysis._precision import widened
from memjax.analysis.inputs import LogitsFn, check_model
from memjax.analysis.microbatch import check_microbatch_size, over_microbatches
from memjax.errors import InputError


def label_logit_gradients(
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    microbatch_size: int | None = None,
) -> jax.Array:
    """Returns the gradient of the logit of every example's label with respect to its image.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, inference mode.
      params: pytree of arrays.
      images: [n ...], float.
      labels: [n], integers in [0, classes).
      microbatch_size: examples computed at once; None for all. Changes nothing but rounding.

    Returns:
      [n ...], float32 (float64 for a float64 model).

    Raises:
      InputError: as `memjax.analysis.input_gradients.input_gradient_norms`.

    Example:
      >>> logits_fn = lambda params, images: images @ params
      >>> label_logit_gradients(logits_fn, jnp.array([[1.0, 2.0]]), jnp.ones((1, 1)), [1]).tolist()
      [[2.0]]
    """
    params, images, labels = check_model(logits_fn, params, images, labels, by_images=True)
    size = check_microbatch_size(microbatch_size)
    return _label_logit_gradients(logits_fn, params, images, labels, size)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _label_logit_gradients(logits_fn, params, images, labels, microbatch_size):
    def gradients(images: jax.Array, labels: jax.Array) -> jax.Array:
        logits, pull_back = jax.vjp(functools.partial(logits_fn, params), images)
        (found,) = pull_back(jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype))
        return widened(found)

    return over_microbatches(gradients, images, labels, microbatch_size=microbatch_size)


def variance_of_gradients(gradients: Iterable[jax.Array]) -> jax.Array:
    """Returns how much the gradients of each example vary over checkpoints.

    Of every pixel the standard deviation over the checkpoints, then the mean over the pixels.
    (The paper calls it a variance and takes the root.) One checkpoint is in memory at a time.

    Args:
      gradients: of each checkpoint in turn, [n ...], as `label_logit_gradients` returns them; of
        the same examples.

    Returns:
      [n].

    Raises:
      InputError: fewer than two checkpoints, or of different shapes.

    Example:
      >>> variance_of_gradients([jnp.array([[1.0, 0.0]]), jnp.array([[3.0, 0.0]])]).tolist()
      [0.5]
    """
    count, mean, squares = 0, jnp.zeros(()), jnp.zeros(())
    for found in map(jnp.asarray, gradients):
        if not found.ndim or (count and found.shape != mean.shape):
            wanted = list(mean.shape) if count else "[n ...]"
            raise InputError(f"gradients: {list(found.shape)} at checkpoint {count}, not {wanted}")
        count += 1
        moved = found - mean
        mean = mean + moved / count
        squares = squares + moved * (found - mean)
    if count < 2:
        raise InputError(f"gradients: {count} checkpoints, at least 2 are needed")
    spread = jnp.sqrt(squares / count)
    return spread.reshape(len(spread), -1).mean(axis=1)


def within_classes(values: ArrayLike, classes: ArrayLike) -> np.ndarray:
    """Returns values in standard deviations from the mean of their class.

    Args:
      values: [n].
      classes: [n], integers.

    Returns:
      float64 [n]; 0 where all of a class are equal.

    Example:
      >>> within_classes([1.0, 3.0, 7.0], [0, 0, 1]).tolist()
      [-1.0, 1.0, 0.0]
    """
    values, classes = np.asarray(values, np.float64), np.asarray(classes)
    scores = np.zeros(len(values))
    for each in np.unique(classes):
        is_own = classes == each
        spread = values[is_own].std()
        if spread > 0:
            scores[is_own] = (values[is_own] - values[is_own].mean()) / spread
    return scores
