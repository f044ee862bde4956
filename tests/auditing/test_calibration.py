"""Planted flips calibrate: probabilities are frequencies, and the rate is the rate."""

import numpy as np
import pandas as pd
import pytest

from memjax.auditing.calibration import calibrate, calibrate_fixed
from memjax.auditing.noise import (
    count_confusions,
    expected_transition,
    flip_all,
    mixture_rate,
    noise_rate,
    plant,
    transition,
)

N = 4000


def _scores(rng, is_wrong):
    """Two scores with the truth known: wrong labels are two deviations lower in the first."""
    first = rng.normal(np.where(is_wrong, -2.0, 0.0), 1.0)
    return pd.DataFrame({"good_margin": first, "noise_margin": rng.normal(size=len(is_wrong))})


@pytest.mark.parametrize(("rate", "planted_rate"), [(0.2, 0.2), (0.05, 0.15), (0.3, 0.2)])
def test_probabilities_are_frequencies_whatever_rate_was_planted(rate, planted_rate):
    rng = np.random.default_rng(0)
    is_wrong, is_planted = rng.random(N) < rate, rng.random(N) < planted_rate
    found = calibrate(_scores(rng, is_wrong), _scores(rng, is_planted), is_planted)
    assert found.rate.low - 0.02 <= is_wrong.mean() <= found.rate.high + 0.02
    for low in (0.0, 0.25, 0.5, 0.75):
        chosen = (found.probability_wrong >= low) & (found.probability_wrong < low + 0.25)
        if chosen.sum() > 100:
            predicted = found.probability_wrong[chosen].mean()
            assert abs(predicted - is_wrong[chosen].mean()) < 0.1
    assert found.evidence["score"].iloc[0] in ("combined", "good_margin")


def test_clean_labels_have_a_rate_below_two_percent():
    rng = np.random.default_rng(1)
    is_planted = rng.random(N) < 0.05
    is_wrong = np.zeros(N, bool)
    found = calibrate(_scores(rng, is_wrong) + 1.5, _scores(rng, is_planted) + 1.5, is_planted)
    assert found.rate.rate < 0.02
    assert found.probability_wrong.mean() < 0.02


def test_fixed_probabilities_are_calibrated_though_the_labels_are_wrong_already():
    rng = np.random.default_rng(2)
    is_wrong = rng.random(N) < 0.2
    separated = _scores(rng, is_wrong) * 2
    found = calibrate_fixed(separated, _scores(rng, np.ones(N, bool)) * 2)
    assert abs(found.rate.rate - is_wrong.mean()) < 0.06
    assert found.probability_wrong[is_wrong].mean() > 4 * found.probability_wrong[~is_wrong].mean()


def test_too_few_planted_flips_are_refused():
    scores = _scores(np.random.default_rng(0), np.zeros(100, bool))
    with pytest.raises(ValueError, match="3 of 100 labels planted"):
        calibrate(scores, scores, np.arange(100) < 3)


def test_rates_are_found_where_wrong_and_right_labels_overlap():
    rng = np.random.default_rng(3)
    wrong, right = rng.normal(2, 1, 2000), rng.normal(0, 1, 2000)
    given = np.concatenate([rng.normal(2, 1, 600), rng.normal(0, 1, 1400)])
    copy, is_planted = np.concatenate([wrong, right]), np.arange(4000) < 2000
    found = noise_rate(given, copy, is_planted)
    assert found.low <= 0.3 <= found.high
    assert abs(mixture_rate(given, wrong).rate - 0.3) < 0.1


def test_planted_flips_have_the_shape_and_rate_of_the_confusions():
    counts = np.array([[70, 30, 0], [0, 100, 0], [5, 0, 95]])
    flips = transition(counts)
    assert np.allclose(flips.sum(axis=1), 1)
    assert np.allclose(flips, counts / 100, atol=0.01)
    labels = np.repeat([0, 1, 2], 20_000)
    planted = plant(np.random.default_rng(0), labels, flips)
    shares = count_confusions(labels, planted, 3) / 20_000
    assert np.abs(shares - flips).max() < 0.01
    assert (flip_all(np.random.default_rng(0), labels, flips) != labels).all()


def test_no_class_is_flipped_beyond_what_can_be_told():
    flips = transition(np.array([[10, 90], [0, 100]]))
    assert flips[0, 1] == pytest.approx(0.45)


def test_the_expected_transition_has_the_rate_of_the_probabilities():
    rng = np.random.default_rng(4)
    labels, suggested = rng.integers(0, 4, N), rng.integers(1, 4, N)
    suggested = (labels + suggested) % 4
    wrong = rng.random(N) ** 3
    flips = expected_transition(labels, suggested, wrong, 4)
    assert np.allclose(flips.sum(axis=1), 1)
    of_class = np.bincount(suggested, wrong, 4) + np.bincount(labels, 1 - wrong, 4)
    assert ((1 - np.diag(flips)) * of_class).sum() / N == pytest.approx(wrong.mean())
