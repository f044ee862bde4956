"""What the HTML and the Markdown report say in the same words."""

import math

from memjax.reporting.claims import CONTRADICTED, NOT_RESOLVED, SUPPORTED, Verdict, format_number

SYMBOLS = {SUPPORTED: "✓", CONTRADICTED: "✗", NOT_RESOLVED: "?"}

HOW_TO_READ = (
    "Each claim has a statistic and a threshold, both written before any result was looked at. It "
    "is supported if the whole 95 % confidence interval clears the threshold, contradicted if all "
    "of it lies beyond the opposite threshold, and otherwise not resolved at this scale. Intervals "
    "are over seeds or over examples, whichever the claim is about; one seed has none. Each is at "
    "95 % by itself: with tens of claims one or two wrong verdicts are to be expected."
)


def effect_words(verdict: Verdict) -> str:
    """Returns the effect with its interval: '0.48 [0.44, 0.52], 5 seeds'."""
    if verdict.n == 0:
        return "not measured"
    low, high = format_number(verdict.low), format_number(verdict.high)
    effect = "unknown" if math.isnan(verdict.effect) else format_number(verdict.effect)
    over = verdict.over if verdict.n != 1 else verdict.over.removesuffix("s")
    return f"{effect} [{low}, {high}], {verdict.n} {over}"


def threshold_words(verdict: Verdict) -> str:
    """Returns the threshold and its opposite: 'above 0.1; contradicted below -0.1'."""
    other = "below" if verdict.direction == "above" else "above"
    return (
        f"{verdict.direction} {format_number(verdict.threshold)}; "
        f"contradicted {other} {format_number(verdict.opposite)}"
    )


def duration_words(seconds: float) -> str:
    """Returns a time in the unit that suits it: '12 s', '3.5 min', '2.1 h'."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def source_words(verdict: Verdict) -> str:
    """Returns a note for a claim that is not the paper's own."""
    return "" if verdict.source == "paper" else f" ({verdict.source})"
