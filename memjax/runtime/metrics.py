"""metrics.jsonl: one line a log step, without a hole or a doubled line after any interruption."""

import importlib.util
import json
import math
import os
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from memjax.errors import InputError
from memjax.runtime.distributed import is_main_process, on_main
from memjax.runtime.workdir import write_atomically


def _plain(value: Any) -> Any:
    """Numbers and lists as JSON has them: what is not finite, or not defined, is null."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the whole lines of a metrics.jsonl, oldest first; empty if it is not there.

    What is not a line that a run wrote ends them: torn by a kill, or damaged. A run that goes on
    writes it again.
    """
    path = epath.Path(path)
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:  # no JSON, or no UTF-8
            break
        if not (isinstance(row, dict) and isinstance(row.get("step"), int)):
            break
        rows.append(row)
    return rows


def lines_checksum(rows: Sequence[dict[str, Any]], before: int = 0) -> int:
    """Returns a CRC-32 of lines, how long they took left out; `before`: of those before them."""
    text = "".join(json.dumps(row | {"wall_seconds": 0}) for row in rows)
    return zlib.crc32(text.encode(), before)


class MetricsLog:
    """Appends lines; those of steps after the one resumed from are dropped when it opens.

    Args:
      workdir: the run folder.
      resume_step: the step that the run goes on from; -1 begins anew.
      tensorboard: whether to write TensorBoard files too.
      shared: whether all processes have this run: process 0 writes, and all have the same lines.

    Attributes:
      rows: the lines so far.
      checksum: of these, as `lines_checksum` gives it.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        resume_step: int,
        tensorboard: bool = False,
        shared: bool = False,
    ):
        self._path = epath.Path(workdir) / "metrics.jsonl"
        self._writes = is_main_process() or not shared
        self.rows: list[dict[str, Any]] = []

        def reopen() -> list[dict[str, Any]]:
            self.rows = [row for row in read_metrics(self._path) if row["step"] <= resume_step]
            self._rewrite()
            return self.rows

        self.rows = on_main(reopen) if shared else reopen()
        self.checksum = lines_checksum(self.rows)
        with_tensorboard = tensorboard and self._writes
        self._tensorboard = TensorBoard(workdir, resume_step) if with_tensorboard else None

    def _rewrite(self) -> None:
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomically(self._path, lambda name: epath.Path(name).write_text(text))

    def append(self, row: dict[str, Any]) -> dict[str, Any]:
        """Writes one line to disk and returns it as it was written."""
        row = {name: _plain(value) for name, value in row.items()}
        self.rows.append(row)
        self.checksum = lines_checksum([row], self.checksum)
        if not self._writes:
            return row
        if "://" in os.fspath(self._path):
            self._rewrite()  # objects have no append
        else:
            with open(self._path, "a") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())
        if self._tensorboard:
            self._tensorboard.write(row)
        return row

    def close(self) -> None:
        """Closes the TensorBoard file, if there is one."""
        if self._tensorboard:
            self._tensorboard.close()


def check_tensorboard(wanted: bool) -> None:
    """Raises InputError if TensorBoard files are wanted and cannot be written."""
    if wanted and importlib.util.find_spec("tensorboardX") is None:
        raise InputError(
            "config.run.tensorboard=True: needs tensorboardX (pip install 'memjax[tensorboard]')"
        )


class TensorBoard:
    """The same numbers as TensorBoard scalars, without TensorFlow."""

    def __init__(self, workdir: epath.PathLike, resume_step: int):
        from tensorboardX import SummaryWriter

        folder = epath.Path(workdir) / "tensorboard"
        self._writer = SummaryWriter(os.fspath(folder), purge_step=resume_step + 1)

    def write(self, row: dict[str, Any]) -> None:
        """Writes each number of a line; for several members, their mean."""
        for name, value in row.items():
            known = [v for v in np.atleast_1d(value).tolist() if v is not None]
            if known and name not in ("step", "epoch"):
                self._writer.add_scalar(name, float(np.mean(known)), row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
