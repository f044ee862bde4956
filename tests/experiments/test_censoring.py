"""Runs that were stopped before they converged count by what is known of them."""

import numpy as np

from memjax.experiments import figure06
from tests.experiments.made_up import table_of


def test_censored_noise_supports_a_lower_bound_and_nothing_more():
    table = table_of("figure06", np.random.default_rng(0), later=3.0, epochs_run=150)
    assert table["epochs_to_fit"].isna().any()
    measured = figure06.measure_later(table)
    assert 0.32 < measured.low < measured.effect
    assert measured.high == np.inf
    assert "censored" in measured.note


def test_longer_training_only_narrows_the_bounds():
    tables = [
        table_of("figure06", np.random.default_rng(0), later=2.0, epochs_run=epochs)
        for epochs in (60, 200, 10_000)
    ]
    found = [figure06.measure_later(table) for table in tables]
    assert found[0].low < found[1].low < found[2].low
    assert found[2].high < np.inf


def test_difference_of_two_censored_times_is_unknown():
    table = table_of("figure06", np.random.default_rng(0), epochs_run=1)
    measured = figure06.measure_noise_slowed_more(table, "capacity")
    assert (measured.low, measured.high) == (-np.inf, np.inf)
    assert np.isnan(measured.effect)


def test_real_data_censored_too_cannot_support_that_noise_is_slowed_more():
    table = table_of("figure06", np.random.default_rng(0), capacity_real=6.0, epochs_run=300)
    real = table[(table["level"] == 0) & (table["panel"] == "capacity")]
    assert real["epochs_to_fit"].isna().any()
    measured = figure06.measure_noise_slowed_more(table, "capacity")
    assert measured.low == -np.inf
