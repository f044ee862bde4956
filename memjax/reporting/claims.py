"""Claims that are tested on tables, and the one rule of the verdict.

A claim says that an effect lies above, below, or within a margin. Its verdict is one of five:

- supported: the effect is beyond `threshold` on the claimed side (of a claim of equality: within
  the margin, by two one-sided tests);
- contradicted: it is beyond `opposite` on the other side (outside the margin);
- smaller than the margin: it is between the two, so that there is no difference worth the name;
- not resolved: the data do not say which;
- not testable here: a gate failed, so that the networks are not what the claim is about.

Each of the first three is a test at 2.5 %, the three exclude each other, and a claim's p-value is
twice the smallest. What is decided is decided after a correction: Holm's over the primary claims
(no wrong verdict among them, with 95 % probability), Benjamini and Hochberg's over the others (at
most 5 % of the verdicts wrong). The intervals shown are at 95 % each, uncorrected.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from memjax.reporting.measurement import Confidence, Measurement, NotMeasurable

SUPPORTED = "supported"
CONTRADICTED = "contradicted"
WITHIN_MARGIN = "smaller than the margin"
NOT_RESOLVED = "not resolved at this scale"
NOT_TESTABLE = "not testable here"
VERDICTS = (SUPPORTED, CONTRADICTED, WITHIN_MARGIN, NOT_RESOLVED, NOT_TESTABLE)
DECIDED = VERDICTS[:3]
ERROR_RATE = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of the paper as a testable statement.

    Attributes:
      name: short and unique, such as 'figure01_real_varies'.
      figure: the experiment whose table it is tested on, such as 'figure01'.
      sentence: what the paper says.
      statistic: in words, with units, what is measured.
      test: takes the table and returns the effect; raises NotMeasurable if it cannot.
      threshold: what the effect must clear for the claim to be supported; of a claim of equality
        the upper end of the margin.
      why: one line: why a real difference clears this threshold.
      direction: whether the claim says that the effect is above or below the threshold, or within
        (opposite, threshold).
      opposite: what it must clear on the other side for the claim to be contradicted; None is the
        mirror, -threshold.
      primary: one of the few that the protocol names beforehand.
      gate: takes the table and returns why the claim cannot be tested on it; '' if it can.
      source: 'paper' or 'workshop version', where they differ.
    """

    name: str
    figure: str
    sentence: str
    statistic: str
    test: Callable[[pd.DataFrame], Measurement]
    threshold: float
    why: str
    direction: Literal["above", "below", "within"] = "above"
    opposite: float | None = None
    primary: bool = False
    gate: Callable[[pd.DataFrame], str] | None = None
    source: str = "paper"

    @property
    def contradicted_beyond(self) -> float:
        """What the effect must clear, on the other side, to contradict the claim."""
        return 0.0 - self.threshold if self.opposite is None else self.opposite


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a claim; the numbers are nan where there was nothing to measure.

    `p_value` is of the likeliest of the three decided verdicts, `adjusted` after the correction.
    """

    name: str
    figure: str
    sentence: str
    source: str
    primary: bool
    statistic: str
    effect: float
    low: float
    high: float
    n: int
    over: str
    direction: str
    threshold: float
    opposite: float
    why: str
    p_value: float
    adjusted: float
    verdict: str
    reason: str


class _Finding(NamedTuple):
    """A claim before the correction: the likeliest decided verdict, or what stands in its way."""

    claim: Claim
    measured: Measurement
    verdict: str
    p_value: float
    reason: str


def judge_all(claims: Iterable[Claim], tables: Mapping[str, pd.DataFrame]) -> list[Verdict]:
    """Returns the verdict on every claim, by the rule at the top of this module.

    Args:
      claims: what to test: all of a report, for they are corrected together.
      tables: the table of each figure that there is.
    """
    findings = [_find(claim, tables) for claim in claims]
    adjusted = np.full(len(findings), math.nan)
    is_primary = np.array([finding.claim.primary for finding in findings], bool)
    p_values = np.array([finding.p_value for finding in findings], float)
    for chosen, correct in ((is_primary, holm), (~is_primary, benjamini_hochberg)):
        tested = chosen & np.isfinite(p_values)
        adjusted[tested] = correct(p_values[tested])
    return [_verdict(*pair) for pair in zip(findings, adjusted.tolist(), strict=True)]


def not_judged(claim: Claim, reason: str) -> Verdict:
    """Returns 'not resolved' for a claim that could not be tested, with the reason."""
    return _verdict(_nothing(claim, NOT_RESOLVED, reason), math.nan)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Returns p-values after Holm's correction (1979): any wrong at most as often as they say.

    Args:
      p_values: [k].

    Example:
      >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
      [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    adjusted = np.empty_like(stepped)
    adjusted[order] = stepped
    return adjusted


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """Returns p-values whose share of wrong ones is controlled (Benjamini and Hochberg 1995).

    Args:
      p_values: [k].

    Example:
      >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03])).round(3).tolist()
      [0.03, 0.04, 0.04]
    """
    order = np.argsort(p_values)[::-1]
    factors = len(p_values) / np.arange(len(p_values), 0, -1)
    stepped = np.minimum(1.0, np.minimum.accumulate(p_values[order] * factors))
    adjusted = np.empty_like(stepped)
    adjusted[order] = stepped
    return adjusted


def count_verdicts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Returns how many claims have each verdict."""
    found = [verdict.verdict for verdict in verdicts]
    return {verdict: found.count(verdict) for verdict in VERDICTS}


def to_json(verdict: Verdict) -> dict[str, Any]:
    """Returns a verdict as JSON values; a number that is not finite becomes null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dataclasses.asdict(verdict).items()
    }


def format_number(value: float) -> str:
    """Returns a number as three significant digits."""
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    return f"{value:.3g}"


def _find(claim: Claim, tables: Mapping[str, pd.DataFrame]) -> _Finding:
    if claim.figure not in tables:
        return _nothing(claim, NOT_RESOLVED, f"there is no table of {claim.figure}")
    table = tables[claim.figure]
    try:
        closed = claim.gate(table) if claim.gate else ""
        if closed:
            return _nothing(claim, NOT_TESTABLE, closed)
        measured = claim.test(table)
    except NotMeasurable as error:
        return _nothing(claim, NOT_RESOLVED, str(error))
    if math.isnan(measured.low) or math.isnan(measured.high) or measured.confidence is None:
        reason = "the statistic is undefined on this table"
        return _Finding(claim, measured, NOT_RESOLVED, 1.0, reason)
    chances = _p_values(claim, measured.confidence)
    verdict = min(chances, key=lambda name: chances[name])
    return _Finding(claim, measured, verdict, min(1.0, 2 * chances[verdict]), measured.note)


def _nothing(claim: Claim, verdict: str, reason: str) -> _Finding:
    nothing = Measurement(math.nan, math.nan, math.nan, 0, "nothing")
    return _Finding(claim, nothing, verdict, math.nan, reason)


def _p_values(claim: Claim, confidence: Confidence) -> dict[str, float]:
    """Returns the p-value of each decided verdict that the claim can have."""
    threshold, opposite = claim.threshold, claim.contradicted_beyond
    if claim.direction == "within":
        return {
            SUPPORTED: max(confidence.of_below(threshold), confidence.of_above(opposite)),
            CONTRADICTED: min(confidence.of_above(threshold), confidence.of_below(opposite)),
        }
    beyond = {"above": (confidence.of_above, confidence.of_below)}.get(
        claim.direction, (confidence.of_below, confidence.of_above)
    )
    supports, contradicts = beyond
    chances = {SUPPORTED: supports(threshold), CONTRADICTED: contradicts(opposite)}
    if threshold != opposite:
        chances[WITHIN_MARGIN] = max(contradicts(threshold), supports(opposite))
    return chances


def _verdict(finding: _Finding, adjusted: float) -> Verdict:
    claim, measured = finding.claim, finding.measured
    is_decided = math.isfinite(adjusted) and adjusted <= ERROR_RATE
    verdict = finding.verdict
    if math.isfinite(adjusted) and not is_decided:
        verdict = NOT_RESOLVED
    reason = finding.reason
    if math.isfinite(adjusted):
        which = "Holm" if claim.primary else "Benjamini-Hochberg"
        words = ""
        if not is_decided and finding.p_value <= ERROR_RATE:
            words = f"alone it would be {finding.verdict}, not after {which}'s correction"
        reason = "; ".join(filter(None, (words, reason)))
    return Verdict(
        name=claim.name,
        figure=claim.figure,
        sentence=claim.sentence,
        source=claim.source,
        primary=claim.primary,
        statistic=claim.statistic,
        effect=measured.effect,
        low=measured.low,
        high=measured.high,
        n=measured.n,
        over=measured.over,
        direction=claim.direction,
        threshold=claim.threshold,
        opposite=claim.contradicted_beyond,
        why=claim.why,
        p_value=finding.p_value,
        adjusted=adjusted,
        verdict=verdict,
        reason=reason,
    )


def primary_words(verdicts: Sequence[Verdict]) -> str:
    """Returns how many primary claims were decided, in words."""
    primary = [verdict for verdict in verdicts if verdict.primary]
    decided = sum(verdict.verdict in DECIDED for verdict in primary)
    return f"{decided} of {len(primary)} primary claims decided"
