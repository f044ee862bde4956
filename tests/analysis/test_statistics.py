"""Statistics against closed forms, scipy and seeded simulations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from memjax.analysis import statistics
from memjax.errors import InputError

# One length, so that the properties compile once.
VALUES = hnp.arrays(np.float32, 12, elements=st.floats(0, 1e6, width=32))


def _gini_by_pairs(values):
    """The definition by mean absolute differences, in float64."""
    values = np.asarray(values, np.float64)
    if values.sum() == 0:
        return 0.0
    return np.abs(values[:, None] - values[None]).mean() / (2 * values.mean())


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
def test_gini_has_its_closed_forms(n):
    np.testing.assert_allclose(statistics.gini(jnp.full(n, 0.3)), 0, atol=1e-6)
    np.testing.assert_allclose(statistics.gini(jax.nn.one_hot(n // 2, n)), 1 - 1 / n, rtol=1e-6)
    expected = (n - 1) / (3 * n)
    np.testing.assert_allclose(statistics.gini(jnp.arange(1, n + 1)), expected, rtol=1e-5)


@given(VALUES)
def test_gini_is_half_the_relative_mean_difference_and_bounded(values):
    gini = float(statistics.gini(values))
    assert -1e-6 <= gini <= 1 - 1 / values.size + 1e-6
    np.testing.assert_allclose(gini, _gini_by_pairs(values), atol=2e-6)


@given(VALUES, st.floats(1e-3, 1e3), st.permutations(range(12)))
def test_gini_ignores_scale_order_and_replication(values, scale, order):
    values = np.maximum(values, 0) + (values > 0)  # no subnormal products
    gini = statistics.gini(values)
    np.testing.assert_allclose(statistics.gini(values[order] * np.float32(scale)), gini, atol=2e-6)
    np.testing.assert_allclose(statistics.gini(np.tile(values, 3)), gini, atol=2e-6)


def test_gini_of_all_zeros_is_zero_and_of_nan_is_nan():
    assert statistics.gini(jnp.zeros(5)) == 0
    assert jnp.isnan(statistics.gini(jnp.array([1.0, jnp.nan, 0.0])))


def test_gini_survives_the_ends_of_the_float_range():
    values = np.tile(np.array([1.0, 2.0, 3.0, 4.0], np.float32), 5)
    for scale in (1e-37, 2e37):
        np.testing.assert_allclose(statistics.gini(values * np.float32(scale)), 0.25, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gini_along_an_axis_equals_a_loop(axis):
    values = np.random.default_rng(0).exponential(size=(4, 6, 3)).astype(np.float32)
    result = jax.jit(statistics.gini, static_argnames="axis")(values, axis=axis)
    np.testing.assert_allclose(result, np.apply_along_axis(_gini_by_pairs, axis, values), rtol=1e-5)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(statistics.gini(values), _gini_by_pairs(values.ravel()), rtol=1e-5)


def test_gini_of_nothing_is_refused():
    with pytest.raises(InputError, match="values"):
        statistics.gini(jnp.zeros((3, 0)), axis=1)


def test_overdispersion_is_exactly_one_in_expectation_given_the_total():
    # All ways to place 3 correct answers in 2 runs of 3 examples: the mean ratio is 1, not nearly.
    ratios = []
    for placed in range(2**6):
        correct = np.array([placed >> bit & 1 for bit in range(6)], bool).reshape(2, 3)
        if correct.sum() == 3:
            ratios.append(float(statistics.overdispersion(jnp.asarray(correct))))
    assert len(ratios) == 20
    np.testing.assert_allclose(np.mean(ratios), 1, rtol=1e-6)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.97])
def test_overdispersion_is_about_one_for_equally_hard_examples(probability):
    correct = jax.random.bernoulli(jax.random.key(0), probability, (200, 30, 100))
    ratios = jax.vmap(statistics.overdispersion)(correct)
    standard_error = ratios.std() / len(ratios) ** 0.5
    assert abs(ratios.mean() - 1) < 4 * standard_error < 0.1


@given(st.floats(0.05, 0.95), st.floats(0.3, 1), st.integers(0, 2**31 - 1))
def test_overdispersion_of_a_mixture_is_larger(mean, spread, seed):
    half_width = spread * min(mean, 1 - mean)
    key = jax.random.key(seed)
    hardness = mean + half_width * jnp.where(jnp.arange(400) % 2 == 0, 1.0, -1.0)
    correct = jax.random.uniform(key, (100, 400)) < hardness[None]
    ratio = statistics.overdispersion(correct)
    expected = 1 + 99 * half_width**2 / (mean * (1 - mean))
    np.testing.assert_allclose(ratio, expected, rtol=0.5)
    assert ratio > 1


def test_overdispersion_of_always_right_or_always_wrong_is_near_the_number_of_runs():
    correct = jnp.broadcast_to(jnp.arange(100)[None] < 30, (50, 100))
    np.testing.assert_allclose(statistics.overdispersion(correct), 50, rtol=0.02)


def test_overdispersion_without_any_variation_is_undefined():
    assert jnp.isnan(statistics.overdispersion(jnp.ones((5, 4), bool)))


@pytest.mark.parametrize("shape", [(5,), (0, 5), (5, 1), (2, 3, 4)])
def test_overdispersion_refuses_other_shapes(shape):
    with pytest.raises(InputError, match="correct"):
        statistics.overdispersion(jnp.ones(shape, bool))


def test_binomial_null_draws_and_band_have_the_exact_distribution():
    runs, n, p = 20, 50, 0.7
    null = statistics.binomial_null(jax.random.key(2), runs, p, n, num_draws=4000, level=0.9)
    draws = np.asarray(null.draws)
    assert draws.dtype == np.float32
    assert (np.diff(draws, axis=1) >= 0).all()
    share = np.bincount(np.rint(draws.ravel() * runs).astype(int), minlength=runs + 1) / draws.size
    counts = np.arange(runs + 1)
    np.testing.assert_allclose(share, scipy.stats.binom.pmf(counts, runs, p), atol=0.003)
    # P(k-th smallest <= x) = P(Beta(k, n - k + 1) <= binomial distribution function at x).
    rank = np.arange(1, n + 1)
    below = scipy.stats.binom.cdf(counts, runs, p)
    exact = scipy.stats.beta.cdf(below[None], rank[:, None], n - rank[:, None] + 1)
    for edge, probability in ((null.lower, 0.05), (null.median, 0.5), (null.upper, 0.95)):
        count = np.rint(np.asarray(edge) * runs).astype(int)
        # The edge is the exact quantile, up to the noise of 4000 draws.
        assert (exact[rank - 1, count] > probability - 0.03).all()
        assert (exact[rank - 1, count - 1] < probability + 0.03).all()


@pytest.mark.parametrize(
    "wrong", [{"runs": 0}, {"n": 0}, {"num_draws": 0}, {"level": 1.0}, {"level": float("nan")}]
)
def test_binomial_null_refuses_bad_numbers(wrong):
    arguments = {"runs": 10, "probability": 0.5, "n": 5} | wrong
    with pytest.raises(InputError, match=next(iter(wrong))):
        statistics.binomial_null(jax.random.key(0), **arguments)


def test_bootstrap_coverage_of_a_mean_is_nearly_nominal():
    samples = jax.random.exponential(jax.random.key(3), (400, 40))
    keys = jax.random.split(jax.random.key(4), 400)
    interval = jax.vmap(
        lambda key, sample: statistics.bootstrap_interval(
            key, jnp.mean, sample, level=0.9, num_resamples=200
        )
    )(keys, samples)
    coverage = jnp.mean((interval.lower <= 1) & (interval.upper >= 1))
    # Skewed data at n = 40: the percentile interval covers a little less than it says.
    assert 0.83 < coverage < 0.93


def test_bootstrap_depends_on_the_key_and_not_on_the_batch_size():
    values = jax.random.normal(jax.random.key(5), (500,))
    first, same, other = (
        statistics.bootstrap_interval(jax.random.key(seed), jnp.mean, values, batch_size=size)
        for seed, size in ((0, 100), (0, 70), (1, 100))
    )
    np.testing.assert_array_equal(jnp.stack(first), jnp.stack(same))
    assert first.lower != other.lower
    np.testing.assert_allclose(first.estimate, values.mean(), rtol=1e-6)
    # The interval of a mean has the width of the normal one.
    half = 1.96 * values.std() / 500**0.5
    np.testing.assert_allclose(first.upper - first.lower, 2 * half, rtol=0.1)


def _slope(values):
    centered = values["x"] - values["x"].mean()
    return (centered * values["y"]).sum() / (centered**2).sum()


def test_bootstrap_resamples_a_pytree_in_pairs_along_the_axis():
    x = jnp.arange(10.0)
    interval = statistics.bootstrap_interval(jax.random.key(0), _slope, {"x": x, "y": 2 * x})
    np.testing.assert_allclose(jnp.stack(interval), 2.0, rtol=1e-5)


def _mean_over_columns(values):
    return values.mean(1)


def test_bootstrap_takes_another_axis_and_a_statistic_with_many_values():
    values = jnp.array([[1.0, 1.0, 1.0], [0.0, 1.0, 2.0]])
    interval = statistics.bootstrap_interval(jax.random.key(0), _mean_over_columns, values, axis=1)
    np.testing.assert_array_equal(interval.estimate, [1, 1])
    np.testing.assert_array_equal(interval.lower, [1, 0])
    np.testing.assert_allclose(interval.upper, [1, 2], atol=0.34)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"level": 0.0}, "level"),
        ({"num_resamples": 0}, "num_resamples"),
        ({"batch_size": 0}, "batch_size"),
        ({"values": jnp.zeros(0)}, "values"),
        ({"values": (jnp.zeros(2), jnp.zeros(3))}, "values"),
    ],
)
def test_bootstrap_refuses_bad_arguments(wrong, field):
    arguments = {"values": jnp.zeros(3)} | wrong
    with pytest.raises(InputError, match=field):
        statistics.bootstrap_interval(jax.random.key(0), jnp.mean, **arguments)


@pytest.mark.parametrize("paired", [False, True])
def test_mean_difference_interval_equals_scipy(paired):
    generator = np.random.default_rng(0)
    first, second = generator.normal(1, 2, 8), generator.normal(0, 1, 8 if paired else 5)
    test = (
        scipy.stats.ttest_rel(first, second)
        if paired
        else scipy.stats.ttest_ind(first, second, equal_var=False)
    )
    expected = test.confidence_interval(0.9)
    interval = statistics.mean_difference_interval(first, second, level=0.9, paired=paired)
    np.testing.assert_allclose(interval[1:], expected, rtol=1e-12)
    np.testing.assert_allclose(interval.estimate, first.mean() - second.mean(), rtol=1e-12)


def test_mean_difference_of_constants_has_no_width():
    assert statistics.mean_difference_interval([1.0, 1.0], [3.0, 3.0]) == (-2.0, -2.0, -2.0)


@pytest.mark.parametrize(
    ("first", "second", "paired"), [([1.0], [1.0, 2.0], False), ([1.0, 2.0], [1.0] * 3, True)]
)
def test_mean_difference_refuses_too_few_or_unmatched_values(first, second, paired):
    with pytest.raises(InputError, match="first, second"):
        statistics.mean_difference_interval(first, second, paired=paired)


@given(hnp.arrays(np.int32, 9, elements=st.integers(0, 5)), VALUES)
def test_cliffs_delta_equals_all_pairs(first, second):
    first, second = first.astype(np.float32), np.rint(second % 6)
    expected = np.sign(first[:, None] - second[None]).mean()
    np.testing.assert_allclose(statistics.cliffs_delta(first, second), expected, atol=1e-6)


def test_cliffs_delta_of_nothing_is_refused():
    with pytest.raises(InputError, match="first, second"):
        statistics.cliffs_delta(jnp.zeros(0), jnp.zeros(3))


def test_gini_of_a_negative_value_is_nan_in_its_row_alone():
    found = statistics.gini(jnp.array([[-1.0, 3.0], [0.0, 3.0]]), axis=1)
    np.testing.assert_array_equal(found, [np.nan, 0.5])


def test_cliffs_delta_takes_lists_and_is_nan_of_nan():
    assert statistics.cliffs_delta([2.0, 3.0], [1, 2]) == 0.75
    assert np.isnan(statistics.cliffs_delta([np.nan, 3.0], [1.0]))
    assert np.isnan(statistics.cliffs_delta([2.0, 3.0], [1.0, np.nan]))
