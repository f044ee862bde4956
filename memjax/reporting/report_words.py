"""What the HTML and the Markdown report say in the same words."""

import math

from memjax.reporting.claims import (
    CONTRADICTED,
    NOT_RESOLVED,
    NOT_TESTABLE,
    SUPPORTED,
    WITHIN_MARGIN,
    Verdict,
    format_number,
)

SYMBOLS = {
    SUPPORTED: "✓",
    CONTRADICTED: "✗",
    WITHIN_MARGIN: "≈",
    NOT_RESOLVED: "?",
    NOT_TESTABLE: "-",
}
PROTOCOL = "docs/protocol.md"
HOW_TO_READ = (
    f"Each claim has a statistic and a margin, written in {PROTOCOL} before the runs that it is "
    "judged on. It is supported if the effect lies beyond the margin on the claimed side, "
    "contradicted if beyond the opposite margin, smaller than the margin if between the two, each "
    "by a test at 2.5 %; otherwise it is not resolved. A claim about networks that fit what they "
    "trained on is not testable where they do not. Primary claims come first and are corrected by "
    "Holm's rule, the others by Benjamini and Hochberg's; intervals are at 95 % each, uncorrected, "
    "over seeds or over examples, whichever the claim is about."
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
    if verdict.direction == "within":
        low, high = format_number(verdict.opposite), format_number(verdict.threshold)
        return f"within {low} and {high}; contradicted outside"
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


def p_words(verdict: Verdict) -> str:
    """Returns the p-values: 'p 0.0012, corrected 0.016 (Holm)'; empty where nothing was tested."""
    if not math.isfinite(verdict.p_value):
        return ""
    which = "Holm" if verdict.primary else "Benjamini-Hochberg"
    return f"p {verdict.p_value:.2g}, corrected {verdict.adjusted:.2g} ({which})"


def protocol_words(verdict: Verdict) -> str:
    """Returns what the protocol calls the claim: its line there, and whether it is primary."""
    return f"{'primary' if verdict.primary else 'secondary'}: {verdict.name}"
