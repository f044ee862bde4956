"""Runs that were stopped before they converged count by what is known of them."""

import numpy as np
import pytest

from memjax.experiments import figure06
from memjax.reporting.measurement import NotMeasurable
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


def test_widths_that_do_not_fit_real_data_say_nothing():
    table = table_of("figure06", np.random.default_rng(0), epochs_run=1)
    with pytest.raises(NotMeasurable, match="fitted at 0 widths"):
        figure06.measure_noise_slowed_more(table, "capacity")


def test_smallest_width_is_the_smallest_that_fits_real_data():
    table = table_of("figure06", np.random.default_rng(0), capacity_real=6.0, epochs_run=300)
    real = table[(table["level"] == 0) & (table["panel"] == "capacity")]
    unfitted = set(real["width"][real["epochs_to_fit"].isna()])
    assert unfitted
    rest = table[~table["width"].isin(unfitted)]
    measured = figure06.measure_noise_slowed_more(table, "capacity")
    assert measured[:3] == figure06.measure_noise_slowed_more(rest, "capacity")[:3]


def test_time_lies_between_two_evaluations():
    table = table_of("figure06", np.random.default_rng(0))
    coarse = table.assign(epochs_before=table["epochs_to_fit"] / 2)
    fine, wide = (figure06.measure_slowing(t, "capacity", noisy=True) for t in (table, coarse))
    assert wide.low < fine.low
    assert wide.high > fine.high
    assert "censored" in wide.note
