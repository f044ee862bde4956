"""The rule of the verdict."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from memjax.reporting.claims import (
    CONTRADICTED,
    NOT_RESOLVED,
    NOT_TESTABLE,
    SUPPORTED,
    WITHIN_MARGIN,
    Claim,
    benjamini_hochberg,
    count_verdicts,
    holm,
    judge_all,
    primary_words,
    to_json,
)
from memjax.reporting.measurement import Confidence, Measurement, NotMeasurable, over_seeds

TABLE = pd.DataFrame()


def _claim(mean, error=0.01, direction="above", threshold=0.1, opposite=None, **fields):
    """A claim on an effect that is normal with a known standard error."""

    def test(table):
        beyond = scipy.stats.norm(mean, error)
        confidence = Confidence(lambda b: beyond.cdf(b), lambda b: beyond.sf(b))
        ends = beyond.ppf((0.025, 0.975))
        return Measurement(mean, *ends, 5, "seeds", "", confidence)

    defaults = {"name": "claim", "figure": "figure01", "sentence": "Noise is harder."}
    return Claim(
        **(defaults | {"statistic": "difference", "test": test, "why": "made up"} | fields),
        threshold=threshold,
        opposite=opposite,
        direction=direction,
    )


def judge(claim):
    """Returns the verdict on one claim, alone: nothing is corrected."""
    return judge_all([claim], {"figure01": TABLE})[0]


@pytest.mark.parametrize(
    ("mean", "error", "verdict"),
    [
        (0.3, 0.05, SUPPORTED),
        (0.19, 0.05, NOT_RESOLVED),
        (0.1, 0.01, NOT_RESOLVED),
        (0.0, 0.03, WITHIN_MARGIN),
        (0.07, 0.01, WITHIN_MARGIN),
        (0.0, 0.2, NOT_RESOLVED),
        (-0.1, 0.01, NOT_RESOLVED),
        (-0.3, 0.05, CONTRADICTED),
    ],
)
def test_verdict_is_what_the_whole_interval_says(mean, error, verdict):
    assert judge(_claim(mean, error)).verdict == verdict
    assert judge(_claim(-mean, error, direction="below", threshold=-0.1)).verdict == verdict


@pytest.mark.parametrize(
    ("mean", "error", "verdict"),
    [
        (0.0, 0.03, SUPPORTED),
        (0.0, 0.2, NOT_RESOLVED),
        (0.09, 0.02, NOT_RESOLVED),
        (0.3, 0.02, CONTRADICTED),
        (-0.3, 0.02, CONTRADICTED),
    ],
)
def test_claim_of_equality_is_two_one_sided_tests(mean, error, verdict):
    assert judge(_claim(mean, error, direction="within", opposite=-0.1)).verdict == verdict


def test_verdicts_are_wrong_at_most_as_often_as_they_say():
    rng = np.random.default_rng(0)
    truth, wrong = 0.1, 0  # exactly at the margin: neither verdict would be right
    for _ in range(600):
        claim = _claim(0.0)
        sample = rng.normal(truth, 1.0, 6)
        claim = dataclasses.replace(claim, test=lambda _, sample=sample: over_seeds(sample))
        wrong += judge(claim).verdict != NOT_RESOLVED
    assert wrong / 600 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 600)


def test_measurement_without_confidence_is_not_resolved():
    nothing = Measurement(math.nan, math.nan, math.nan, 5, "seeds")
    assert judge(dataclasses.replace(_claim(0.0), test=lambda _: nothing)).verdict == NOT_RESOLVED


def test_opposed_claims_are_never_both_supported():
    for mean, error in ((0.3, 0.05), (-0.3, 0.05), (0.0, 0.2), (0.0, 0.01)):
        one = judge(_claim(mean, error)).verdict
        other = judge(_claim(mean, error, direction="below", threshold=-0.1)).verdict
        assert (one == SUPPORTED) == (other == CONTRADICTED)
        assert (one == CONTRADICTED) == (other == SUPPORTED)


def test_opposite_threshold_of_its_own():
    assert judge(_claim(0.01, 0.005, opposite=0.05)).verdict == CONTRADICTED
    assert judge(_claim(0.075, 0.005, opposite=0.05)).verdict == WITHIN_MARGIN
    assert judge(_claim(0.05, 0.005, opposite=0.05)).verdict == NOT_RESOLVED


def test_closed_gate_says_why():
    verdict = judge(_claim(0.3, gate=lambda table: "the networks do not fit"))
    assert (verdict.verdict, verdict.reason) == (NOT_TESTABLE, "the networks do not fit")
    assert judge(_claim(0.3, gate=lambda table: "")).verdict == SUPPORTED


def test_corrections_are_those_of_the_textbook():
    p_values = np.array([0.001, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(holm(p_values), [0.004, 0.06, 0.06, 0.015])
    expected = scipy.stats.false_discovery_control(p_values, method="bh")
    np.testing.assert_allclose(benjamini_hochberg(p_values), expected)


def test_primary_claims_are_corrected_apart_and_harder():
    lone = _claim(0.12, 0.009)  # p about 0.026
    assert judge(lone).verdict == SUPPORTED
    many = [dataclasses.replace(lone, primary=True), *[_claim(0.1, primary=True)] * 9]
    verdict = judge_all(many, {"figure01": TABLE})[0]
    assert verdict.verdict == NOT_RESOLVED
    assert "alone it would be supported, not after Holm" in verdict.reason
    secondary = [lone, *[_claim(0.3)] * 9]
    assert judge_all([*secondary, *many], {"figure01": TABLE})[0].verdict == SUPPORTED


def test_primary_claims_are_counted_as_decided():
    verdicts = [judge(_claim(mean, primary=True)) for mean in (0.3, 0.0, 0.1)]
    assert primary_words(verdicts) == "2 of 3 primary claims decided"


def test_what_cannot_be_measured_is_not_resolved_and_says_why():
    def test(table):
        raise NotMeasurable("the table has no rows with level=0.8")

    verdict = judge(dataclasses.replace(_claim(0.0), test=test))
    assert verdict.verdict == NOT_RESOLVED
    assert "level=0.8" in verdict.reason


def test_claim_without_a_table_is_not_resolved():
    (verdict,) = judge_all([_claim(0.3)], {})
    assert verdict.verdict == NOT_RESOLVED
    assert "no table of figure01" in verdict.reason


def test_json_has_null_for_what_is_not_finite():
    verdict = dataclasses.replace(judge(_claim(0.3)), high=math.inf)
    written = json.loads(json.dumps(to_json(verdict), allow_nan=False))
    assert (written["high"], written["verdict"], written["primary"]) == (None, SUPPORTED, False)


def test_counts_name_every_verdict():
    verdicts = [judge(_claim(0.3)), judge(_claim(-0.3))]
    counts = dict.fromkeys((WITHIN_MARGIN, NOT_RESOLVED, NOT_TESTABLE), 0)
    assert count_verdicts(verdicts) == {SUPPORTED: 1, CONTRADICTED: 1} | counts
