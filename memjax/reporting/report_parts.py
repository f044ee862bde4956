"""What a report is made of: what became of each figure, and the run that made them."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from memjax.errors import InputError
from memjax.reporting.claims import Verdict

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
