"""The folder of one run: what it is, its logs as it trains, and how it ended."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from memjax.config import saved_science
from memjax.data.examples import EXAMPLE_COLUMNS, examples_table
from memjax.errors import InputError
from memjax.reporting.curves import draw_curves
from memjax.runtime.distributed import is_main_process, on_main
from memjax.runtime.metrics import MetricsLog, lines_checksum, read_metrics
from memjax.runtime.tables import write_table
from memjax.runtime.workdir import (
    check_same_run,
    difference,
    has_config,
    is_being_cleared,
    read_config,
    read_json,
    write_atomically,
    write_config,
    write_group,
    write_json,
)
from memjax.training import dynamics
from memjax.training.documents import config_document, goes_on
from memjax.training.setup import Setup, member_subsets

# What stands in the science section of config.json and is no field of the config.
DERIVED = ("data.", "code.", "draws.")


def whole_summary(folder: epath.Path) -> dict[str, Any] | None:
    """Returns summary.json unless it, or what stands beside it, is damaged or not there."""
    try:
        summary = read_json(folder / "summary.json")
        checksum = summary.pop("checksum", None)
        rows = read_metrics(folder / "metrics.jsonl")
        parts = dynamics.checksum(folder, np.inf)
        return summary if checksum == summary_checksum(folder, summary, rows, parts) else None
    except (InputError, AttributeError, FileNotFoundError):
        return None


class PointFolder:
    """One run while it trains.

    Attributes:
      name: of the point; "run" for a run of `memjax.main`.
      folder: the run folder.
      setup: of its config.
      document: of its config.json.
      fitted: by member, the step at which it had the wanted accuracy.
      diverged: by member, the step at which it was no longer finite.
      rows: the lines of metrics.jsonl.
    """

    def __init__(
        self,
        name: str,
        folder: epath.Path,
        setup: Setup,
        num_params: int = 0,
        records_dynamics: bool = False,
    ):
        self.name, self.folder, self.setup = name, folder, setup
        self.document = config_document(setup, num_params, records_dynamics)
        self.fitted: dict[int, int] = {}
        self.diverged: dict[int, int] = {}
        self._log: MetricsLog | None = None
        self._dynamics: dynamics.Dynamics | None = None

    @property
    def size(self) -> int:
        """Members of the run."""
        return self.setup.config.ensemble.size

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return self._log.rows if self._log else []

    def check(self) -> bool:
        """Returns whether the folder already holds this run, perhaps with fewer epochs.

        Raises:
          InputError: if it holds another run, with the difference.
        """
        if not is_being_cleared(self.folder) and has_config(self.folder):
            here = self.document["science"]
            there = saved_science(read_config(self.folder)["science"], here)
            if goes_on(there, here, f"--workdir={self.folder}"):
                return True
        return check_same_run(self.folder, self.document)

    def begin(self, groups: Sequence[str] = ()) -> dict[str, Any] | None:
        """Writes what the run is; returns the summary if it is finished.

        Args:
          groups: of a sweep's point, the folders in groups/ that have its checkpoints.
        """
        if self.check():
            there = read_config(self.folder)
            # Decided once: else a run that goes on would have a hole in its dynamics.
            self.document["derived"]["records_dynamics"] = dynamics.decided(self.folder)
            here = self.document["science"]
            if not difference(saved_science(there["science"], here), here):
                summary = whole_summary(self.folder)
                if summary is not None:
                    return summary
        for name in ("summary.json", "failure.json"):
            (self.folder / name).unlink(missing_ok=True)
        write_config(self.folder, self.document)
        if groups:
            write_group(self.folder, list(groups), self.name)
        table = examples_table(self.setup.dataset, self.setup.examples)
        write_table(self.folder / "examples.parquet", table, EXAMPLE_COLUMNS)
        return None

    def holds(self, noted: list[int]) -> bool:
        """Whether metrics.jsonl and dynamics/ have on disk what `noted` says of them."""
        step = noted[0]
        rows = [r for r in read_metrics(self.folder / "metrics.jsonl") if r["step"] <= step]
        return noted == [step, lines_checksum(rows), dynamics.checksum(self.folder, step)]

    def open(self, step: int, shared: bool = False) -> None:
        """Goes on with the logs after a step, -1 for none; all processes where it is shared."""
        config = self.setup.config
        self._log = MetricsLog(self.folder, step, config.run.tensorboard, shared)
        self._seconds_before = self.rows[-1]["wall_seconds"] if self.rows else 0.0
        if self.document["derived"]["records_dynamics"] and (is_main_process() or not shared):
            examples = self.setup.examples.index
            index = {"train": examples[np.asarray(member_subsets(self.setup))]}
            validation = self.setup.dataset.validation
            if len(validation):
                index["validation"] = validation.index
            steps = [row["step"] for row in self.rows]
            self._dynamics = dynamics.Dynamics(self.folder, steps, index)
        if shared:  # what was decided when the run began, process 0 has read
            decided = self.document["derived"]["records_dynamics"]
            self.document["derived"]["records_dynamics"] = on_main(lambda: decided)

    @property
    def alive(self) -> list[int]:
        """Members that have not ended before the last step."""
        return [m for m in range(self.size) if m not in self.fitted and m not in self.diverged]

    def log(self, step: int, values: dict[str, np.ndarray], seconds: float, found: Any) -> dict:
        """Writes a line, and the dynamics of those that are alive.

        Args:
          step: training steps done.
          values: what is logged, [members]; of those that ended their last values stand again.
          seconds: that this process has trained.
          found: outcomes by split, numpy arrays [members n]; None or empty: there are none.
        """
        last = self.rows[-1] if self.rows else {}
        row: dict[str, Any] = {"step": step, "epoch": step / self.setup.batches.steps_per_epoch}
        for name, new in values.items():
            before = last.get(name, np.nan)
            before = [np.nan if v is None else v for v in np.atleast_1d(before).tolist()]
            merged = np.array(new, np.float64)
            for member in range(self.size):
                if member in self.diverged:
                    merged[member] = np.nan
                elif member in self.fitted:
                    merged[member] = before[member]
            row[name] = float(merged[0]) if self.size == 1 else merged
        row["wall_seconds"] = round(self._seconds_before + seconds, 3)
        assert self._log
        row = self._log.append(row)
        # Nobody is left where all diverged; with running metrics nothing is known of step 0.
        if self._dynamics and found and self.alive:
            self._dynamics.record(step, row["epoch"], self.alive, found)
        return row

    def noted(self) -> list[int]:
        """Returns step and checksums of the logs, once everything is on disk; see `holds`."""
        parts = self._dynamics.checksum() if self._dynamics else 0
        assert self._log
        return [self.rows[-1]["step"] if self.rows else -1, self._log.checksum, parts]

    @property
    def failure(self) -> str:
        """Says which members diverged; empty if none did."""
        return divergence(self.diverged)

    def finish(self, extra: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Writes how it ended; returns the summary, None if all its members diverged."""
        self.noted()
        if len(self.diverged) == self.size:
            write_json(self.folder / "failure.json", {"reason": self.failure})
            return None
        summary = summarize(self) | (extra or {})
        checksum = summary_checksum(self.folder, summary, self.rows, self.noted()[2])
        noted = {"checksum": checksum}
        write_json(self.folder / "summary.json", summary | noted)
        return summary

    def draw(self) -> None:
        """Draws the learning curves."""
        title = f"{self.setup.dataset.name}, {self.setup.config.corruption.kind}"
        path = self.folder / "figures" / "curves.png"
        write_atomically(path, lambda name: draw_curves(self.rows, title, name))

    def close(self) -> None:
        """Waits for what is being written, and lets go."""
        if self._log:
            self.noted()
            self._log.close()


def summary_checksum(
    folder: epath.Path, summary: dict[str, Any], rows: list[dict[str, Any]], parts: int
) -> int:
    """Returns a CRC-32 of a summary, of the lines that it sums up, of the dynamics' checksum, and
    of what was written when the run began.
    """
    names = "config.json", "examples.parquet"
    beside = {name: zlib.crc32((folder / name).read_bytes()) for name in names}
    return lines_checksum([*rows, summary | {"dynamics": parts} | beside])


def divergence(steps: dict[int, int]) -> str:
    """Returns in words which members are no longer finite; empty if all are.

    Example:
      >>> divergence({2: 40, 0: 12})[:64]
      'loss not finite at step 12, member 0 (and of members 2); the las'
    """
    if not steps:
        return ""
    first = min(steps, key=lambda member: (steps[member], member))
    others = ", ".join(str(member) for member in sorted(steps) if member != first)
    others = f" (and of members {others})" if others else ""
    return (
        f"loss not finite at step {steps[first]}, member {first}{others}; the last good checkpoint "
        "is kept (try a smaller config.optimizer.learning_rate)"
    )


def summarize(point: PointFolder) -> dict[str, Any]:
    """Returns the last metrics, the best validation accuracy, and the time to convergence.

    `epochs_to_fit` is the first logged epoch with 100 % training accuracy, null for a member
    that never had it; `epochs_run` how long a member was trained; `diverged_at_step` null for one
    that stayed finite. Where there are several members, values are lists over them.
    """
    rows, per_epoch = point.rows, point.setup.batches.steps_per_epoch
    epochs = np.array([row["epoch"] for row in rows])

    def by_member(name: str) -> np.ndarray:
        values = np.array([row[name] for row in rows], dtype=float)
        return values.reshape(len(rows), -1)

    fitted = by_member("train_accuracy") >= 1.0
    ends = point.fitted | point.diverged
    best: list[float | None] = [None] * point.size
    if len(point.setup.dataset.validation):
        accuracy = by_member("validation_accuracy")
        best = np.max(accuracy, axis=0, initial=0.0, where=accuracy == accuracy).tolist()
    lists: dict[str, Sequence[Any]] = {
        "best_validation_accuracy": best,
        "epochs_to_fit": [float(epochs[np.argmax(m)]) if m.any() else None for m in fitted.T],
        "epochs_run": [ends.get(m, rows[-1]["step"]) / per_epoch for m in range(point.size)],
        "diverged_at_step": [point.diverged.get(m) for m in range(point.size)],
    }
    single = point.size == 1
    return {
        **rows[-1],
        **{name: values[0] if single else values for name, values in lists.items()},
        "num_params": point.document["derived"]["num_params"],
    }
