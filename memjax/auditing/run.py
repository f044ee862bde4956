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
from memjax.auditing.cleaning import check_unchanged, clean, read_decisions, write_clean_copy
from memjax.auditing.evidence import Evidence
from memjax.auditing.given import checksum, read_probabilities
from memjax.auditing.issues import find_issues, main_issue, reasons
from memjax.auditing.noise import count_confusions, expected_transition, flip_all, transition
from memjax.auditing.request import (
    Prepared,
    Request,
    num_networks,
    prepare_request,
    source_section,
    training_cost,
    training_data,
    write_embeddings,
)
from memjax.auditing.scores import features, overall, suggest
from memjax.auditing.source import load_source
from memjax.auditing.stages import EFFORTS, evidence_of, plant_flips, planted_config
from memjax.config import saved_science
from memjax.data.dataset import Dataset
from memjax.data.duplicates import find_duplicates
from memjax.errors import InputError
from memjax.models.source import code_fingerprints
from memjax.runtime.locks import claim
from memjax.runtime.tables import read_table
from memjax.runtime.workdir import (
    difference,
    has_config,
    read_json,
    write_atomically,
    write_json,
)
from memjax.training.setup import prepare

Say = Callable[[str], None]
_CHECKSUMS = ("audit.train", "audit.validation")  # in config.json


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
    prepared = prepare_request(request, folder)
    config, dataset = prepared.config, prepared.dataset
    given = None
    if request.pred_probs:
        labels, names = dataset.train.labels, dataset.class_names
        given = read_probabilities(request.pred_probs, labels, names)
    science = config.science() | _identity_of(request, prepared, given)
    _check_same_audit(folder, science)
    if num_networks(request, config):  # what cannot be trained is refused before anything is kept
        _ = prepare(config, training_data(request, prepared)).num_params
    with claim(folder):
        if not _check_same_audit(folder, science):
            document = {"science": science, "request": dataclasses.asdict(request)}
            write_json(folder / "config.json", document)
        for note in dataset.notes:
            say(note)
        if given is not None:
            judged = _judge_given(given, prepared)
        else:
            if request.embeddings:
                write_embeddings(prepared, folder)
            judged = _judge_trained(request, prepared, folder, say)
        return _write(folder, prepared, judged, science)


def _check_same_audit(folder: epath.Path, science: dict[str, Any]) -> bool:
    """Returns whether the folder already holds this audit.

    Raises:
      InputError: if it holds another one, with the difference, or something else.
    """
    if not has_config(folder):
        return False
    found = difference(saved_science(_read_document(folder)["science"], science), science)
    if found:
        raise InputError(
            f"--workdir={folder}: holds an audit of other data or another config ({found}); choose "
            "another --workdir, or delete that one"
        )
    return True


def _read_document(folder: epath.Path) -> dict[str, Any]:
    document = read_json(folder / "config.json")
    if not isinstance(document, dict) or not {"science", "request"} <= set(document):
        raise InputError(
            f"{folder / 'config.json'}: not that of an audit; choose another --workdir"
        )
    return document


def _judge_trained(request: Request, prepared: Prepared, folder: epath.Path, say: Say) -> _Judged:
    config, dataset = prepared.config, prepared.dataset
    labels = dataset.train.labels
    if not (folder / "given").exists():
        say(f"estimated: {training_cost(request, prepared)}")
    evidence = evidence_of(config, folder / "given", say)
    planted = plant_flips(evidence, labels, dataset.num_classes, config.seed)
    members = EFFORTS[request.effort].planted_members
    path, names = folder / "planted.npz", dataset.class_names
    copy = planted_config(config, prepared.images, planted, names, path, members)
    planted_evidence = evidence_of(copy, folder / "planted", say)
    scores = features(evidence, labels, planted.transition)
    planted_scores = features(planted_evidence, planted.labels, planted.transition)
    calibration = calibrate(scores, planted_scores, planted.is_planted, config.seed)
    return _Judged(evidence, scores, calibration)


def _judge_given(found: np.ndarray, prepared: Prepared) -> _Judged:
    """Judges by the user's own out-of-sample probabilities; nothing is trained."""
    config, dataset = prepared.config, prepared.dataset
    labels = dataset.train.labels
    evidence = Evidence(np.zeros(1), found[None], found[None])
    likeliest = found.argmax(axis=1)
    flips = transition(count_confusions(likeliest, labels, dataset.num_classes))
    planted = flip_all(np.random.default_rng(config.seed), labels, flips)
    scores = features(evidence, labels, flips)
    # A flip of a label that is wrong already is a confusion of the wrong class, and rarer than any
    # real one: what is learned from it finds none of these.
    planted_scores = features(evidence, planted, flips)[likeliest == labels]
    calibration = calibrate_fixed(scores, planted_scores, config.seed)
    return _Judged(evidence, scores, calibration)


def _write(
    folder: epath.Path, prepared: Prepared, judged: _Judged, science: dict[str, Any]
) -> Audit:
    config, dataset = prepared.config, prepared.dataset
    train, validation, evidence = dataset.train, dataset.validation, judged.evidence
    labels = train.labels
    images = np.concatenate([train.images, validation.images]) if len(validation) else train.images
    duplicates = find_duplicates(images, config.seed)
    wrong = judged.calibration.probability_wrong
    is_odd = np.isin([str(name) for name in train.example_ids], list(dataset.odd_sized))
    issues = find_issues(
        evidence, labels, wrong, train.images, duplicates, validation.labels, is_odd
    )
    issue = main_issue(issues)
    why = reasons(issue, evidence, labels, wrong, dataset.class_names)
    suggested = suggest(evidence, labels)
    table = files.make_table(
        train.index, train.example_ids, labels, suggested,
        overall(evidence)[np.arange(len(labels)), suggested], wrong, issue, why,
        dataset.class_names, judged.scores,
    )  # fmt: skip
    flips = expected_transition(labels, suggested, wrong, dataset.num_classes)
    summary = _summary(dataset, judged, issues, flips)
    files.write_audit(folder / "audit.parquet", table)
    files.write_issues(folder / "issues.csv", table, issues, dataset.broken)
    files.export_cleanlab(folder / "exports" / "cleanlab.csv", table)
    files.export_aum(folder / "exports" / "aum.csv", table)
    files.export_json(folder / "exports" / "ids.json", table, dataset.class_names)
    text = page.render(
        f"Audit of {dataset.name}",
        describe(summary),
        judged.calibration.evidence,
        _figures(dataset, judged, flips),
        table,
        issues,
        train.images,
        dataset.class_names,
        hashlib.sha256(json.dumps(science, sort_keys=True).encode()).hexdigest()[:16],
    )
    write_atomically(folder / "report.html", lambda name: epath.Path(name).write_text(text))
    write_json(folder / "audit.json", summary)
    return Audit(table, summary)


def _figures(dataset: Dataset, judged: _Judged, flips: np.ndarray) -> dict[str, Any]:
    evidence, labels = judged.evidence, dataset.train.labels
    pictures = {
        "share of each class that has another label": page.draw_confusion(
            flips, dataset.class_names
        )
    }
    if len(evidence.epochs) > 1:
        curves = evidence.inside[:, np.arange(len(labels)), labels]
        is_suspect = judged.calibration.probability_wrong > 0.5
        pictures["how suspects and others were learned"] = page.draw_learning(
            evidence.epochs, curves, is_suspect
        )
    return pictures


def _summary(
    dataset: Dataset, judged: _Judged, issues: pd.DataFrame, flips: np.ndarray
) -> dict[str, Any]:
    rate = judged.calibration.rate
    return {
        "num_examples": len(dataset.train),
        "num_classes": dataset.num_classes,
        "noise_rate": rate.rate,
        "noise_rate_low": rate.low,
        "noise_rate_high": rate.high,
        "issues": {str(name): int(issues[name].sum()) for name in issues}
        | {files.BROKEN: len(dataset.broken)},
        "transition": np.round(flips, 6).tolist(),
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
    document = _read_document(folder)
    request = Request(**document["request"])
    _, stored = load_source(source_section(request))
    checksums = [document["science"].get(name) for name in _CHECKSUMS]
    check_unchanged(table, stored, checksums, f"--data={request.data}")
    decisions = read_decisions(path, table, stored.num_classes)
    cleaned = clean(stored, decisions)
    written = write_clean_copy(folder / "cleaned", stored, cleaned)
    scale = " --config.dataset.standardize=feature" if stored.train.images.ndim == 2 else ""
    return (
        f"{written}: {len(cleaned.kept):,} examples, {cleaned.num_relabelled} relabelled, "
        f"{cleaned.num_dropped} dropped; train on it with --config.dataset.source=npz "
        f"--config.dataset.path={written}{scale}"
    )


def _identity_of(request: Request, prepared: Prepared, given: np.ndarray | None) -> dict[str, Any]:
    """Returns what, beside the config, makes an audit another one: its data, by their content."""
    stored = prepared.stored
    splits = (stored.train.checksum, stored.validation.checksum)
    is_embedded = bool(request.embeddings)
    return {
        "audit.effort": request.effort,
        "audit.pred_probs": None if given is None else checksum(given),
        "audit.embeddings": checksum(prepared.images) if is_embedded else None,
        **code_fingerprints(prepared.config.model.name),
        **dict(zip(_CHECKSUMS, splits, strict=True)),
    }
