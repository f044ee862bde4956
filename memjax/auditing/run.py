"""An audit from start to end: train, plant, calibrate, judge, write."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from etils import epath

from memjax.auditing import files, page
from memjax.auditing.calibration import Calibration, calibrate, calibrate_fixed
from memjax.auditing.cleaning import clean, read_decisions, write_clean_copy
from memjax.auditing.evidence import Evidence
from memjax.auditing.issues import find_issues, main_issue, reasons
from memjax.auditing.noise import count_confusions, flip_all, transition
from memjax.auditing.request import (
    Request,
    prepare_request,
    read_probabilities,
    training_cost,
    write_embeddings,
)
from memjax.auditing.scores import features, suggest
from memjax.auditing.stages import EFFORTS, evidence_of, plant_flips, planted_config
from memjax.config import Config
from memjax.data.dataset import Dataset, Split
from memjax.data.duplicates import find_duplicates
from memjax.errors import InputError
from memjax.runtime.locks import claim
from memjax.runtime.tables import read_table
from memjax.runtime.workdir import check_same_run, read_json, write_atomically, write_json

Say = Callable[[str], None]


class Audit(NamedTuple):
    """What an audit found.

    Attributes:
      table: audit.parquet, a row per training example.
      summary: audit.json.
    """

    table: pd.DataFrame
    summary: dict[str, Any]


class _Judged(NamedTuple):
    evidence: Evidence
    scores: pd.DataFrame
    flips: np.ndarray
    calibration: Calibration


def audit(request: Request, workdir: epath.PathLike, say: Say = print) -> Audit:
    """Audits the labels of a data set.

    Args:
      request: the data, and how much is trained.
      workdir: the folder; made if it is not there.
      say: shows a line to the user.

    Raises:
      InputError: if the data cannot be audited, or the folder holds another audit.
      Interrupted: at a signal, after saving; the same call goes on from there.
    """
    folder = epath.Path(workdir)
    config, dataset, validation = prepare_request(request, folder)
    given = None
    if request.pred_probs:
        rows, classes = len(dataset.train.labels), dataset.num_classes
        given = read_probabilities(request.pred_probs, rows, classes)
    document = {
        "science": config.science() | _identity_of(request),
        "request": dataclasses.asdict(request),
    }
    check_same_run(folder, document)
    with claim(folder):
        if not check_same_run(folder, document):
            write_json(folder / "config.json", document)
        for note in dataset.notes:
            say(note)
        if given is not None:
            judged = _judge_given(given, config, dataset)
        else:
            if request.embeddings:
                write_embeddings(request, folder, dataset)
            judged = _judge_trained(request, config, dataset, folder, say)
        return _write(folder, config, dataset, validation, judged)


def _judge_trained(
    request: Request, config: Config, dataset: Dataset, folder: epath.Path, say: Say
) -> _Judged:
    labels, effort = dataset.train.labels, EFFORTS[request.effort]
    if not (folder / "given").exists():
        say(f"estimated: {training_cost(config, dataset, effort)}")
    evidence = evidence_of(config, folder / "given", say)
    planted = plant_flips(evidence, labels, dataset.num_classes, config.seed)
    members = effort.planted_members
    copy = planted_config(config, dataset, planted, folder / "planted.npz", members)
    planted_evidence = evidence_of(copy, folder / "planted", say)
    scores = features(evidence, labels, planted.transition)
    planted_scores = features(planted_evidence, planted.labels, planted.transition)
    calibration = calibrate(scores, planted_scores, planted.is_planted, config.seed)
    return _Judged(evidence, scores, planted.transition, calibration)


def _judge_given(found: np.ndarray, config: Config, dataset: Dataset) -> _Judged:
    """Judges by the user's own out-of-sample probabilities; nothing is trained."""
    labels = dataset.train.labels
    evidence = Evidence(np.zeros(1), found[None], found[None])
    flips = transition(count_confusions(found.argmax(axis=1), labels, dataset.num_classes))
    planted = flip_all(np.random.default_rng(config.seed), labels, flips)
    scores = features(evidence, labels, flips)
    calibration = calibrate_fixed(scores, features(evidence, planted, flips), config.seed)
    return _Judged(evidence, scores, flips, calibration)


def _write(
    folder: epath.Path,
    config: Config,
    dataset: Dataset,
    validation: Split | None,
    judged: _Judged,
) -> Audit:
    train, evidence, labels = dataset.train, judged.evidence, dataset.train.labels
    images = np.concatenate([train.images, validation.images]) if validation else train.images
    duplicates = find_duplicates(images, config.seed)
    wrong = judged.calibration.probability_wrong
    other_labels = validation.labels if validation else labels[:0]
    is_odd = np.isin([str(name) for name in train.example_ids], list(dataset.odd_sized))
    issues = find_issues(evidence, labels, wrong, train.images, duplicates, other_labels, is_odd)
    issue = main_issue(issues)
    why = reasons(issue, evidence, labels, wrong, dataset.class_names)
    table = files.make_table(
        train.index, train.example_ids, labels, suggest(evidence, labels), wrong, issue, why,
        dataset.class_names, judged.scores,
    )  # fmt: skip
    summary = _summary(dataset, judged, issues)
    files.write_audit(folder / "audit.parquet", table)
    files.write_issues(folder / "issues.csv", table, issues, dataset.broken)
    files.export_cleanlab(folder / "exports" / "cleanlab.csv", table)
    files.export_aum(folder / "exports" / "aum.csv", table)
    files.export_json(folder / "exports" / "ids.json", table, dataset.class_names)
    text = page.render(
        f"Audit of {dataset.name}",
        describe(summary),
        judged.calibration.evidence,
        _figures(dataset, judged),
        table,
        issues,
        train.images,
        dataset.class_names,
        hashlib.sha256(json.dumps(config.science(), sort_keys=True).encode()).hexdigest()[:16],
    )
    write_atomically(folder / "report.html", lambda name: epath.Path(name).write_text(text))
    write_json(folder / "audit.json", summary)
    return Audit(table, summary)


def _figures(dataset: Dataset, judged: _Judged) -> dict[str, Any]:
    evidence, labels = judged.evidence, dataset.train.labels
    pictures = {
        "share of each class that has another label": page.draw_confusion(
            judged.flips, dataset.class_names
        )
    }
    if len(evidence.epochs) > 1:
        curves = evidence.inside[:, np.arange(len(labels)), labels]
        is_suspect = judged.calibration.probability_wrong > 0.5
        pictures["how suspects and others were learned"] = page.draw_learning(
            evidence.epochs, curves, is_suspect
        )
    return pictures


def _summary(dataset: Dataset, judged: _Judged, issues: pd.DataFrame) -> dict[str, Any]:
    rate = judged.calibration.rate
    return {
        "num_examples": len(dataset.train),
        "num_classes": dataset.num_classes,
        "noise_rate": rate.rate,
        "noise_rate_low": rate.low,
        "noise_rate_high": rate.high,
        "issues": {str(name): int(issues[name].sum()) for name in issues}
        | {files.BROKEN: len(dataset.broken)},
        "transition": np.round(judged.flips, 6).tolist(),
        "class_names": [str(name) for name in dataset.class_names],
        "evidence": judged.calibration.evidence.to_dict("records"),
        "reliability": judged.calibration.reliability.to_dict("records"),
    }


def describe(summary: dict[str, Any]) -> list[str]:
    """Returns what was found, in two lines."""
    counts = ", ".join(f"{count:,} {name}" for name, count in summary["issues"].items() if count)
    return [
        f"{summary['num_examples']:,} training examples of {summary['num_classes']} classes; "
        f"about {summary['noise_rate']:.1%} of the labels are wrong "
        f"[{summary['noise_rate_low']:.1%}, {summary['noise_rate_high']:.1%}].",
        f"Issues (an example may have several): {counts or 'none'}.",
    ]


def apply_decisions(workdir: epath.PathLike, path: epath.PathLike) -> str:
    """Writes a cleaned copy of the audited data, and returns in words what it is.

    Args:
      workdir: of a finished audit.
      path: of decisions.csv, as the report exports it.

    Raises:
      InputError: if the audit is not finished, or the decisions do not fit it.
    """
    folder = epath.Path(workdir)
    if not (folder / "audit.parquet").exists():
        raise InputError(f"--workdir={workdir}: no finished audit; run it without --apply first")
    table = read_table(folder / "audit.parquet")
    request = Request(**read_json(folder / "config.json")["request"])
    _, dataset, _ = prepare_request(request, folder)
    decisions = read_decisions(path, table, dataset.num_classes)
    cleaned = clean(dataset, decisions)
    written = write_clean_copy(folder / "cleaned", dataset, cleaned)
    return (
        f"{written}: {len(cleaned.kept):,} examples, {cleaned.num_relabelled} relabelled, "
        f"{cleaned.num_dropped} dropped; train on it with --config.dataset.source=npz "
        f"--config.dataset.path={written}"
    )


def _identity_of(request: Request) -> dict[str, Any]:
    return {
        "audit.effort": request.effort,
        "audit.pred_probs": request.pred_probs,
        "audit.embeddings": request.embeddings,
    }
