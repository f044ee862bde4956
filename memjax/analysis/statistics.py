"""Statistics over examples and runs: inequality, overdispersion, intervals, effect sizes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from memjax.analysis._arguments import check_key
from memjax.analysis._precision import widened
from memjax.errors import InputError


class Interval(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
      estimate: the statistic of the values themselves.
      lower: lower end of the interval.
      upper: upper end of the interval.
    """

    estimate: Any
    lower: Any
    upper: Any


class BinomialNull(NamedTuple):
    """Sorted P(correct) of `n` equally hard examples: the null of the paper's figure 1.

    Attributes:
      draws: [num_draws n], float32; each row is one simulated curve, ascending.
      lower: [n], float32; lower edge of the pointwise band over the draws.
      median: [n], float32; pointwise median over the draws.
      upper: [n], float32; upper edge of the pointwise band over the draws.
    """

    draws: jax.Array
    lower: jax.Array
    median: jax.Array
    upper: jax.Array


def gini(values: jax.Array, axis: int | None = None) -> jax.Array:
    """Returns the Gini coefficient: 0 if all values are equal, 1 - 1/n if one has everything.

    Source: Arpit et al. 2017, section 3.2, G = 2 sum_i i g_(i) / (n sum g) - (n + 1) / n with g
    sorted ascending; computed as sum_i (2i - n - 1) g_(i) / (n sum g), which cancels less.

    Args:
      values: any shape, non-negative, any units (the coefficient is scale-free).
      axis: the axis of the examples; None takes all values together.

    Returns:
      A scalar, or the shape of `values` without `axis`; float32 or wider. All zeros give 0: they
      are equal. Negative values have no Gini coefficient: they, nan or infinity give nan.

    Raises:
      InputError: `values` has no examples along `axis`.

    Example:
      >>> gini(jnp.array([0.0, 0.0, 0.0, 7.0]))
      Array(0.75, dtype=float32)
      >>> gini(jnp.array([[1.0, 1.0], [0.0, 3.0]]), axis=1)
      Array([0. , 0.5], dtype=float32)
    """
    values = _as_float(values)
    values = jnp.ravel(values) if axis is None else jnp.moveaxis(values, axis, -1)
    n = values.shape[-1]
    if n == 0:
        raise InputError(f"values: shape {values.shape} has no examples, at least one is needed")
    values = jnp.where(values < 0, jnp.nan, values)
    largest = values.max(-1, keepdims=True)
    # Dividing by the largest first keeps the sum finite for values near the end of the range.
    shares = jnp.sort(values / jnp.where(largest == 0, jnp.ones_like(largest), largest))
    weights = (2 * np.arange(1, n + 1) - n - 1) / n
    total = shares.sum(-1)
    weighted = jnp.tensordot(shares, jnp.asarray(weights, shares.dtype), 1, precision="highest")
    return weighted / jnp.where(total == 0, jnp.ones_like(total), total)


def overdispersion(correct: jax.Array) -> jax.Array:
    """Returns how much more P(correct) varies over examples than equally hard examples would.

    The estimator is s^2 / (p (1 - p) N / ((N - 1) runs)), N = runs n: the sample variance
    (divisor n - 1) of the examples' P(correct) over the unbiased estimate of the variance of
    Binomial(runs, p) / runs, p being the mean of `correct`. If all examples are equally hard,
    its expectation is exactly 1, for any number of runs and examples and given any p other than
    0 and 1: the counts of the examples are then multivariate hypergeometric.

    Source: Arpit et al. 2017, figure 1, compares the two distributions by eye.

    Args:
      correct: [runs n], bool; was the example classified correctly in the run?

    Returns:
      A float32 scalar: about 1 for equally hard examples, up to about `runs` if each example is
      always right or always wrong, nan if every entry of `correct` is the same.

    Raises:
      InputError: `correct` is not [runs n] with at least 1 run and 2 examples.

    Example:
      >>> overdispersion(jnp.array([[True, True, False], [True, False, False]]))
      Array(1.6666666, dtype=float32)
    """
    correct = jnp.asarray(correct)
    if correct.ndim != 2 or correct.shape[0] < 1 or correct.shape[1] < 2:
        raise InputError(
            f"correct: shape {correct.shape}, must be [runs n] with at least 1 run and 2 examples"
        )
    runs, n = correct.shape
    probability = _as_float(correct).mean(0)
    # The mean of 1 - probability, not 1 - mean, keeps its digits where nearly all are right.
    null_variance = probability.mean() * (1 - probability).mean() * (n / (runs * n - 1))
    return probability.var(ddof=1) / null_variance


@functools.partial(jax.jit, static_argnames=("runs", "n", "num_draws", "level"))
def binomial_null(
    key: jax.Array,
    runs: int,
    probability: jax.Array | float,
    n: int,
    *,
    num_draws: int = 1000,
    level: float = 0.95,
) -> BinomialNull:
    """Simulates the sorted P(correct) of `n` examples that are all equally hard.

    Each draw takes n counts from Binomial(runs, probability), divides by `runs` and sorts. The
    paper's figure 1 draws one such curve (n = 1000 examples, 100 runs, probability = the mean
    P(correct) of randX); the band over many draws shows what chance alone can do at each rank.

    Args:
      key: a typed key.
      runs: number of runs.
      probability: scalar in [0, 1], the common P(correct).
      n: number of examples.
      num_draws: number of simulated curves; memory is num_draws * n floats.
      level: share of the draws inside the band at each rank, in (0, 1).

    Returns:
      A `BinomialNull`.

    Raises:
      InputError: runs, n or num_draws is below 1, or level is outside (0, 1).

    Example:
      >>> null = binomial_null(jax.random.key(0), runs=100, probability=0.9, n=50)
      >>> null.draws.shape, bool((null.lower <= null.upper).all())
      ((1000, 50), True)
    """
    for name, value in (("runs", runs), ("n", n), ("num_draws", num_draws)):
        if value < 1:
            raise InputError(f"{name}: {value}, must be at least 1")
    key, tails = check_key(key), _tails(level)
    counts = jax.random.binomial(key, runs, probability, shape=(num_draws, n), dtype=jnp.float32)
    draws = jnp.sort(counts / runs, axis=1)
    lower, median, upper = jnp.quantile(draws, jnp.array([tails[0], 0.5, tails[1]]), axis=0)
    return BinomialNull(draws, lower, median, upper)


@functools.partial(
    jax.jit, static_argnames=("statistic", "level", "num_resamples", "axis", "batch_size")
)
def bootstrap_interval(
    key: jax.Array,
    statistic: Callable[[Any], jax.Array],
    values: Any,
    *,
    level: float = 0.95,
    num_resamples: int = 1000,
    axis: int = 0,
    batch_size: int = 100,
) -> Interval:
    """Returns a percentile bootstrap interval of any statistic.

    Resamples the examples with replacement and takes the (1 - level) / 2 and (1 + level) / 2
    quantiles of the statistic (Efron and Tibshirani 1993, chapter 13). The interval is first-order
    accurate: with fewer than about 20 examples it is too narrow; see `mean_difference_interval`.

    Args:
      key: a typed key; the same key gives the same interval.
      statistic: takes what `values` is and returns a scalar or an array. Pass a named function: a
        new lambda per call compiles again.
      values: an array, or a pytree of arrays that are resampled together (paired), each with n
        examples along `axis`.
      level: coverage, in (0, 1).
      num_resamples: number of bootstrap resamples.
      axis: the axis of the examples.
      batch_size: how many resamples are held in memory at once; never changes the result.

    Returns:
      An `Interval`, each part of the shape that `statistic` returns.

    Raises:
      InputError: `values` is empty or of unequal lengths, or level, num_resamples or batch_size is
        out of range.

    Example:
      >>> interval = bootstrap_interval(jax.random.key(0), jnp.mean, jnp.arange(100.0))
      >>> interval.estimate, bool(43 < interval.lower < 45), bool(54 < interval.upper < 56)
      (Array(49.5, dtype=float32), True, True)
    """
    tails = jnp.array(_tails(level))
    estimate, draws = bootstrap_draws(
        key, statistic, values, num_resamples=num_resamples, axis=axis, batch_size=batch_size
    )
    lower, upper = jnp.quantile(draws, tails.astype(draws.dtype), axis=0)
    return Interval(estimate, lower, upper)


def bootstrap_draws(
    key: jax.Array,
    statistic: Callable[[Any], jax.Array],
    values: Any,
    *,
    num_resamples: int = 1000,
    axis: int = 0,
    batch_size: int = 100,
) -> tuple[jax.Array, jax.Array]:
    """Returns a statistic, and its values on bootstrap resamples, [resamples ...].

    Args:
      key: a typed key; the same key gives the same resamples.
      statistic: takes what `values` is and returns a scalar or an array; a named function.
      values: an array, or a pytree of arrays that are resampled together.
      num_resamples: number of bootstrap resamples.
      axis: the axis of the examples.
      batch_size: how many resamples are held in memory at once; never changes the result.

    Raises:
      InputError: `values` is empty or of unequal lengths, or a number is out of range.
    """
    for name, value in (("num_resamples", num_resamples), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name}: {value}, must be at least 1")
    lengths = {leaf.shape[axis] for leaf in jax.tree.leaves(values)}
    if len(lengths) != 1 or lengths == {0}:
        raise InputError(f"values: lengths {sorted(lengths)}, must be one length of at least 1")
    (n,) = lengths

    def resampled(resample_key: jax.Array) -> jax.Array:
        rows = jax.random.randint(resample_key, (n,), 0, n)
        return _as_float(statistic(jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis), values)))

    keys = jax.random.split(check_key(key), num_resamples)
    draws = jax.lax.map(resampled, keys, batch_size=min(batch_size, num_resamples))
    return _as_float(statistic(values)), draws


def mean_difference_interval(
    first: Any, second: Any, *, level: float = 0.95, paired: bool = False
) -> Interval:
    """Returns mean(first) - mean(second) with its t interval, computed on the host in float64.

    Unpaired, it is Welch's interval (unequal variances); paired, the one-sample t interval of the
    differences. Exact for normal values however few they are, so it suits a handful of seeds.

    Args:
      first: [n], at least 2 values.
      second: [m], at least 2 values; m = n, in the same order, where `paired`.
      level: coverage, in (0, 1).
      paired: whether first[i] and second[i] belong together (the same seed or example).

    Returns:
      An `Interval` of Python floats.

    Raises:
      InputError: not one-dimensional, too few values, unequal lengths where paired, or level is
        outside (0, 1).

    Example:
      >>> interval = mean_difference_interval([5.0, 6.0, 7.0], [1.0, 2.0, 3.0])
      >>> [round(value, 3) for value in interval]
      [4.0, 1.733, 6.267]
    """
    _tails(level)
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 1 or second.ndim != 1 or min(first.size, second.size) < 2:
        raise InputError(
            f"first, second: shapes {first.shape}, {second.shape}, must be [n], [m], n and m >= 2"
        )
    if paired and first.size != second.size:
        raise InputError(f"first, second: {first.size}, {second.size} values, pairs must match")
    if paired:
        differences = first - second
        estimate, variance, degrees = differences.mean(), differences.var(ddof=1), first.size - 1
        squared_error = variance / first.size
    else:
        parts = np.array([v.var(ddof=1) / v.size for v in (first, second)])
        estimate, squared_error = first.mean() - second.mean(), parts.sum()
        # Welch and Satterthwaite; any number of degrees will do where nothing varies.
        spread = (parts**2 / np.array([first.size - 1, second.size - 1])).sum()
        degrees = squared_error**2 / spread if spread > 0 else 1
    half = scipy.stats.t.ppf((1 + level) / 2, degrees) * np.sqrt(squared_error)
    return Interval(float(estimate), float(estimate - half), float(estimate + half))


def cliffs_delta(first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns Cliff's delta, P(first > second) - P(first < second) over all pairs.

    An effect size that depends on ranks only: 1 if all of `first` lies above all of `second`, 0 if
    neither tends to be larger, and 2 AUC - 1 of telling the two apart. Takes n log m time.

    Args:
      first: [n].
      second: [m].

    Returns:
      A float32 scalar in [-1, 1]; nan where a value is nan.

    Raises:
      InputError: not one-dimensional, or empty.

    Example:
      >>> cliffs_delta(jnp.array([2.0, 3.0]), jnp.array([1.0, 2.0]))
      Array(0.75, dtype=float32)
    """
    first, second = jnp.asarray(first), jnp.asarray(second)
    if first.ndim != 1 or second.ndim != 1 or 0 in (first.size, second.size):
        raise InputError(
            f"first, second: shapes {first.shape}, {second.shape}, must be [n], [m], not empty"
        )
    return _cliffs_delta(first, second)


@jax.jit
def _cliffs_delta(first: jax.Array, second: jax.Array) -> jax.Array:
    ordered = jnp.sort(second)
    num_below = jnp.searchsorted(ordered, first, side="left")
    num_not_above = jnp.searchsorted(ordered, first, side="right")
    delta = (num_below + num_not_above - second.size).astype(jnp.float32).mean() / second.size
    return jnp.where(jnp.isnan(first).any() | jnp.isnan(ordered[-1]), jnp.nan, delta)  # nan is last


def _as_float(values: Any) -> jax.Array:
    """Bools, integers and half precision become float32; float64 stays."""
    return widened(jnp.asarray(values))


def _tails(level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise InputError(f"level: {level}, must be between 0 and 1")
    return (1 - level) / 2, (1 + level) / 2
