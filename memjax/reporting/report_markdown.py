"""The report as Markdown, its figures beside it."""

import os
from collections.abc import Iterable, Sequence

from etils import epath

from memjax.reporting.claims import Verdict, count_verdicts, primary_words
from memjax.reporting.report_parts import FigureResult, RunDescription
from memjax.reporting.report_words import (
    HOW_TO_READ,
    SYMBOLS,
    duration_words,
    effect_words,
    p_words,
    protocol_words,
    source_words,
    threshold_words,
)


def render(run: RunDescription, figures: Sequence[FigureResult]) -> str:
    """Returns the Markdown text; the figures' files lie in figures/ beside it."""
    verdicts = [verdict for figure in figures for verdict in figure.claims]
    counts = ", ".join(f"{n} {verdict}" for verdict, n in count_verdicts(verdicts).items())
    parts = [
        f"# {run.title}",
        f"Scale: {run.scale}. {len(verdicts)} claims: {counts}. "
        f"Run time: {duration_words(run.seconds)}. Seeds: {run.seeds}.",
        _code(run.command),
        "## Verdicts",
        HOW_TO_READ,
        f"**{primary_words(verdicts)}**",
        verdict_table(verdict for verdict in verdicts if verdict.primary),
        "The other claims:",
        verdict_table(verdict for verdict in verdicts if not verdict.primary),
        *(part for figure in figures for part in _figure(figure)),
        "## Environment",
        _table(("what", "value"), run.environment.items()),
    ]
    return "\n\n".join(parts) + "\n"


def verdict_table(verdicts: Iterable[Verdict]) -> str:
    """Returns a Markdown table of claims: figure, sentence, effect with interval, verdict."""
    return _table(
        ("figure", "claim", "effect [95 % interval]", "verdict"),
        ((v.figure, v.sentence + source_words(v), effect_words(v), _verdict(v)) for v in verdicts),
    )


def _figure(figure: FigureResult) -> list[str]:
    parts = [f"## {figure.title}"]
    if figure.status == "failed":
        parts.append(f"**This figure failed:** {figure.error}")
    if figure.png_path and figure.svg_path:
        png, svg = (_beside(path) for path in (figure.png_path, figure.svg_path))
        alt_text = figure.alt_text.replace("[", "(").replace("]", ")")
        parts.append(f"[![{alt_text}]({png})]({svg})")
    if figure.caption:
        parts.append(figure.caption)
    if figure.claims:
        header = ("claim", "statistic", "effect [95 % interval]", "margin", "verdict")
        rows = (
            (
                v.sentence + source_words(v),
                v.statistic,
                f"{effect_words(v)}; {p_words(v)}".removesuffix("; "),
                f"{threshold_words(v)} ({v.why})",
                f"{_verdict(v)} ({protocol_words(v)}) {v.reason}".rstrip(),
            )
            for v in sorted(figure.claims, key=lambda verdict: not verdict.primary)
        )
        parts.append(_table(header, rows))
    if figure.reductions:
        parts += [
            "Smaller than in the paper:",
            "\n".join(f"- {line}" for line in figure.reductions),
        ]
    table = f" Table: `{_beside(figure.table_path)}`." if figure.table_path else ""
    made = f" Made: {figure.made}." if figure.made else ""
    parts.append(f"Run time: {duration_words(figure.seconds)}.{made}{table} To make it again:")
    parts.append(_code(figure.command))
    return parts


def _beside(path: os.PathLike | str) -> str:
    return f"figures/{epath.Path(path).name}"


def _verdict(verdict: Verdict) -> str:
    return f"{SYMBOLS[verdict.verdict]} {verdict.verdict}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _code(command: str) -> str:
    return f"```\n{command}\n```"
