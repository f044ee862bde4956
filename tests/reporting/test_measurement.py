"""Intervals over seeds and examples cover the truth as often as they say."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from memjax.reporting.measurement import NotMeasurable, over_examples, over_seeds


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_interval_over_few_seeds_covers_the_mean_95_times_in_100(n):
    rng = np.random.default_rng(0)
    found = [over_seeds(rng.normal(1.0, 2.0, n)) for _ in range(400)]
    covered = np.mean([m.low <= 1.0 <= m.high for m in found])
    assert 0.92 <= covered <= 0.98


def test_interval_over_censored_seeds_covers_the_uncensored_mean():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        values = rng.normal(1.0, 2.0, 5)
        seen = values <= 2.0
        measured = over_seeds(np.where(seen, values, 2.0), np.where(seen, values, np.inf))
        covered.append(measured.low <= 1.0 <= measured.high)
    assert np.mean(covered) >= 0.94


def test_one_seed_has_no_interval():
    measured = over_seeds(np.array([3.0]))
    assert measured[:4] == (3.0, -np.inf, np.inf, 1)
    assert "one seed" in measured.note


def test_missing_seeds_are_left_out_and_said():
    measured = over_seeds(np.array([1.0, np.nan, 3.0]))
    assert (measured.effect, measured.n) == (2.0, 2)
    assert "1 of 3 seeds" in measured.note
    with pytest.raises(NotMeasurable, match="no seed"):
        over_seeds(np.array([np.nan]))


@given(
    st.lists(st.floats(-100, 100), min_size=2, max_size=8),
    st.floats(0.001, 50),
    st.integers(0, 7),
)
def test_bounds_only_widen_the_interval(values, slack, place):
    lower = np.array(values)
    known, bounded = over_seeds(lower), over_seeds(lower, lower + slack)
    assert bounded.low == known.low
    assert bounded.high == pytest.approx(known.high + slack)
    upper = lower.copy()
    upper[place % len(values)] = np.inf
    assert over_seeds(lower, upper)[1:3] == (known.low, np.inf)


def test_twenty_seeds_are_bootstrapped():
    values = np.random.default_rng(0).normal(0.0, 1.0, 30)
    measured = over_seeds(values)
    assert values.min() < measured.low < measured.effect < measured.high < values.max()
    assert abs(measured.effect - values.mean()) < 1e-6


def test_too_few_examples_have_no_interval():
    with pytest.raises(NotMeasurable, match="19 examples"):
        over_examples(jnp.mean, jnp.zeros(19))
