"""The one tidy table of a sweep, assembled from the run folders of its points."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from memjax.config import Config
from memjax.runtime.metrics import read_metrics
from memjax.runtime.tables import write_table
from memjax.runtime.workdir import read_config, read_json
from memjax.sweeps.points import Point
from memjax.training.point_folder import divergence

METRICS = {
    "train_loss": "mean cross-entropy on the training examples, labels as trained on, nats",
    "train_accuracy": "share of the training examples right, by the labels trained on",
    "validation_loss": "mean cross-entropy on the validation examples, nats",
    "validation_accuracy": "share of the validation examples right, by their true labels",
    "clean_accuracy": "training accuracy on the examples that are not corrupted; nan if none",
    "corrupted_accuracy": "training accuracy on the corrupted examples; nan if none",
    "mislabeled_as_label": "share of the examples with a wrong label predicted as that label",
    "mislabeled_as_true": "share of them predicted as their true class",
    "mislabeled_as_other": "share of them predicted as another class",
}
COLUMNS = {
    "point": "name of the point, and of its run folder in points/",
    "member": "member of the point's ensemble, from 0",
    "run_seed": "seed of this member: of its parameters, the order and the noise of its steps",
    "step": "steps trained",
    "epoch": "epochs trained",
    **METRICS,
    "best_validation_accuracy": "highest validation accuracy of this member over training",
    "epochs_to_fit": "first logged epoch with every training example right; nan: never, censored",
    "epochs_run": "epochs that this member was trained; a censored time is longer",
    "num_params": "trained parameters of one member",
    "failure": "why the point ended early; empty if it did not",
}


def state_of(folder: epath.Path) -> str:
    """Returns 'finished', 'failed' or 'open', what is known of a point's run folder."""
    if (folder / "summary.json").exists():
        return "finished"
    return "failed" if (folder / "failure.json").exists() else "open"


def failure_of(folder: epath.Path) -> str:
    """Returns why a point failed, or which of its members did; empty if none did."""
    path = folder / "failure.json"
    if path.exists():
        return read_json(path)["reason"]
    if not (folder / "summary.json").exists():
        return ""
    steps = read_json(folder / "summary.json").get("diverged_at_step")
    steps = {m: s for m, s in enumerate(steps if isinstance(steps, list) else []) if s is not None}
    return divergence(steps)


def assemble(
    workdir: epath.Path, points: Sequence[Point], configs: Sequence[Config]
) -> pd.DataFrame | None:
    """Writes results.parquet from the points that ended; returns it, None if none did.

    Any number of processes may do so at once: each looks again after it wrote, so that the last
    one to write has seen all that ended before.

    Args:
      workdir: of the sweep.
      points: of the sweep, in the order of the table.
      configs: theirs.
    """
    while True:
        ended = _ended(workdir, points)
        if not ended:
            return None
        parts = [
            _rows(workdir / "points" / point.name, point, config)
            for point, config in zip(points, configs, strict=True)
            if point.name in ended
        ]
        table = pd.concat([part for part in parts if part is not None], ignore_index=True)
        factors = {name: f"factor of the sweep: {name}" for name in points[0].factors}
        write_table(workdir / "results.parquet", table, COLUMNS | factors)
        if _ended(workdir, points) == ended:
            return table


def _ended(workdir: epath.Path, points: Iterable[Point]) -> set[str]:
    return {point.name for point in points if state_of(workdir / "points" / point.name) != "open"}


def _rows(folder: epath.Path, point: Point, config: Config) -> pd.DataFrame:
    """Returns the rows of one point: one a member and logged step."""
    lines = read_metrics(folder / "metrics.jsonl")
    size, failure = config.ensemble.size, failure_of(folder)
    summary = read_json(folder / "summary.json") if state_of(folder) == "finished" else {}
    if not lines:  # it failed before it began
        lines = [{"step": 0, "epoch": 0.0} | dict.fromkeys(METRICS)]
    columns = {
        name: np.array([line[name] for line in lines], float).reshape(len(lines), -1)
        * np.ones(size)
        for name in METRICS
    }
    epochs = np.array([line["epoch"] for line in lines], float)
    fitted = columns["train_accuracy"] >= 1.0
    to_fit = np.where(fitted.any(axis=0), epochs[fitted.argmax(axis=0)], np.nan)
    best = [np.max(v, initial=-1.0, where=v == v) for v in columns["validation_accuracy"].T]
    has_begun = (folder / "config.json").exists()
    params = read_config(folder)["derived"]["num_params"] if has_begun else -1
    run = np.broadcast_to(np.array(summary.get("epochs_run", epochs[-1]), float), (size,))
    diverged = summary.get("diverged_at_step")
    parts: list[pd.DataFrame] = []
    for member in range(size):
        is_failed = not summary or (isinstance(diverged, list) and diverged[member] is not None)
        part = pd.DataFrame(
            {"point": point.name}
            | dict(point.factors)
            | {
                "member": member,
                "run_seed": config.seed + member,
                "step": [line["step"] for line in lines],
                "epoch": epochs,
            }
            | {name: values[:, member] for name, values in columns.items()}
            | {
                "best_validation_accuracy": best[member] if best[member] >= 0 else np.nan,
                "epochs_to_fit": to_fit[member],
                "epochs_run": run[member],
                "num_params": params,
                "failure": failure if is_failed else "",
            }
        )
        parts.append(part[part["epoch"] <= run[member]])  # after its end its values stand still
    return pd.concat(parts, ignore_index=True)


def taken_names(factors: Mapping[str, Any]) -> list[str]:
    """Returns the factors that have the name of a column."""
    return [name for name in factors if name in COLUMNS]
