"""An effect with its confidence interval, over seeds or over examples."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import scipy.stats

from memjax.analysis.statistics import bootstrap_draws

LEVEL = 0.95
# Below this, a percentile bootstrap is too narrow.
FEWEST_FOR_BOOTSTRAP = 20
NUM_RESAMPLES = 4000  # so that p-values reach what a correction over many claims asks for


class NotMeasurable(Exception):
    """The table does not hold what a claim is about; the message says what is missing."""


class Measurement(NamedTuple):
    """The effect that a claim is about.

    Attributes:
      effect: in the units of the claim's statistic; nan if only its interval is known.
      low: lower end of the 95 % confidence interval; -inf where nothing bounds it.
      high: upper end.
      n: how many seeds or examples the interval is over.
      over: 'seeds' or 'examples'.
      note: what the reader has to know about it.
      confidence: how far the interval can be trusted at any level; None where nothing is known.
    """

    effect: float
    low: float
    high: float
    n: int
    over: str
    note: str = ""
    confidence: "Confidence | None" = None


class Confidence(NamedTuple):
    """One-sided p-values against any bound: the interval at every level at once.

    Attributes:
      of_above: bound -> p-value of "the effect is at most the bound"; small: it is above.
      of_below: bound -> p-value of "the effect is at least the bound"; small: it is below.
    """

    of_above: Callable[[float], float]
    of_below: Callable[[float], float]


def over_seeds(lower: npt.ArrayLike, upper: npt.ArrayLike | None = None) -> Measurement:
    """Returns the mean over seeds with its confidence interval.

    From 20 seeds on this is the percentile bootstrap; with fewer, where the bootstrap is too
    narrow, Student's t interval. One seed has no interval: it is infinitely wide.

    A censored value (a run that had not converged when it ended) is known only by its bounds. The
    interval then runs from the low end of the lower bounds' interval to the high end of the upper
    bounds', and is infinite on a side where a bound is: whatever the value is, the interval covers
    it as often as for values that were seen.

    Args:
      lower: [seeds], the statistic of every seed, or its lower bound; nan where a seed has none.
      upper: [seeds], its upper bound; None if the statistic was observed.

    Raises:
      NotMeasurable: if no seed has a value.

    Example:
      >>> over_seeds(np.array([1.0, 2.0, 3.0])).effect
      2.0
      >>> over_seeds(np.array([1.0, 2.0]), np.array([1.0, np.inf])).high
      inf
    """
    lows = np.asarray(lower, np.float64)
    highs = lows if upper is None else np.asarray(upper, np.float64)
    known = ~(np.isnan(lows) | np.isnan(highs))
    num_missing, num_censored = int((~known).sum()), int((highs > lows)[known].sum())
    lows, highs = lows[known], highs[known]
    n = len(lows)
    if n == 0:
        raise NotMeasurable("no seed has a value")
    notes = []
    if n == 1:
        notes.append("one seed: no interval between seeds can be made")
    if num_missing:
        notes.append(f"{num_missing} of {n + num_missing} seeds have no value and are left out")
    if num_censored:
        notes.append(f"in {num_censored} of {n} seeds a run was censored: it counts by its bounds")
    finite = [bound.mean() for bound in (lows, highs) if np.isfinite(bound).all()]
    below, above = _of_mean(lows), _of_mean(highs)
    return Measurement(
        effect=float(np.mean(finite)) if finite else math.nan,
        low=below.low,
        high=above.high,
        n=n,
        over="seeds",
        note="; ".join(notes),
        confidence=Confidence(below.confidence.of_above, above.confidence.of_below),
    )


def over_examples(statistic: Callable[[Any], jax.Array], values: Any, axis: int = 0) -> Measurement:
    """Returns a statistic with its percentile bootstrap interval over examples.

    Args:
      statistic: a named function of what `values` is, giving a scalar.
      values: an array, or a pytree of arrays resampled together, with the examples along `axis`.
      axis: the axis of the examples.

    Raises:
      NotMeasurable: if there are fewer than 20 examples, too few for a bootstrap.

    Example:
      >>> over_examples(jnp.mean, jnp.arange(100.0)).n
      100
    """
    n = jax.tree.leaves(values)[0].shape[axis]
    if n < FEWEST_FOR_BOOTSTRAP:
        raise NotMeasurable(f"{n} examples, too few for an interval")
    effect, draws = bootstrap_draws(
        jax.random.key(0), statistic, values, num_resamples=NUM_RESAMPLES, axis=axis
    )
    parts = _of_draws(np.asarray(draws, np.float64))
    return Measurement(float(effect), parts.low, parts.high, n, "examples", "", parts.confidence)


def least_of(measurements: Sequence[Measurement]) -> Measurement:
    """Returns what is known of the smallest of several effects, such as over each of some rivals.

    It is above a bound if every one is (the largest p-value); it is below if any one is (the
    smallest p-value, times their number).

    Raises:
      NotMeasurable: if there are none, or one of them has no interval.
    """
    known = [m.confidence for m in measurements if m.confidence is not None]
    if not known or len(known) < len(measurements):
        raise NotMeasurable("nothing to compare with")
    least = min(measurements, key=lambda m: m.effect)
    return least._replace(
        low=min(m.low for m in measurements),
        high=min(m.high for m in measurements),
        confidence=Confidence(
            lambda bound: max(c.of_above(bound) for c in known),
            lambda bound: min(1.0, len(known) * min(c.of_below(bound) for c in known)),
        ),
    )


class _Parts(NamedTuple):
    low: float
    high: float
    confidence: Confidence


def _of_mean(values: np.ndarray) -> _Parts:
    """Returns what is known of the mean of values of which some may be infinite."""
    if len(values) == 1 or not np.isfinite(values).all():
        nothing = Confidence(lambda bound: 1.0, lambda bound: 1.0)
        return _Parts(-math.inf, math.inf, nothing)
    if len(values) < FEWEST_FOR_BOOTSTRAP:
        return _of_normal(values)
    sample = jnp.asarray(values, jnp.float32)
    _, draws = bootstrap_draws(jax.random.key(0), jnp.mean, sample, num_resamples=NUM_RESAMPLES)
    return _of_draws(np.asarray(draws, np.float64))


def _of_normal(values: np.ndarray) -> _Parts:
    """Student's t, exact for normal values however few."""
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    degrees = len(values) - 1
    half = scipy.stats.t.ppf((1 + LEVEL) / 2, degrees) * error

    def of_above(bound: float) -> float:
        if error == 0:
            return 0.0 if mean > bound else 1.0
        return float(scipy.stats.t.sf((mean - bound) / error, degrees))

    def of_below(bound: float) -> float:
        if error == 0:
            return 0.0 if mean < bound else 1.0
        return float(scipy.stats.t.cdf((mean - bound) / error, degrees))

    return _Parts(float(mean - half), float(mean + half), Confidence(of_above, of_below))


def _of_draws(draws: np.ndarray) -> _Parts:
    """The percentile bootstrap; a p-value is never below 1 / (resamples + 1)."""
    if np.isnan(draws).any():
        nothing = Confidence(lambda bound: 1.0, lambda bound: 1.0)
        return _Parts(math.nan, math.nan, nothing)
    low, high = (float(end) for end in np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)))

    def share(is_beyond: np.ndarray) -> float:
        return float((is_beyond.sum() + 1) / (len(draws) + 1))

    confidence = Confidence(
        lambda bound: share(draws <= bound), lambda bound: share(draws >= bound)
    )
    return _Parts(low, high, confidence)
