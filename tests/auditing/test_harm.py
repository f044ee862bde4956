"""What cleaning does: every class is trained on, other suspects are other runs, signals end it."""

import json
import signal

import numpy as np
import pandas as pd
import pytest

from memjax.auditing.harm import check_harm, describe_harm, leave_one_of_each, make_folds
from memjax.auditing.request import Request
from memjax.auditing.run import audit
from tests import command_line

QUICK = {"train.num_epochs": 1, "train.log_every_epochs": 1, "run.progress": False}


@pytest.fixture
def rare(tmp_path):
    """Features of three classes, one of two examples; a few labels are wrong."""
    rng = np.random.default_rng(0)
    truth = np.array([2, 2] + [0, 1] * 29)
    labels = truth.copy()
    labels[2:8] = 1 - truth[2:8]
    features = 100 * (np.eye(4)[truth] + 0.1 * rng.normal(size=(60, 4)))
    np.savez(tmp_path / "data.npz", images=features, labels=labels)
    found = np.eye(3)[truth] * 0.7 + 0.1 + 0.02 * rng.random((60, 3))
    np.save(tmp_path / "p.npy", found / found.sum(axis=1, keepdims=True))
    request = Request(
        data=str(tmp_path / "data.npz"), pred_probs=str(tmp_path / "p.npy"), overrides=QUICK
    )
    audit(request, tmp_path / "audit", say=lambda line: None)
    return request, tmp_path / "audit"


def _suspect(folder, rows):
    """Makes these rows the suspects of an audit."""
    table = pd.read_parquet(folder / "audit.parquet")
    table["issue"] = np.where(np.isin(np.arange(len(table)), rows), "wrong label", "")
    table.to_parquet(folder / "audit.parquet")


@pytest.mark.parametrize("seed", range(5))
def test_each_class_is_spread_over_the_folds(seed):
    labels = np.random.default_rng(seed).permutation([0] * 50 + [1] * 7 + [2] * 2)
    fold = make_folds(labels, seed)
    for label in range(3):
        counts = np.bincount(fold[labels == label], minlength=3)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(fold).max() - np.bincount(fold).min() <= 1


def test_of_a_class_of_suspects_the_least_suspect_stays():
    labels, rest = np.array([0, 0, 1, 1, 1]), np.array([True, True, True, True, False])
    left_out = np.array([False, True, True, True, False])
    spared = leave_one_of_each(left_out, rest, labels, np.array([0, 0.9, 0.8, 0.6, 0.1]))
    assert spared.tolist() == [False, True, True, False, False]


def test_rare_classes_and_many_suspects_are_trained_on_and_other_suspects_anew(rare):
    request, folder = rare
    _suspect(folder, range(45))  # all of the rare class, and most of the others
    harm = check_harm(request, folder)
    assert harm.num_removed == 45
    assert "folds" in describe_harm(harm)
    before = {path.name for path in (folder / "harm").iterdir()}
    _suspect(folder, range(20, 40))
    assert check_harm(request, folder).num_removed == 20
    assert len({path.name for path in (folder / "harm").iterdir()} - before) == 6


def test_without_suspects_nothing_is_left_out_and_nothing_is_wrong(rare):
    request, folder = rare
    _suspect(folder, [])
    assert check_harm(request, folder) is None
    assert "nothing to leave out" in describe_harm(None)


def test_a_signal_while_harm_is_checked_is_told_as_ever(rare, tmp_path):
    request, _ = rare
    process = command_line.start(
        "memjax.audit", f"--data={request.data}", f"--pred_probs={request.pred_probs}",
        f"--workdir={tmp_path / 'stopped'}", "--check_harm", "--config.train.num_epochs=20000000",
    )  # fmt: skip
    runs = tmp_path / "stopped" / "harm"
    command_line.wait_for(lambda: any(runs.glob("*/run/metrics.jsonl")), process)
    code, out, error = command_line.kill(process, signal.SIGTERM)
    assert code == 143
    assert "the same command goes on from there" in error
    assert "Traceback" not in error
    assert "report: " in out  # the audit is finished and told before
    assert json.loads((tmp_path / "stopped" / "audit.json").read_text())
