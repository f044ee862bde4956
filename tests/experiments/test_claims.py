"""Every claim's test finds what is true in tables where the truth is known, both ways."""

import numpy as np
import pytest

from memjax.experiments.registry import CLAIMS, EXPERIMENTS
from memjax.reporting.claims import (
    CONTRADICTED,
    NOT_RESOLVED,
    NOT_TESTABLE,
    SUPPORTED,
    WITHIN_MARGIN,
    judge_all,
)
from tests.experiments.cases import CASES, SMALLER
from tests.experiments.made_up import table_of

NAMES = [claim.name for claim in CLAIMS]
OVER_SEEDS = [claim for claim in CLAIMS if claim.figure != "figure01"]
GATED = [claim for claim in CLAIMS if claim.gate]


def _verdict(claim, truth, seed=0, **changes):
    table = table_of(claim.figure, np.random.default_rng(seed), **truth, **changes)
    return judge_all([claim], {claim.figure: table})[0]


@pytest.mark.parametrize("claim", CLAIMS, ids=NAMES)
def test_claim_that_holds_is_supported(claim):
    verdict = _verdict(claim, CASES[claim.name][0])
    assert verdict.verdict == SUPPORTED, verdict


@pytest.mark.parametrize("claim", CLAIMS, ids=NAMES)
def test_claim_of_which_the_opposite_holds_is_contradicted(claim):
    verdict = _verdict(claim, CASES[claim.name][1])
    assert verdict.verdict == CONTRADICTED, verdict


@pytest.mark.parametrize("claim", CLAIMS, ids=NAMES)
def test_noise_is_not_resolved(claim):
    # A test at 5 % may be wrong now and then: two tables of six; and "smaller" may be seen.
    found = [_verdict(claim, CASES[claim.name][2], seed) for seed in range(6)]
    wrong = [verdict for verdict in found if verdict.verdict in (SUPPORTED, CONTRADICTED)]
    assert len(wrong) <= 2, wrong
    assert any(verdict.verdict == NOT_RESOLVED for verdict in found), found


@pytest.mark.parametrize("name", SMALLER)
def test_effect_between_the_margins_is_smaller_than_the_margin(name):
    (claim,) = (claim for claim in CLAIMS if claim.name == name)
    assert _verdict(claim, SMALLER[name]).verdict == WITHIN_MARGIN


@pytest.mark.parametrize("claim", GATED, ids=[claim.name for claim in GATED])
def test_claim_on_networks_that_do_not_fit_is_not_testable(claim):
    truth = CASES[claim.name][0]
    truth = truth | ({"real": 0.0} if claim.figure == "figure02" else {"fitted": 0.5})
    verdict = _verdict(claim, truth)
    assert verdict.verdict == NOT_TESTABLE
    assert "needed" in verdict.reason


@pytest.mark.parametrize("claim", OVER_SEEDS, ids=[claim.name for claim in OVER_SEEDS])
def test_one_seed_never_resolves_a_claim_between_seeds(claim):
    verdict = _verdict(claim, CASES[claim.name][0], seeds=1)
    assert verdict.verdict == NOT_RESOLVED
    assert "seed" in verdict.reason


@pytest.mark.parametrize("claim", CLAIMS, ids=NAMES)
def test_threshold_and_its_opposite_do_not_overlap(claim):
    if claim.direction in ("above", "within"):
        assert claim.threshold >= claim.contradicted_beyond
    else:
        assert claim.threshold <= claim.contradicted_beyond


def test_claims_have_names_of_their_own_and_a_figure():
    assert len(set(NAMES)) == len(NAMES) >= 25
    assert {claim.figure for claim in CLAIMS} == set(EXPERIMENTS)
    assert set(CASES) == set(NAMES)


def test_paper_and_workshop_version_are_never_both_supported():
    later, sooner = (
        next(claim for claim in CLAIMS if claim.name == f"figure06_noise_{word}")
        for word in ("later", "sooner")
    )
    for truth in ({"later": 1.5}, {"later": -1.5}, {"later": 0.0, "noise": 0.5}):
        found = {_verdict(later, truth).verdict, _verdict(sooner, truth).verdict}
        assert found in ({SUPPORTED, CONTRADICTED}, {NOT_RESOLVED})
