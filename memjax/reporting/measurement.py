"""An effect with its confidence interval, over seeds or over examples."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from memjax.analysis.statistics import bootstrap_interval, mean_difference_interval

LEVEL = 0.95
# Below this, a percentile bootstrap is too narrow.
FEWEST_FOR_BOOTSTRAP = 20


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
    """

    effect: float
    low: float
    high: float
    n: int
    over: str
    note: str = ""


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
    return Measurement(
        effect=float(np.mean(finite)) if finite else math.nan,
        low=_mean_interval(lows)[0] if np.isfinite(lows).all() else -math.inf,
        high=_mean_interval(highs)[1] if np.isfinite(highs).all() else math.inf,
        n=n,
        over="seeds",
        note="; ".join(notes),
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
    interval = bootstrap_interval(jax.random.key(0), statistic, values, level=LEVEL, axis=axis)
    effect, low, high = (float(value) for value in interval)
    return Measurement(effect, low, high, n, "examples")


def _mean_interval(values: np.ndarray) -> tuple[float, float]:
    if len(values) == 1:
        return -math.inf, math.inf
    if len(values) < FEWEST_FOR_BOOTSTRAP:
        interval = mean_difference_interval(values, np.zeros_like(values), level=LEVEL, paired=True)
    else:
        sample = jnp.asarray(values, jnp.float32)
        interval = bootstrap_interval(jax.random.key(0), jnp.mean, sample, level=LEVEL)
    return float(interval.lower), float(interval.upper)
