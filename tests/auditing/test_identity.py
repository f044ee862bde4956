"""An audit is of its data: other data are another audit, and no decision hits another example."""

import dataclasses
import json
import os
import re

import numpy as np
import PIL.Image
import pytest

from memjax.auditing.request import Request
from memjax.auditing.run import apply_decisions, audit
from memjax.config import resolve
from memjax.data.sources import load_dataset
from memjax.errors import InputError

CLASSES = ("=cat", "dog")


def _probabilities(labels):
    return 0.1 + 0.8 * np.eye(2)[labels]


def _audit(request, folder):
    return audit(request, folder, say=lambda line: None)


def _decide(folder, text):
    (folder / "decisions.csv").write_text(f"index,decision,new_label,example_id\n{text}\n")
    return folder / "decisions.csv"


@pytest.fixture
def photos(tmp_path):
    """A folder of 40 audited pictures; (request, folder of the audit)."""
    rng = np.random.default_rng(0)
    for n in range(40):
        picture = PIL.Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8))
        (tmp_path / "photos" / CLASSES[n % 2]).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "photos" / CLASSES[n % 2] / f"{n:02d}.png")
    np.save(tmp_path / "p.npy", _probabilities(np.repeat([0, 1], 20)))
    request = Request(data=str(tmp_path / "photos"), pred_probs=str(tmp_path / "p.npy"))
    _audit(request, tmp_path / "audit")
    return request, tmp_path / "audit"


@pytest.fixture
def arrays(tmp_path):
    """Features with ids, true labels and a validation split; (arrays, request)."""
    rng, labels = np.random.default_rng(0), np.arange(60) % 2
    arrays = {
        "images": 1e3 * rng.normal(size=(60, 5)),
        "labels": labels,
        "true_labels": np.where(np.arange(60) < 4, 1 - labels, labels),
        "example_ids": np.array([f"=id {k}" for k in range(60)]),
        "class_names": np.array(CLASSES),
        "validation_images": 1e3 * rng.normal(size=(9, 5)),
        "validation_labels": np.arange(9) % 2,
        "validation_example_ids": np.array([f"held {k}" for k in range(9)]),
    }
    np.savez(tmp_path / "data.npz", **arrays)
    np.save(tmp_path / "p.npy", _probabilities(labels))
    return arrays, Request(data=str(tmp_path / "data.npz"), pred_probs=str(tmp_path / "p.npy"))


def _delete(data):
    os.remove(data / "=cat" / "04.png")


def _rename(data):
    (data / "dog" / "05.png").rename(data / "dog" / "055.png")


def _relabel(data):
    (data / "dog" / "39.png").rename(data / "=cat" / "39.png")


def _repaint(data):
    PIL.Image.new("L", (8, 8), 7).save(data / "dog" / "05.png")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_delete, "40 training examples then, 39 now"),
        (_rename, "example_id dog/05.png then, dog/055.png now, in row 22"),
        (_relabel, "example_id dog/01.png then, =cat/39.png now, in row 20"),
        (_repaint, "other pixels or labels"),
    ],
)
def test_decisions_on_data_that_have_changed_are_refused(photos, tmp_path, change, words):
    _, folder = photos
    decisions = _decide(folder, "30,drop,,")
    change(tmp_path / "photos")
    said = re.escape(f"the data have changed since the audit ({words}")
    with pytest.raises(InputError, match=said):
        apply_decisions(folder, decisions)
    assert not (folder / "cleaned").exists()


def test_an_audit_of_an_older_memjax_without_checksums_can_still_be_applied(photos):
    _, folder = photos
    document = json.loads((folder / "config.json").read_text())
    for name in ("audit.train", "audit.validation"):
        del document["science"][name]
    (folder / "config.json").write_text(json.dumps(document))
    assert "1 dropped" in apply_decisions(folder, _decide(folder, "30,drop,,"))


def test_decisions_of_another_audit_are_refused_by_their_ids(photos):
    _, folder = photos
    for index, name in ((0, "'=cat/00.png"), (1, "=cat/02.png"), (2, "")):
        _decide(folder, f"{index},drop,,{name}")
        apply_decisions(folder, folder / "decisions.csv")
        (folder / "cleaned" / "cleaned.npz").unlink()
    decisions = _decide(folder, "2,drop,,=cat/06.png")
    with pytest.raises(InputError, match=r"line 2: example_id '=cat/06\.png': index 2 is '=cat/04"):
        apply_decisions(folder, decisions)


def test_the_cleaned_list_has_no_formula(photos):
    _, folder = photos
    apply_decisions(folder, _decide(folder, "2,drop,,"))
    text = (folder / "cleaned" / "cleaned.csv").read_text()
    assert text.splitlines()[1] == "0,'=cat/00.png,0,'=cat"


def test_a_cleaned_copy_has_all_that_the_source_has(arrays, tmp_path):
    given, request = arrays
    folder = tmp_path / "audit"
    _audit(request, folder)
    said = apply_decisions(folder, _decide(folder, "3,drop,,\n7,relabel,0,"))
    section = {"source": "npz", "path": str(folder / "cleaned" / "cleaned.npz")}
    assert "--config.dataset.standardize=feature" in said
    kept = np.delete(np.arange(60), 3)
    with np.load(section["path"]) as cleaned:
        assert np.array_equal(cleaned["images"], given["images"][kept])  # not standardised
        assert np.array_equal(cleaned["validation_images"], given["validation_images"])
        assert np.array_equal(cleaned["true_labels"], given["true_labels"][kept])
    dataset = load_dataset(resolve({"dataset": section | {"standardize": "feature"}}).dataset)
    assert dataset.class_names == CLASSES
    assert dataset.train.example_ids.tolist() == given["example_ids"][kept].tolist()
    assert dataset.validation.example_ids.tolist() == given["validation_example_ids"].tolist()
    assert np.array_equal(dataset.validation.labels, given["validation_labels"])
    assert dataset.train.labels[6] == 0


@pytest.mark.parametrize("name", ["images", "labels", "validation_images", "pred_probs"])
def test_other_data_in_the_same_folder_are_another_audit(arrays, tmp_path, name):
    given, request = arrays
    folder = tmp_path / "audit"
    _audit(request, folder)
    before = json.loads((folder / "config.json").read_text())
    if name == "pred_probs":
        np.save(tmp_path / "p.npy", _probabilities(given["labels"]) ** 2 / 0.82)
    else:
        changed = {name: given[name][::-1], "example_ids": given["example_ids"]}
        np.savez(tmp_path / "data.npz", **(given | changed))
        labels = given["labels"][::-1] if name == "labels" else given["labels"]
        np.save(tmp_path / "p.npy", _probabilities(labels))
    with pytest.raises(InputError, match="holds an audit of other data or another config"):
        _audit(request, folder)
    assert json.loads((folder / "config.json").read_text()) == before


def test_the_same_data_elsewhere_are_the_same_audit(arrays, tmp_path):
    given, request = arrays
    _audit(request, tmp_path / "audit")
    np.savez(tmp_path / "moved.npz", **given)
    moved = dataclasses.replace(request, data=str(tmp_path / "moved.npz"))
    _audit(moved, tmp_path / "audit")


def _kept_under(folder):
    """The name under which a browser keeps the decisions of a report."""
    return re.search(r'"identity": "(\w+)"', (folder / "report.html").read_text())[1]


def test_reports_of_other_data_keep_other_decisions(arrays, tmp_path):
    given, request = arrays
    _audit(request, tmp_path / "first")
    _audit(request, tmp_path / "again")
    np.savez(tmp_path / "data.npz", **(given | {"images": given["images"][::-1]}))
    _audit(request, tmp_path / "other")
    first, again, other = (_kept_under(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again != other


def test_a_config_that_is_of_no_audit_is_refused(arrays, tmp_path):
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="not that of an audit"):
        _audit(arrays[1], tmp_path / "audit")
