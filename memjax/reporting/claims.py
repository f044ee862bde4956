"""Claims that are tested on tables, and the one rule of the verdict.

A claim says that an effect lies on one side of a threshold. The verdict looks at the whole
confidence interval of the effect:

- supported: the whole interval is beyond `threshold`, on the claimed side;
- contradicted: the whole interval is beyond `opposite`, on the other side. Unless a claim says
  otherwise, that is the mirror of the threshold: a difference as large, of the other sign;
- not resolved at this scale: anything else. No difference at all is not a contradiction: a larger
  experiment might show one.

Each interval is at 95 % by itself; with tens of claims one or two wrong verdicts are to be
expected if nothing but chance is at work.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import pandas as pd

from memjax.reporting.measurement import Measurement, NotMeasurable

SUPPORTED = "supported"
CONTRADICTED = "contradicted"
NOT_RESOLVED = "not resolved at this scale"
VERDICTS = (SUPPORTED, CONTRADICTED, NOT_RESOLVED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of the paper as a testable statement.

    Attributes:
      name: short and unique, such as 'figure01_real_varies'.
      figure: the experiment whose table it is tested on, such as 'figure01'.
      sentence: what the paper says.
      statistic: in words, with units, what is measured.
      test: takes the table and returns the effect; raises NotMeasurable if it cannot.
      threshold: what the whole interval must clear for the claim to be supported.
      why: one line: why a real difference clears this threshold.
      direction: whether the claim says that the effect is above or below the threshold.
      opposite: what the whole interval must clear on the other side for it to be contradicted;
        None is the mirror, -threshold.
      source: 'paper' or 'workshop version', where they differ.
    """

    name: str
    figure: str
    sentence: str
    statistic: str
    test: Callable[[pd.DataFrame], Measurement]
    threshold: float
    why: str
    direction: Literal["above", "below"] = "above"
    opposite: float | None = None
    source: str = "paper"

    @property
    def contradicted_beyond(self) -> float:
        """What the whole interval must clear, on the other side, to contradict the claim."""
        return 0.0 - self.threshold if self.opposite is None else self.opposite


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a claim; the numbers are nan where there was nothing to measure."""

    name: str
    figure: str
    sentence: str
    source: str
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
    verdict: str
    reason: str


def judge(claim: Claim, table: pd.DataFrame) -> Verdict:
    """Returns the verdict on a claim, by the rule at the top of this module.

    Args:
      claim: what to test.
      table: the table of its figure.
    """
    try:
        measured = claim.test(table)
    except NotMeasurable as error:
        return not_judged(claim, str(error))
    verdict = _decide(claim, measured)
    claimed = f"all {claim.direction} {format_number(claim.threshold)}"
    opposed = f"all {_other(claim.direction)} {format_number(claim.contradicted_beyond)}"
    found = {SUPPORTED: claimed, CONTRADICTED: opposed}
    reason = f"the interval is {found.get(verdict, f'neither {claimed} nor {opposed}')}"
    if math.isnan(measured.low) or math.isnan(measured.high):
        reason = "the statistic is undefined on this table"
    return _verdict(claim, measured, verdict, "; ".join(filter(None, (reason, measured.note))))


def not_judged(claim: Claim, reason: str) -> Verdict:
    """Returns 'not resolved' for a claim that could not be tested, with the reason."""
    nothing = Measurement(math.nan, math.nan, math.nan, 0, "nothing")
    return _verdict(claim, nothing, NOT_RESOLVED, reason)


def judge_all(claims: Iterable[Claim], tables: Mapping[str, pd.DataFrame]) -> list[Verdict]:
    """Returns the verdict on every claim; those whose figure has no table are not resolved.

    Args:
      claims: what to test.
      tables: the table of each figure that there is.
    """
    return [
        judge(claim, tables[claim.figure])
        if claim.figure in tables
        else not_judged(claim, f"there is no table of {claim.figure}")
        for claim in claims
    ]


def count_verdicts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Returns how many claims were supported, contradicted, not resolved."""
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


def _decide(claim: Claim, measured: Measurement) -> str:
    if claim.direction == "above":
        supported = measured.low > claim.threshold
        contradicted = measured.high < claim.contradicted_beyond
    else:
        supported = measured.high < claim.threshold
        contradicted = measured.low > claim.contradicted_beyond
    return SUPPORTED if supported else CONTRADICTED if contradicted else NOT_RESOLVED


def _other(direction: str) -> str:
    return "below" if direction == "above" else "above"


def _verdict(claim: Claim, measured: Measurement, verdict: str, reason: str) -> Verdict:
    return Verdict(
        name=claim.name,
        figure=claim.figure,
        sentence=claim.sentence,
        source=claim.source,
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
        verdict=verdict,
        reason=reason,
    )
