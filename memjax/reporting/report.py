"""One report of all figures and claims: a self-contained HTML file, Markdown, and claims.json."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

from etils import epath

from memjax.errors import InputError
from memjax.reporting import report_html, report_markdown
from memjax.reporting.claims import Verdict, count_verdicts, primary_words, to_json
from memjax.reporting.report_words import PROTOCOL
from memjax.runtime.workdir import write_atomically, write_json

STATUSES = ("done", "failed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FigureResult:
    """What became of one figure.

    Attributes:
      name: such as 'figure01'.
      title: its heading.
      status: 'done' or 'failed'.
      table_path, png_path, svg_path: its files; None where it failed before they were written.
      caption: what is drawn, with seeds and sizes.
      alt_text: the picture in words.
      claims: the verdicts on its claims; of a failed figure too (not resolved, with the reason).
      reductions: how it is smaller than in the paper, one sentence each.
      seconds: how long it took.
      made: when its runs were made, on what, with which version.
      command: the command that makes it again.
      error: why it failed; empty if it did not.
    """

    name: str
    title: str
    status: str
    command: str
    seconds: float
    table_path: os.PathLike | str | None = None
    png_path: os.PathLike | str | None = None
    svg_path: os.PathLike | str | None = None
    caption: str = ""
    alt_text: str = ""
    claims: Sequence[Verdict] = ()
    reductions: Sequence[str] = ()
    made: str = ""
    error: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise InputError(f"status: {self.status!r}, must be one of {', '.join(STATUSES)}")
        if (self.status == "failed") != bool(self.error):
            raise InputError(f"{self.name}: a failed figure, and no other, has an error")
        if self.status == "done" and not (self.png_path and self.svg_path and self.alt_text):
            raise InputError(
                f"{self.name}: a figure that is done has a PNG, an SVG and an alt text"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunDescription:
    """The run that made the report.

    Attributes:
      title: the report's heading.
      scale: 'smoke', 'laptop', 'workstation' or 'paper'.
      command: the command that makes all of it again.
      seconds: how long all of it took.
      seeds: in words.
      environment: what it ran on, name to value: versions, machine, devices.
    """

    title: str
    scale: str
    command: str
    seconds: float
    seeds: str
    environment: Mapping[str, str]


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
