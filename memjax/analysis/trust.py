"""Can an attribution be trusted here? A few trainings with other weights tell."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from scipy import stats

from memjax.analysis.attribution_measures import Measure
from memjax.analysis.attribution_retrain import retrained_measures
from memjax.analysis.losses import softmax_cross_entropy
from memjax.errors import InputError

# Below this correlation a derivative says little of what it is a derivative of.
_LEAST_CORRELATION = 0.5
_HELP = "a smaller learning rate, less momentum, a smooth activation (gelu) or larger batches help"


class Trust(NamedTuple):
    """How well a derivative by weights predicts trainings with other weights.

    Attributes:
      step_sizes: (small, 1.0): the weights of the examples of a direction were lowered by so much;
        by 1 is leaving them out.
      correlation: for each step size, of predicted and real changes, over directions and queries.
      relative_error: for each, the root mean square of the difference, over that of real changes.
      lds: mean over queries of the rank correlation, over the sets left out, of predicted and real
        measure: the linear datamodeling score. Queries whose measure never moves do not count.
      lds_interval: 95 % (jackknife over the sets).
      fraction: of the examples that a set leaves out.
      verdict: 'predictive': the LDS is at least .5; else 'nonlinear': the correlation is at least
        .5 for the small step; else 'chaotic'. 'nothing moved' where no weight changes any measure
        (a learning rate of 0): there is nothing to predict, and the numbers are nan.
    """

    step_sizes: tuple[float, float]
    correlation: tuple[float, float]
    relative_error: tuple[float, float]
    lds: float
    lds_interval: tuple[float, float]
    fraction: float
    verdict: str

    def __str__(self) -> str:
        low, high = self.lds_interval
        small, whole = self.correlation
        numbers = (
            f"predicted against real changes: correlation {small:.2f} at weights lowered by "
            f"{self.step_sizes[0]:g}, {whole:.2f} at examples left out; LDS at "
            f"{100 * self.fraction:g} % left out {self.lds:.2f} ({low:.2f} to {high:.2f})"
        )
        meaning = {
            "predictive": "the attribution predicts removals",
            "nonlinear": "the derivative is right, but leaving examples out is too large a step "
            f"for it: read the order of examples with caution; {_HELP}",
            "nothing moved": "no weight changes any of the measures: there is nothing to predict",
            "chaotic": "this training is chaotic: it amplifies the smallest change, and no "
            f"attribution can be right here; {_HELP}",
        }
        return f"{self.verdict}: {meaning[self.verdict]}. {numbers}"


def attribution_trust(
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    learning_rate: float | jax.Array | None,
    query_images: jax.Array,
    query_labels: jax.Array,
    attribution: Any,
    *,
    seed: int = 0,
    fraction: float = 0.01,
    num_directions: int = 16,
    small_step: float = 0.1,
    measure: str | Measure = "loss",
    example_loss: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
    momentum: float = 0.0,
    weight_decay: Any = 0.0,
    optimizer: optax.GradientTransformation | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> Trust:
    """Returns how well the attribution predicts trainings with other weights.

    A direction is a random set of examples. Their weights are changed by +-small_step (a central
    difference, which a derivative must equal unless training is chaotic) and by -1 (the set is left
    out). That is three trainings a direction, run together as `retrain` does.

    Args:
      logits_fn: as in `example_attribution`, and so are the other arguments but for these.
      params: likewise.
      images: likewise.
      labels: likewise.
      batches: likewise.
      learning_rate: likewise.
      query_images: [queries ...].
      query_labels: [queries ...].
      attribution: [queries n], of these queries, by `example_attribution` or any estimator.
      seed: of the directions.
      fraction: of the examples in a set; at least one example.
      num_directions: sets, at least 4.
      small_step: in (0, 1).
      measure: likewise.
      example_loss: likewise.
      momentum: likewise.
      weight_decay: likewise.
      optimizer: likewise.
      chunk_size: as of `retrain`.
      mesh: likewise.

    Returns:
      A `Trust`; `print` it.

    Raises:
      InputError: as `example_attribution`, an attribution that is not finite, or an option out of
        range.

    Reference: Park et al. 2023 (TRAK), section 2, for the linear datamodeling score.
    """
    predicted = np.asarray(attribution, np.float64)
    shape = (len(query_images), len(images))
    if predicted.shape != shape:
        raise InputError(f"attribution has shape {predicted.shape}, must be {list(shape)}")
    if not np.isfinite(predicted).all():
        raise InputError("attribution is not all finite: the training that it is of diverged")
    if num_directions < 4:
        raise InputError(f"num_directions is {num_directions}, must be at least 4")
    if not 0 < small_step < 1:
        raise InputError(f"small_step is {small_step}, must be above 0 and below 1")
    is_out = ~random_subsets(seed, num_directions, len(images), fraction)
    weights = np.concatenate([np.ones((1, len(images))), *_weights(is_out, small_step)])
    measured = retrained_measures(
        logits_fn, params, images, labels, batches, learning_rate, weights, query_images,
        query_labels, measure=measure, example_loss=example_loss, momentum=momentum,
        weight_decay=weight_decay, optimizer=optimizer, chunk_size=chunk_size, mesh=mesh,
    )  # fmt: skip
    found = np.asarray(measured, np.float64)
    less, more, without = np.split(found[1:], 3)
    slopes = -(is_out @ predicted.T)  # per unit of weight taken away
    real = ((less - more) / (2 * small_step), without - found[0])
    return _judge(slopes, real, small_step, fraction)


def _weights(is_out: np.ndarray, small_step: float) -> list[np.ndarray]:
    return [1.0 - step * is_out for step in (small_step, -small_step, 1.0)]


def _judge(
    slopes: np.ndarray, real: tuple[np.ndarray, np.ndarray], small_step: float, fraction: float
) -> Trust:
    if not any(changes.any() for changes in real):
        both = np.nan, np.nan
        return Trust((small_step, 1.0), both, both, np.nan, both, fraction, "nothing moved")
    correlation = tuple(_correlation(slopes, changes) for changes in real)
    with np.errstate(divide="ignore"):  # of changes that are all 0
        errors = [np.sum((slopes - changes) ** 2) / np.sum(changes**2) for changes in real]
    lds = _mean_score(slopes, real[1])
    without_one = np.array(
        [
            _mean_score(*(np.delete(side, row, axis=0) for side in (slopes, real[1])))
            for row in range(len(slopes))
        ]
    )
    count = len(slopes)
    error = float(np.sqrt((count - 1) * np.mean((without_one - np.mean(without_one)) ** 2)))
    if lds >= _LEAST_CORRELATION:
        verdict = "predictive"
    else:
        verdict = "nonlinear" if correlation[0] >= _LEAST_CORRELATION else "chaotic"
    return Trust(
        (small_step, 1.0),
        (correlation[0], correlation[1]),
        (float(np.sqrt(errors[0])), float(np.sqrt(errors[1]))),
        lds,
        (max(-1.0, lds - 1.96 * error), min(1.0, lds + 1.96 * error)),
        fraction,
        verdict,
    )


def _mean_score(predicted: np.ndarray, real: np.ndarray) -> float:
    """Returns the mean over the queries that have a score; nan where none has one."""
    scores = linear_datamodeling_score(predicted, real)
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else np.nan


def _correlation(predicted: np.ndarray, real: np.ndarray) -> float:
    """Returns the correlation of [directions queries], every query in its own units.

    Changes have no mean to take off: their sign is part of the prediction.
    """
    moves = (predicted != 0).any(axis=0) & (real != 0).any(axis=0)  # a loss of 0 stays 0
    predicted, real = predicted[:, moves], real[:, moves]
    scale = np.sqrt(np.sum(predicted**2, axis=0) * np.sum(real**2, axis=0))
    return float(np.mean(np.sum(predicted * real, axis=0) / scale)) if moves.any() else 0.0


def random_subsets(seed: int, count: int, num_examples: int, fraction_out: float) -> np.ndarray:
    """Returns which examples each of some random subsets keeps, bool [count n].

    Args:
      seed: any integer of at least 0.
      count: subsets.
      num_examples: n.
      fraction_out: of the examples that each leaves out, rounded to at least one.

    Example:
      >>> random_subsets(0, 3, 10, 0.2).sum(axis=1)
      array([8, 8, 8])
    """
    if not 0 < fraction_out < 1:
        raise InputError(f"fraction is {fraction_out}, must be above 0 and below 1")
    num_out = max(1, round(fraction_out * num_examples))
    ranks = np.random.default_rng(seed).random((count, num_examples)).argsort(axis=1)
    return ranks.argsort(axis=1) >= num_out


def linear_datamodeling_score(predicted: Any, real: Any) -> np.ndarray:
    """Returns for every query the rank correlation, over subsets, of predicted and real measure.

    Args:
      predicted: [subsets queries], for example `weights @ attribution.T`.
      real: [subsets queries], as of `retrained_measures`.

    Returns:
      [queries], in [-1, 1]; nan where either side is constant. Its mean is the LDS.

    Raises:
      InputError: the shapes differ, or there are fewer than 3 subsets.

    Reference: Park et al. 2023 (TRAK), definition 2.2.

    Example:
      >>> linear_datamodeling_score([[0.0], [1.0], [2.0]], [[1.0], [3.0], [9.0]])
      array([1.])
    """
    predicted, real = np.asarray(predicted, float), np.asarray(real, float)
    if predicted.ndim != 2 or predicted.shape != real.shape or len(predicted) < 3:
        raise InputError(
            f"predicted, real: shapes {predicted.shape}, {real.shape}, must be the same "
            "[subsets queries], with 3 subsets or more"
        )
    ranks = [stats.rankdata(side, axis=0) for side in (predicted, real)]
    first, second = (side - side.mean(axis=0) for side in ranks)
    with np.errstate(invalid="ignore"):  # 0 / 0 where a side is constant
        scale = np.sqrt(np.sum(first**2, axis=0) * np.sum(second**2, axis=0))
        return np.sum(first * second, axis=0) / scale
