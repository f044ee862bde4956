"""One report of all figures and claims: a self-contained HTML file, Markdown, and claims.json."""

import dataclasses
import json
import os
from collections.abc import Sequence

from etils import epath

from memjax.reporting import report_html, report_markdown
from memjax.reporting.claims import count_verdicts, primary_words, to_json
from memjax.reporting.report_parts import FigureResult, RunDescription
from memjax.reporting.report_words import PROTOCOL
from memjax.runtime.workdir import write_atomically, write_json


def write_report(
    folder: os.PathLike | str, run: RunDescription, figures: Sequence[FigureResult]
) -> None:
    """Writes report.html, report.md, claims.json, and under figures/ the files the latter shows.

    Args:
      folder: where; made if it is not there.
      run: what made the figures.
      figures: in the order in which they are shown.
    """
    root = epath.Path(folder)
    figures = [_beside(root, figure) for figure in figures]
    verdicts = [verdict for figure in figures for verdict in figure.claims]
    write_json(
        root / "claims.json",
        {
            "scale": run.scale,
            "command": run.command,
            "protocol": PROTOCOL,
            "primary": primary_words(verdicts),
            "counts": count_verdicts(verdicts),
            "claims": [to_json(verdict) for verdict in verdicts],
        },
    )
    _write(root / "report.md", report_markdown.render(run, figures).encode())
    _write(root / "report.html", report_html.render(run, figures).encode())


def read_claims(path: os.PathLike | str) -> list[dict]:
    """Returns the verdicts in a claims.json."""
    return json.loads(epath.Path(path).read_text())["claims"]


def _beside(folder: epath.Path, figure: FigureResult) -> FigureResult:
    """Returns the figure with its files copied to where the report shows them from."""
    paths = {}
    for kind in ("table_path", "png_path", "svg_path"):
        source = getattr(figure, kind)
        if source is None:
            continue
        source = epath.Path(source)
        target = folder / "figures" / source.name
        if target != source:
            _write(target, source.read_bytes())
        paths[kind] = target
    return dataclasses.replace(figure, **paths)


def _write(path: epath.Path, content: bytes) -> None:
    write_atomically(path, lambda name: epath.Path(name).write_bytes(content))
