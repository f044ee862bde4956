"""An audit from start to end: train, plant, calibrate, judge, write."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from etils import epath

from memjax.auditing import files, page
from memjax.auditing.calibration import Calibration, calibrate
from memjax.auditing.duplicates import find_duplicates
from memjax.auditing.evidence import Evidence
from memjax.auditing.issues import find_issues, main_issue, reasons
from memjax.auditing.scores import features, suggest
from memjax.auditing.stages import (
    Effort,
    Planted,
    evidence_of,
    plant_flips,
    planted_config,
)
from memjax.config import Config
from memjax.data.dataset import Dataset, Split
from memjax.data.sources import load_dataset
from memjax.errors import InputError
from memjax.runtime.workdir import check_same_run, write_atomically, write_json

FEWEST_OF_CLASS = 2
Say = Callable[[str], None]


class Audit(NamedTuple):
    """What an audit found.

    Attributes:
      table: audit.parquet, a row per training example.
      summary: audit.json.
    """

    table: pd.DataFrame
    summary: dict[str, Any]


def check_data(train: Split, num_classes: int, class_names: Sequence[str]) -> None:
    """Checks that there is something to audit.

    Raises:
      InputError: with fewer than two classes, or fewer than two examples of a class.
    """
    counts = np.bincount(train.labels, minlength=num_classes)
    if num_classes < 2:
        raise InputError(f"--data: {num_classes} class; an audit needs two or more")
    if counts.min() < FEWEST_OF_CLASS:
        name = class_names[int(counts.argmin())]
        raise InputError(
            f"--data: class {str(name)!r} has {counts.min()} example; an audit needs "
            f"{FEWEST_OF_CLASS} or more of each"
        )


def run_audit(config: Config, workdir: epath.PathLike, effort: Effort, say: Say = print) -> Audit:
    """Audits the labels of a data set.

    Args:
      config: of the ensemble on the labels as given, its data with them.
      workdir: the folder; made if it is not there.
      effort: how much is trained.
      say: shows a line to the user.

    Raises:
      InputError: if the data cannot be audited, or the folder holds another audit.
      Interrupted: at a signal, after saving; the same call goes on from there.
    """
    folder = epath.Path(workdir)
    dataset = load_dataset(config.dataset)
    check_data(dataset.train, dataset.num_classes, dataset.class_names)
    document = {"science": config.science() | {f"effort.{k}": v for k, v in effort._asdict().items()}}
    if not check_same_run(folder, document):
        write_json(folder / "config.json", document)
    for note in dataset.notes:
        say(note)
    labels = dataset.train.labels
    evidence = evidence_of(config, folder / "given", say)
    planted = plant_flips(evidence, labels, dataset.num_classes, config.seed)
    copy = planted_config(
        config, dataset, planted, folder / "planted.npz", effort.planted_members
    )
    planted_evidence = evidence_of(copy, folder / "planted", say)
    scores = features(evidence, labels, planted.transition)
    calibration = calibrate(
        scores,
        features(planted_evidence, planted.labels, planted.transition),
        planted.is_planted,
        config.seed,
    )
    return _write(folder, config, dataset, evidence, planted, scores, calibration)


def _write(
    folder: epath.Path,
    config: Config,
    dataset: Dataset,
    evidence: Evidence,
    planted: Planted,
    scores: pd.DataFrame,
    calibration: Calibration,
) -> Audit:
    train, validation, labels = dataset.train, _own_validation(config), dataset.train.labels
    images = np.concatenate([train.images, validation.images]) if validation else train.images
    duplicates = find_duplicates(images, config.seed)
    wrong = calibration.probability_wrong
    other_labels = validation.labels if validation else labels[:0]
    issues = find_issues(evidence, labels, wrong, train.images, duplicates, other_labels)
    issue = main_issue(issues)
    why = reasons(issue, evidence, labels, wrong, dataset.class_names)
    table = files.make_table(
        train.index, train.example_ids, labels, suggest(evidence, labels), wrong, issue, why,
        dataset.class_names, scores,
    )  # fmt: skip
    rate = calibration.rate
    summary = {
        "num_examples": len(labels),
        "num_classes": dataset.num_classes,
        "noise_rate": rate.rate,
        "noise_rate_low": rate.low,
        "noise_rate_high": rate.high,
        "issues": {name: int(issues[name].sum()) for name in issues},
        "transition": np.round(planted.transition, 6).tolist(),
        "class_names": [str(name) for name in dataset.class_names],
        "evidence": calibration.evidence.to_dict("records"),
        "reliability": calibration.reliability.to_dict("records"),
    }
    files.write_audit(folder / "audit.parquet", table)
    files.write_issues(folder / "issues.csv", table)
    files.export_cleanlab(folder / "exports" / "cleanlab.csv", table)
    files.export_aum(folder / "exports" / "aum.csv", table)
    files.export_json(folder / "exports" / "ids.json", table, dataset.class_names)
    rows = np.arange(len(labels))
    text = page.render(
        f"Audit of {dataset.name}",
        describe(summary),
        calibration.evidence,
        {
            "share of each class that has another label": page.draw_confusion(
                planted.transition, dataset.class_names
            ),
            "how suspects and others were learned": page.draw_learning(
                evidence.epochs, evidence.inside[:, rows, labels], wrong > 0.5
            ),
        },
        table,
        issues,
        train.images,
        dataset.class_names,
        _identity(config),
    )
    write_atomically(folder / "report.html", lambda name: epath.Path(name).write_text(text))
    write_json(folder / "audit.json", summary)
    return Audit(table, summary)


def describe(summary: dict[str, Any]) -> list[str]:
    """Returns what was found in two lines."""
    counts = ", ".join(f"{count:,} {name}" for name, count in summary["issues"].items() if count)
    return [
        f"{summary['num_examples']:,} training examples of {summary['num_classes']} classes; "
        f"about {summary['noise_rate']:.1%} of the labels are wrong "
        f"[{summary['noise_rate_low']:.1%}, {summary['noise_rate_high']:.1%}].",
        f"Issues (an example may have several): {counts or 'none'}.",
    ]


def _own_validation(config: Config) -> Split | None:
    """Returns the validation split that comes with the source; None if there is none."""
    section = dataclasses.replace(config.dataset, num_validation=-1)
    whole = load_dataset(section)
    held_out = len(whole.train) < len(load_dataset(config.dataset).train)
    return None if held_out or not len(whole.validation) else whole.validation


def _identity(config: Config) -> str:
    return hashlib.sha256(json.dumps(config.science(), sort_keys=True).encode()).hexdigest()[:16]
