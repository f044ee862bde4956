"""How hard each example is: over the members of an ensemble, and over training.

The arrays are what an analysis pass collects, with the examples last and the checkpoints first:
`correct` [checkpoints members n]. Any axes may stand between, so one network is [checkpoints n].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis._precision import widened
from memjax.analysis.inputs import check_logits
from memjax.analysis.scores import margin
from memjax.errors import InputError


class FirstLearned(NamedTuple):
    """When each example was learned, in the units of `epochs`; -1 for never.

    Attributes:
      first: [... n], the first checkpoint at which the example is right.
      for_good: [... n], the checkpoint from which it is right up to the last checkpoint.
    """

    first: jax.Array
    for_good: jax.Array


class Forgetting(NamedTuple):
    """Forgetting of each example.

    Attributes:
      num_events: [... n], int32; how often it went from right to wrong.
      never_learned: [... n], bool; it was right at no checkpoint. Toneva et al. rank such examples
        as the most forgotten, although their num_events is 0.
    """

    num_events: jax.Array
    never_learned: jax.Array


class LossTrajectory(NamedTuple):
    """An example's loss over training, and its place in the data map.

    Attributes:
      mean_loss: [... n], in the units of the losses.
      loss_variance: [... n], variance over the checkpoints (divisor: their number).
      confidence: [... n], mean probability of the label over the checkpoints, in [0, 1].
      variability: [... n], standard deviation of that probability, in [0, 0.5].
    """

    mean_loss: jax.Array
    loss_variance: jax.Array
    confidence: jax.Array
    variability: jax.Array


def probability_correct(correct: jax.Array) -> jax.Array:
    """Returns the share of the members that classify each example correctly.

    Source: Arpit et al. 2017, section 3.1 and figure 1.

    Args:
      correct: [... members n], bool.

    Returns:
      [... n], float32 in [0, 1].

    Raises:
      InputError: `correct` has fewer than 2 axes or no members.

    Example:
      >>> probability_correct(jnp.array([[True, True, False], [True, False, False]]))
      Array([1. , 0.5, 0. ], dtype=float32)
    """
    correct = jnp.asarray(correct)
    if correct.ndim < 2 or correct.shape[-2] == 0:
        raise InputError(f"correct: shape {correct.shape}, must be [... members n], members >= 1")
    return correct.mean(-2, dtype=jnp.float32)


def first_epoch_learned(correct: jax.Array, epochs: jax.Array | None = None) -> FirstLearned:
    """Returns when each example is first right, and from when on it stays right.

    Args:
      correct: [checkpoints ... n], bool; was the example classified correctly?
      epochs: [checkpoints], integer or float, at least 0, ascending: when the checkpoints were
        taken; their indices 0, 1, ... by default.

    Returns:
      A `FirstLearned` of arrays [... n] with the dtype of `epochs`, -1 where it never happens.

    Raises:
      InputError: `correct` has no checkpoints, or `epochs` is not [checkpoints].

    Example:
      >>> correct = jnp.array([[0, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0]], bool)
      >>> first_epoch_learned(correct, epochs=jnp.array([1, 2, 4]))
      FirstLearned(first=Array([ 2,  1,  1, -1], dtype=int32),
                   for_good=Array([ 2,  4,  1, -1], dtype=int32))
    """
    num_checkpoints = _num_checkpoints("correct", correct)
    epochs = jnp.arange(num_checkpoints, dtype=jnp.int32) if epochs is None else jnp.asarray(epochs)
    if epochs.shape != (num_checkpoints,):
        raise InputError(f"epochs: shape {epochs.shape}, must be ({num_checkpoints},)")
    never = jnp.asarray(-1, epochs.dtype)
    correct = jnp.asarray(correct).astype(bool)
    first = jnp.where(correct.any(0), epochs[correct.argmax(0)], never)
    wrong_from_the_end = jnp.flip(~correct, 0)
    start = num_checkpoints - wrong_from_the_end.argmax(0)
    start = jnp.where(wrong_from_the_end.any(0), start, 0)
    last = num_checkpoints - 1
    for_good = jnp.where(correct[-1], epochs[jnp.minimum(start, last)], never)
    return FirstLearned(first, for_good)


def forgetting_events(correct: jax.Array) -> Forgetting:
    """Returns how often each example was forgotten: right at one checkpoint, wrong at the next.

    Source: Toneva et al. 2019, where the checkpoints are the presentations of the example. Coarser
    checkpoints miss events, so counts compare only between runs with the same schedule.

    Args:
      correct: [checkpoints ... n], bool.

    Returns:
      A `Forgetting` of arrays [... n].

    Raises:
      InputError: `correct` has no checkpoints.

    Example:
      >>> forgetting_events(jnp.array([[0, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]], bool))
      Forgetting(num_events=Array([0, 2, 0], dtype=int32),
                 never_learned=Array([False, False,  True], dtype=bool))
    """
    _num_checkpoints("correct", correct)
    correct = jnp.asarray(correct).astype(bool)
    forgotten = correct[:-1] & ~correct[1:]
    return Forgetting(forgotten.sum(0, dtype=jnp.int32), ~correct.any(0))


def aum(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the area under the margin: the mean over training of label logit - largest other.

    Low or negative where other examples push towards another class: a mark of a wrong label.
    Source: Pleiss et al. 2020, equations 1 and 2.

    Args:
      logits: [checkpoints ... n classes], at least 2 classes.
      labels: [n], integer in [0, classes): the labels trained on.

    Returns:
      [... n], float32 or wider, in the units of the logits.

    Raises:
      InputError: the shapes do not fit, there are fewer than 2 classes, or a label is no class.

    Example:
      >>> aum(jnp.array([[[1.0, 0.0, 0.5]], [[2.0, 3.0, 0.0]]]), jnp.array([0]))
      Array([-0.25], dtype=float32)
    """
    _num_checkpoints("logits", logits)
    logits, labels = check_logits(logits, labels)
    logits = jnp.asarray(logits)
    if logits.ndim < 3:
        raise InputError(f"logits: shape {logits.shape}, must be [checkpoints ... n classes]")
    margins = jax.vmap(margin)
    for _ in range(logits.ndim - 2):
        margins = jax.vmap(margins, in_axes=(0, None))
    return margins(logits, labels).mean(0)


def loss_trajectory(losses: jax.Array) -> LossTrajectory:
    """Returns mean and variance of each example's loss over training, and its data-map position.

    The probability of the label is exp(-loss), so confidence and variability have their meaning
    only for softmax cross-entropy in nats. Easy examples have high confidence, ambiguous ones high
    variability, hard or mislabelled ones neither.

    Source: Swayamdipta et al. 2020, section 2 (confidence, variability).

    Args:
      losses: [checkpoints ... n], softmax cross-entropy in nats.

    Returns:
      A `LossTrajectory` of arrays [... n], float32 or wider.

    Raises:
      InputError: `losses` has no checkpoints.

    Example:
      >>> trajectory = loss_trajectory(jnp.log(jnp.array([[2.0, 1.0], [4.0, 1.0]])))
      >>> trajectory.confidence, trajectory.variability
      (Array([0.375, 1.   ], dtype=float32), Array([0.125, 0.   ], dtype=float32))
    """
    _num_checkpoints("losses", losses)
    losses = widened(jnp.asarray(losses))
    probability = jnp.exp(-losses)
    return LossTrajectory(losses.mean(0), losses.var(0), probability.mean(0), probability.std(0))


def agreement(predictions: jax.Array) -> jax.Array:
    """Returns the share of the pairs of members that predict the same class for each example.

    Takes members log members time per example and no table of classes: after sorting, a member
    agrees with those before it in its run of equal predictions.

    Args:
      predictions: [... members n], integer classes, at least 2 members.

    Returns:
      [... n], float32 in [0, 1]; 1 if all members agree.

    Raises:
      InputError: `predictions` has fewer than 2 axes or fewer than 2 members.

    Example:
      >>> agreement(jnp.array([[3, 0], [3, 1], [3, 1]])).round(3)
      Array([1.   , 0.333], dtype=float32)
    """
    predictions = jnp.asarray(predictions)
    if predictions.ndim < 2 or predictions.shape[-2] < 2:
        raise InputError(
            f"predictions: shape {predictions.shape}, must be [... members n], members >= 2"
        )
    members = predictions.shape[-2]
    ordered = jnp.sort(jnp.moveaxis(predictions, -2, 0), axis=0)
    position = jnp.arange(1, members).reshape(-1, *[1] * (ordered.ndim - 1))
    position = jnp.broadcast_to(position, ordered[1:].shape)
    run_starts = jnp.where(ordered[1:] == ordered[:-1], 0, position)
    num_equal_before = position - jax.lax.cummax(run_starts, axis=0)
    num_pairs = members * (members - 1) // 2
    return num_equal_before.sum(0).astype(jnp.float32) / num_pairs


def _num_checkpoints(name: str, values: jax.Array) -> int:
    shape = np.shape(values)
    if len(shape) < 2 or shape[0] == 0:
        raise InputError(f"{name}: shape {shape}, must be [checkpoints ... n], not empty")
    return shape[0]
