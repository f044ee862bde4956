"""What the protocol says is what the code judges."""

import pathlib
import re

import pytest

from memjax.experiments.registry import CLAIMS, EXPERIMENTS
from memjax.reporting.claims import format_number

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in TEXT.splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split(" | ")]]
}
PRIMARY = [claim for claim in CLAIMS if claim.primary]


def test_primary_claims_are_those_of_the_protocol():
    assert [claim.name for claim in PRIMARY] == [name.strip(" `") for name in ROWS]
    assert 12 <= len(PRIMARY) <= 15


def test_every_figure_of_the_paper_has_a_primary_claim():
    assert {claim.figure for claim in PRIMARY} >= {
        name for name in EXPERIMENTS if name.startswith("figure")
    }


@pytest.mark.parametrize("claim", PRIMARY, ids=[claim.name for claim in PRIMARY])
def test_sentence_statistic_and_margin_are_those_of_the_protocol(claim):
    sentence, statistic, margin, why, gate = {
        name.strip(" `"): cells for name, cells in ROWS.items()
    }[claim.name]
    assert (sentence, statistic, why) == (claim.sentence, claim.statistic, claim.why)
    assert margin.startswith(claim.direction)
    assert format_number(claim.threshold) in margin
    assert format_number(claim.contradicted_beyond) in margin
    assert (gate.strip(" |") == "yes") == (claim.gate is not None)


def test_protocol_is_dated_and_counts_right():
    assert re.search(r"Dated 2026-11-26", TEXT)
    assert f"{len(PRIMARY)} claims" in TEXT
    assert f"the other {len(CLAIMS) - len(PRIMARY)} are secondary" in TEXT
