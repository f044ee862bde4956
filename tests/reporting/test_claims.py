"""The rule of the verdict."""

import dataclasses
import json
import math

import pandas as pd
import pytest

from memjax.reporting.claims import (
    CONTRADICTED,
    NOT_RESOLVED,
    SUPPORTED,
    Claim,
    count_verdicts,
    judge,
    judge_all,
    to_json,
)
from memjax.reporting.measurement import Measurement, NotMeasurable

TABLE = pd.DataFrame()


def _claim(low, high, direction="above", threshold=0.1, opposite=None, name="claim"):
    measured = Measurement((low + high) / 2, low, high, 5, "seeds")
    return Claim(
        name=name,
        figure="figure01",
        sentence="Noise is harder.",
        statistic="difference",
        test=lambda _: measured,
        threshold=threshold,
        opposite=opposite,
        direction=direction,
        why="made up",
    )


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.11, 0.5, SUPPORTED),
        (0.1, 0.5, NOT_RESOLVED),
        (0.05, 0.5, NOT_RESOLVED),
        (-0.05, 0.05, NOT_RESOLVED),
        (-0.5, 0.5, NOT_RESOLVED),
        (-0.5, -0.05, NOT_RESOLVED),
        (-0.5, -0.1, NOT_RESOLVED),
        (-0.5, -0.11, CONTRADICTED),
        (0.2, math.inf, SUPPORTED),
        (-math.inf, math.inf, NOT_RESOLVED),
        (math.nan, math.nan, NOT_RESOLVED),
    ],
)
def test_whole_interval_must_clear_the_threshold(low, high, verdict):
    assert judge(_claim(low, high), TABLE).verdict == verdict
    mirrored = _claim(-high, -low, direction="below", threshold=-0.1)
    assert judge(mirrored, TABLE).verdict == verdict


def test_opposed_claims_are_never_both_supported():
    for low, high in ((0.2, 0.4), (-0.4, -0.2), (-0.4, 0.4), (0.0, 0.0)):
        one = judge(_claim(low, high), TABLE).verdict
        other = judge(_claim(low, high, direction="below", threshold=-0.1), TABLE).verdict
        assert (one == SUPPORTED) == (other == CONTRADICTED)
        assert (one == CONTRADICTED) == (other == SUPPORTED)


def test_opposite_threshold_of_its_own():
    assert judge(_claim(0.0, 0.02, opposite=0.05), TABLE).verdict == CONTRADICTED
    assert judge(_claim(0.06, 0.09, opposite=0.05), TABLE).verdict == NOT_RESOLVED


def test_what_cannot_be_measured_is_not_resolved_and_says_why():
    def test(table):
        raise NotMeasurable("the table has no rows with level=0.8")

    verdict = judge(dataclasses.replace(_claim(0.0, 1.0), test=test), TABLE)
    assert verdict.verdict == NOT_RESOLVED
    assert "level=0.8" in verdict.reason


def test_claim_without_a_table_is_not_resolved():
    (verdict,) = judge_all([_claim(0.2, 0.4)], {})
    assert verdict.verdict == NOT_RESOLVED
    assert "no table of figure01" in verdict.reason
    assert judge_all([_claim(0.2, 0.4)], {"figure01": TABLE})[0].verdict == SUPPORTED


def test_json_has_null_for_what_is_not_finite():
    verdict = judge(_claim(0.2, math.inf), TABLE)
    written = json.loads(json.dumps(to_json(verdict), allow_nan=False))
    assert (written["low"], written["high"], written["verdict"]) == (0.2, None, SUPPORTED)


def test_counts_name_every_verdict():
    verdicts = [judge(_claim(0.2, 0.4), TABLE), judge(_claim(-0.4, -0.2), TABLE)]
    assert count_verdicts(verdicts) == {SUPPORTED: 1, CONTRADICTED: 1, NOT_RESOLVED: 0}
