"""The report as one HTML file that needs nothing else: no scripts, no network."""

import base64
import html
import os
import struct
from collections.abc import Sequence

from etils import epath

from memjax.reporting.claims import VERDICTS, Verdict, count_verdicts, primary_words
from memjax.reporting.report_parts import FigureResult, RunDescription
from memjax.reporting.report_style import CSS
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
from memjax.reporting.style import DOTS_PER_INCH

_CLASSES = dict(
    zip(VERDICTS, ("supported", "contradicted", "within", "open", "untestable"), strict=True)
)


def render(run: RunDescription, figures: Sequence[FigureResult]) -> str:
    """Returns the HTML text; the figures are inside it."""
    verdicts = [verdict for figure in figures for verdict in figure.claims]
    failed = sum(figure.status == "failed" for figure in figures)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_text(run.title)}</title>",
            f"<style>{CSS}</style>",
            "</head>",
            "<body>",
            f"<header><h1>{_text(run.title)}</h1>",
            f"<p>Scale: {_text(run.scale)}. {len(figures)} figures"
            f"{f', {failed} failed' if failed else ''}. {len(verdicts)} claims. "
            f"Run time: {duration_words(run.seconds)}. Seeds: {_text(run.seeds)}.</p>",
            _code(run.command),
            "</header>",
            "<main>",
            _summary(figures, verdicts),
            *(_figure(figure) for figure in figures),
            _environment(run),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _summary(figures: Sequence[FigureResult], verdicts: Sequence[Verdict]) -> str:
    tiles = "".join(
        f'<li class="{_CLASSES[verdict]}"><b>{n}</b> {_badge(verdict)}</li>'
        for verdict, n in count_verdicts(verdicts).items()
    )
    rows = "".join(_summary_row(figure) for figure in figures)
    return (
        f'<section id="summary"><h2>Verdicts</h2><ul class="tiles">{tiles}</ul>'
        f"<p><b>{_text(primary_words(verdicts))}</b></p><p>{_text(HOW_TO_READ)}</p>"
        f"{_claims([verdict for verdict in verdicts if verdict.primary], 'primary_')}"
        f'<table class="summary"><thead><tr><th>figure</th><th>claims</th><th>time</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></section>"
    )


def _summary_row(figure: FigureResult) -> str:
    marks = "".join(
        f'<a class="mark {_CLASSES[v.verdict]}" href="#{_text(v.name)}" '
        f'title="{_text(v.verdict)}: {_text(v.sentence)}">{SYMBOLS[v.verdict]}</a>'
        for v in figure.claims
    )
    failed = ' <span class="badge failed">failed</span>' if figure.status == "failed" else ""
    return (
        f'<tr><td data-label="figure"><div><a href="#{_text(figure.name)}">{_text(figure.title)}'
        f'</a>{failed}</div></td><td data-label="claims"><span class="marks">{marks}</span></td>'
        f'<td data-label="time">{duration_words(figure.seconds)}</td></tr>'
    )


def _figure(figure: FigureResult) -> str:
    parts = [f'<section id="{_text(figure.name)}"><h2>{_text(figure.title)}</h2>']
    if figure.status == "failed":
        parts.append(f'<p class="error"><b>This figure failed:</b> {_text(figure.error)}</p>')
    if figure.png_path and figure.svg_path:
        image = _image(figure.png_path, figure.svg_path)
        parts.append(
            f'<figure><div class="picture" tabindex="0"><img {image} '
            f'alt="{_text(figure.alt_text)}"></div>'
            f"<figcaption>{_text(figure.caption)}</figcaption></figure>"
        )
    if figure.claims:
        parts.append(_claims(sorted(figure.claims, key=lambda verdict: not verdict.primary)))
    if figure.reductions:
        lines = "".join(f"<li>{_text(line)}</li>" for line in figure.reductions)
        parts.append(f"<h3>Smaller than in the paper</h3><ul>{lines}</ul>")
    table = f" Table: <code>{_text(_name(figure.table_path))}</code>." if figure.table_path else ""
    made = f" Made: {_text(figure.made)}." if figure.made else ""
    parts.append(
        f"<p>Run time: {duration_words(figure.seconds)}.{made}{table} To make it again:</p>"
    )
    parts.append(_code(figure.command))
    return "\n".join([*parts, "</section>"])


def _claims(verdicts: Sequence[Verdict], prefix: str = "") -> str:
    rows = "".join(_claim(verdict, prefix) for verdict in verdicts)
    return (
        '<table class="claims"><thead><tr><th>verdict</th><th>claim</th>'
        "<th>effect [95 % interval]</th><th>margin</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _claim(verdict: Verdict, prefix: str = "") -> str:
    return (
        f'<tr id="{_text(prefix + verdict.name)}">'
        f'<td data-label="verdict">{_badge(verdict.verdict)}</td>'
        f'<td data-label="claim"><div>{_text(verdict.sentence + source_words(verdict))}'
        f"<small>Measured: {_text(verdict.statistic)}.</small>"
        f"<small>{_text(verdict.reason)}</small>"
        f"<small>Protocol: {_text(protocol_words(verdict))}.</small></div></td>"
        f'<td data-label="effect"><div>{_text(effect_words(verdict))}'
        f"<small>{_text(p_words(verdict))}</small></div></td>"
        f'<td data-label="margin"><div>{_text(threshold_words(verdict))}'
        f"<small>{_text(verdict.why)}.</small></div></td></tr>"
    )


def _environment(run: RunDescription) -> str:
    rows = "".join(
        f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>"
        for name, value in run.environment.items()
    )
    return (
        '<section id="environment"><h2>Environment</h2><table class="environment"><tbody>'
        f"{rows}</tbody></table></section>"
    )


def _badge(verdict: str) -> str:
    return f'<span class="badge {_CLASSES[verdict]}">{SYMBOLS[verdict]} {_text(verdict)}</span>'


def _image(png_path: os.PathLike | str, svg_path: os.PathLike | str) -> str:
    """Returns the smaller of the two files as a data address, and the size to show it at."""
    png, svg = (epath.Path(path).read_bytes() for path in (png_path, svg_path))
    kind, content = ("svg+xml", svg) if len(svg) <= len(png) else ("png", png)
    address = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    # Width and height stand at the start of a PNG file; a browser has 96 pixels an inch.
    width, height = (round(n * 96 / DOTS_PER_INCH) for n in struct.unpack(">II", png[16:24]))
    return f'src="{address}" width="{width}" height="{height}" style="--width: {width}px"'


def _name(path: os.PathLike | str) -> str:
    return epath.Path(path).name


def _code(command: str) -> str:
    return f"<pre><code>{_text(command)}</code></pre>"


def _text(text: str) -> str:
    return html.escape(text)
