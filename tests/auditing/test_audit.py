"""The whole audit, as a user runs it, on digits with flipped labels."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

import memjax
from memjax.auditing.given import read_probabilities
from memjax.auditing.request import Request, dataset_section, prepare_request
from memjax.auditing.run import audit
from memjax.errors import InputError
from memjax.training.state import balanced_subsets
from tests import command_line


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Digits of which a sixth have another label; (folder, true labels, labels)."""
    folder = tmp_path_factory.mktemp("noisy")
    digits = load_digits()
    rng = np.random.default_rng(0)
    labels = digits.target[:1000].copy()
    flipped = rng.random(1000) < 1 / 6
    labels[flipped] = (labels[flipped] + 1) % 10
    images = (digits.images[:1000] / 16 * 255).astype(np.uint8)
    np.savez(folder / "noisy.npz", images=images, labels=labels)
    return folder, digits.target[:1000], labels


@pytest.fixture(scope="module")
def audited(noisy):
    folder, _, _ = noisy
    words = f"--data={folder / 'noisy.npz'}", f"--workdir={folder / 'audit'}", "--effort=quick"
    done = command_line.run("memjax.audit", *words)
    assert done.returncode == 0, done.stderr
    return folder / "audit", done.stdout


def test_flipped_labels_are_found_and_their_number_too(noisy, audited):
    _, truth, labels = noisy
    folder, said = audited
    table = pd.read_parquet(folder / "audit.parquet")
    is_wrong = truth != labels
    assert average_precision_score(is_wrong, table["probability_wrong"]) > 0.9
    suspects = (table["issue"] == "wrong label").to_numpy()
    assert (table["suggested_label"].to_numpy() == truth)[is_wrong & suspects].mean() > 0.9
    summary = json.loads((folder / "audit.json").read_text())
    assert abs(summary["noise_rate"] - is_wrong.mean()) < 0.05
    assert "of the labels are wrong" in said
    for name in ("report.html", "issues.csv", "exports/cleanlab.csv", "exports/ids.json"):
        assert (folder / name).exists()
    assert not (folder / "given" / "checkpoints").exists()


def test_clean_data_are_called_clean(tmp_path):
    digits = load_digits()
    images = (digits.images[:800] / 16 * 255).astype(np.uint8)
    np.savez(tmp_path / "clean.npz", images=images, labels=digits.target[:800])
    words = f"--data={tmp_path / 'clean.npz'}", f"--workdir={tmp_path / 'audit'}", "--effort=quick"
    done = command_line.run("memjax.audit", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "audit" / "audit.json").read_text())["noise_rate"] < 0.02


def test_decisions_of_a_finished_audit_make_a_cleaned_copy(audited):
    folder, _ = audited
    suspects = pd.read_csv(folder / "issues.csv")
    chosen = suspects[suspects["issue"] == "wrong label"].head(20)
    decisions = pd.DataFrame({"index": chosen["index"], "decision": "relabel"})
    decisions.to_csv(folder / "decisions.csv", index=False)
    words = f"--workdir={folder}", f"--apply={folder / 'decisions.csv'}"
    done = command_line.run("memjax.audit", *words)
    assert done.returncode == 0, done.stderr
    assert "20 relabelled, 0 dropped" in done.stdout


def test_another_audit_in_the_same_folder_is_refused(noisy, audited):
    folder, _, _ = noisy
    words = f"--data={folder / 'noisy.npz'}", f"--workdir={folder / 'audit'}"
    done = command_line.run("memjax.audit", *words, "--effort=standard")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "another config" in done.stderr
    assert "--overwrite" not in done.stderr  # which audits do not have


def test_own_probabilities_are_used_instead_of_training(noisy):
    folder, truth, labels = noisy
    with np.load(folder / "noisy.npz") as data:
        images = data["images"]
    rng = np.random.default_rng(0)
    found = 0.02 + 0.8 * np.eye(10)[truth] + rng.random((1000, 10)) * 0.1
    found /= found.sum(axis=1, keepdims=True)
    table = memjax.audit_labels(images, labels, pred_probs=found, say=lambda line: None)
    assert average_precision_score(truth != labels, table["probability_wrong"]) > 0.95
    assert list(table["index"]) == list(range(1000))


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_rate_by_probabilities_that_are_right_is_the_rate(tmp_path, kind, noise):
    rng = np.random.default_rng(3)
    truth = rng.permutation(np.tile(load_digits().target, 3))[:1500]
    labels = np.where(rng.random(1500) < noise, (truth + 1) % 10, truth)
    found = np.eye(10)[truth]
    if kind == "soft":
        found = 0.02 + 0.8 * found + rng.random((1500, 10)) * 0.1
        found /= found.sum(axis=1, keepdims=True)
    images = rng.random((1500, 2, 2)).astype(np.float32)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    np.save(tmp_path / "p.npy", found)
    request = Request(data=str(tmp_path / "data.npz"), pred_probs=str(tmp_path / "p.npy"))
    table, summary = audit(request, tmp_path / "audit", say=lambda line: None)
    is_wrong = labels != truth
    assert abs(summary["noise_rate"] - is_wrong.mean()) < 0.02
    suspects = table["probability_wrong"].to_numpy() > 0.5
    assert is_wrong[suspects].mean() > 0.95
    assert suspects[is_wrong].mean() > 0.8
    flips = 1 - np.diag(summary["transition"])  # the matrix says what the rate says
    assert abs(flips.mean() - summary["noise_rate"]) < 0.04


@pytest.mark.parametrize("what", ["features", "embeddings"])
def test_both_ensembles_are_trained_on_features_as_they_are_stored(tmp_path, what):
    rng, truth = np.random.default_rng(0), np.arange(300) % 3
    labels = np.where(np.arange(300) < 30, (truth + 1) % 3, truth)
    features = 1e4 * (np.eye(6)[truth] + 0.2 * rng.normal(size=(300, 6)))
    np.savez(tmp_path / "features.npz", images=features, labels=labels)
    images = rng.random((300, 8, 8)).astype(np.float32)  # of which no network learns the labels
    np.savez(tmp_path / "pictures.npz", images=images, labels=labels)
    np.save(tmp_path / "embeddings.npy", features)
    given = {
        "features": {"data": str(tmp_path / "features.npz")},
        "embeddings": {
            "data": str(tmp_path / "pictures.npz"),
            "embeddings": str(tmp_path / "embeddings.npy"),
        },
    }[what]
    quick = {"ensemble.size": 4, "run.progress": False}
    request = Request(effort="quick", overrides=quick, **given)
    found = audit(request, tmp_path / "audit", say=lambda line: None)
    with np.load(tmp_path / "audit" / "planted.npz") as planted:
        assert np.array_equal(planted["images"], features)
    assert abs(found.summary["noise_rate"] - 0.1) < 0.03
    assert (found.table["suggested_label"].to_numpy() == truth)[:30].mean() > 0.9
    copy = tmp_path / "audit" / "planted.npz"
    np.savez(copy, images=features, labels=labels)
    with pytest.raises(InputError, match=r"planted\.npz: not the copy that these data make"):
        audit(request, tmp_path / "audit", say=lambda line: None)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((9, 10)), r"must be \[10 columns\]"),
        (np.ones((10, 3)) / 3, "3 columns; must be 10"),
        (np.ones((10, 10)), "they sum to 10 to 10"),
        (np.full((10, 10), np.nan), "must hold finite numbers"),
        (np.array(["a"] * 10), r"must be \[10 columns\]"),
    ],
)
def test_probabilities_that_do_not_fit_are_one_line(tmp_path, array, message):
    np.save(tmp_path / "p.npy", array)
    with pytest.raises(InputError, match=message):
        read_probabilities(str(tmp_path / "p.npy"), np.arange(10), [str(k) for k in range(10)])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(20, int), "class"),
        (np.array([0] * 19 + [1]), "has 1 example; an audit needs 2"),
        (np.arange(20) % 2, "20 examples; an audit that trains needs 80"),
    ],
)
def test_data_that_cannot_be_audited_are_one_line(tmp_path, labels, message):
    images = np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    with pytest.raises(InputError, match=message):
        prepare_request(Request(data=str(tmp_path / "data.npz")))


def test_data_are_recognised_by_what_they_are(tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\n")
    (tmp_path / "notes.txt").write_text("")
    assert dataset_section(str(tmp_path / "labels.csv"))["source"] == "table"
    assert dataset_section(str(tmp_path))["source"] == "folder"
    assert dataset_section("data.py:load") == {"source": "data.py:load"}
    for name in ("nothing", "notes.txt"):
        with pytest.raises(InputError, match=re.escape(f"--data={tmp_path / name}")):
            dataset_section(str(tmp_path / name))


@pytest.mark.parametrize("members", [2, 7, 10])
def test_balanced_subsets_leave_every_example_out_equally_often(members):
    subsets = balanced_subsets(3, members, 101, 71)
    counts = np.bincount(subsets.ravel(), minlength=101)
    assert counts.max() - counts.min() <= 1
    assert subsets.shape == (members, 71)
    assert (np.diff(subsets, axis=1) > 0).all()
    assert not (subsets == balanced_subsets(4, members, 101, 71)).all()
