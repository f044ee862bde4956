"""Tables and pages: hostile names do no harm, decisions are checked, data are not touched."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from memjax.auditing import files, page
from memjax.auditing.cleaning import clean, read_decisions, write_clean_copy
from memjax.auditing.evidence import Evidence, EvidenceSums
from memjax.auditing.issues import ISSUES, find_issues, main_issue, reasons
from memjax.auditing.scores import features, label_margin, suggest
from memjax.config import resolve
from memjax.data.dataset import Dataset, Split
from memjax.data.duplicates import find_duplicates
from memjax.data.sources import load_dataset
from memjax.errors import InputError

NAMES = ("=cmd()", "</script><script>alert(1)</script>")


def _example(n=40, seed=0):
    """Evidence of two classes in which the first five labels are wrong."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 2
    labels = np.where(np.arange(n) < 5, 1 - truth, truth)
    likely = np.full((n, 2), 0.1) + 0.8 * np.eye(2)[truth]
    evidence = Evidence(np.array([1.0, 2.0]), np.stack([likely] * 2), np.stack([likely] * 2))
    images = rng.random((n, 6, 6, 1)).astype(np.float32)
    return evidence, labels, truth, images


def _table(n=40):
    evidence, labels, _, images = _example(n)
    wrong = np.where(np.arange(n) < 5, 0.9, 0.05)
    duplicates = find_duplicates(images)
    issues = find_issues(evidence, labels, wrong, images, duplicates, labels[:0])
    issue = main_issue(issues)
    why = reasons(issue, evidence, labels, wrong, NAMES)
    ids = np.array([f"=HYPERLINK({i}).png" for i in range(n)], object)
    prior = np.array([[0.9, 0.1], [0.1, 0.9]])
    scores = features(evidence, labels, prior)
    suggested, shares = suggest(evidence, labels), np.full(n, 0.9)
    table = files.make_table(
        np.arange(n), ids, labels, suggested, shares, wrong, issue, why, NAMES, scores
    )
    return table, issues, images


def _dataset(n=40):
    _, labels, _, images = _example(n)
    split = Split(images, labels.astype(np.int32), np.arange(n))
    return Dataset("made up", 2, NAMES, split, split.take(np.arange(0)))


def test_sums_are_means_over_members_in_and_out():
    rng = np.random.default_rng(0)
    is_member = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0]], bool)
    found = rng.dirichlet(np.ones(4), (2, 3, 3))  # [times members n classes]
    sums = EvidenceSums([1.0, 2.0], is_member, 4)
    for time in range(2):
        for member in range(3):
            sums.add(time, member, found[time, member])
    evidence = sums.mean()
    for example in range(3):
        inside = is_member[:, example]
        expected = found[:, inside, example].mean(axis=1), found[:, ~inside, example].mean(axis=1)
        assert np.allclose(evidence.inside[:, example], expected[0], atol=1e-6)
        assert np.allclose(evidence.outside[:, example], expected[1], atol=1e-6)


def test_an_example_in_every_subset_is_refused():
    with pytest.raises(InputError, match="example 1: is in 2 of 2 training subsets"):
        EvidenceSums([1.0], np.array([[1, 1], [0, 1]], bool), 2)


def test_margins_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(5), 30), rng.integers(0, 5, 30)
    expected = [
        row[label] - max(value for k, value in enumerate(row) if k != label)
        for row, label in zip(probabilities, labels, strict=True)
    ]
    assert np.allclose(label_margin(probabilities, labels), expected)


def test_wrong_labels_stand_first_and_suggestions_are_the_other_class():
    table, _, _ = _table()
    first = table.sort_values("rank").head(5)
    assert set(first["index"]) == set(range(5))
    assert (first["suggested_label"] == 1 - first["label"]).all()
    assert (first["issue"] == "wrong label").all()
    assert list(table["index"]) == list(range(40))


def test_duplicates_of_all_kinds_are_found():
    rng = np.random.default_rng(0)
    images = rng.random((60, 5, 5, 1)).astype(np.float32)
    images[10] = images[3]
    images[20] = images[4] + 1e-3
    evidence, labels, _, _ = _example(50)
    labels[[3, 10, 4, 20]] = [0, 1, 1, 1]
    images[55] = images[7]  # of the validation split
    found = find_duplicates(images)
    assert (found.exact[[3, 10]] == found.exact[3]).all()
    assert found.near[3] == 10
    assert found.near[20] == 4
    none = np.zeros(50)
    issues = find_issues(evidence, labels, none, images[:50], found, np.ones(10, int))
    assert issues["conflicting duplicate"].to_numpy().nonzero()[0].tolist() == [3, 10]
    assert {4, 20} <= set(issues["duplicate"].to_numpy().nonzero()[0].tolist())
    assert issues["leakage"].to_numpy().nonzero()[0].tolist() == [7]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [1, 2, 3, 0]])
def test_three_copies_or_more_hide_no_other_label_and_no_leakage(order):
    rng = np.random.default_rng(0)
    images = rng.random((50, 5, 5, 1)).astype(np.float32)
    images[[5, 9, 12, 45]] = images[5]  # the last is of the validation split
    evidence, labels, _, _ = _example(40)
    labels[[5, 9, 12]] = np.array([0, 0, 1, 0])[order][:3]
    others = np.zeros(10, int)
    issues = find_issues(
        evidence, labels, np.zeros(40), images[:40], find_duplicates(images), others
    )
    assert issues["leakage"].to_numpy().nonzero()[0].tolist() == [5, 9, 12]
    mixed = len({*labels[[5, 9, 12]], 0}) > 1
    assert issues["conflicting duplicate"].to_numpy().nonzero()[0].tolist() == [5, 9, 12] * mixed
    same = [k for k in (5, 9, 12) if (labels[[5, 9, 12]] == labels[k]).sum() > 1]
    assert issues["duplicate"].to_numpy().nonzero()[0].tolist() == same


def test_ambiguous_examples_waver_between_the_two_likeliest():
    shares = np.array([[0.28, 0.32, 0.4], [0.4, 0.35, 0.25]])
    evidence, labels = Evidence(np.ones(1), shares[None], shares[None]), np.array([2, 2])
    kinds = np.array(["ambiguous", "ambiguous"], object)
    lines = reasons(kinds, evidence, labels, np.array([0.3, 0.4]), ("cat", "dog", "cow"))
    assert "networks waver between cow (40%) and dog (32%)" in lines[0]
    assert "networks waver between cat (40%) and dog (35%)" in lines[1]  # and not its label


def test_a_blank_image_and_a_rare_class_are_named():
    evidence, labels, _, images = _example()
    images[8] = 0.5
    labels = np.where(np.arange(40) < 2, 1, 0)
    found = find_issues(evidence, labels, np.zeros(40), images, find_duplicates(images), labels[:0])
    assert found["blank"].to_numpy().nonzero()[0].tolist() == [8]
    assert list(found) == list(ISSUES)


def test_broken_files_stand_last_in_the_list_and_odd_sizes_are_an_issue(tmp_path):
    for name, size in (("a", (8, 8)), ("b", (8, 8)), ("c", (24, 8)), ("d", (9, 8))):
        picture = PIL.Image.new("L", size, 255 if name == "a" else 128)
        (tmp_path / name).mkdir()
        picture.save(tmp_path / name / f"{name}.png")
    (tmp_path / "a" / "bad.png").write_text("not a picture")
    (tmp_path / "=bad.png").write_text("")
    config = resolve({"dataset": {"source": "folder", "path": str(tmp_path), "image_size": 8}})
    dataset = load_dataset(dataclasses.replace(config.dataset, num_validation=0))
    assert dataset.broken == (("a/bad.png", "no image"),)
    assert dataset.odd_sized == ("c/c.png",)
    table, issues, _ = _table()
    issues.loc[issues.index[0], "odd size"] = True
    broken = (*dataset.broken, ("=bad.png", "no image"))
    files.write_issues(tmp_path / "issues.csv", table, issues, broken)
    written = pd.read_csv(tmp_path / "issues.csv")
    assert list(written["issue"].tail(2)) == ["broken file"] * 2
    assert list(written["example_id"].tail(2)) == ["a/bad.png", "'=bad.png"]
    assert list(written["index"].tail(2)) == [-1, -1]
    assert list(written["suggested_probability"][:2]) == [0.9, 0.9]
    assert list(written["rank"].tail(2)) == [41, 42]
    first = written[written["index"] == 0].iloc[0]
    assert (first["issue"], first["also"]) == ("wrong label", "odd size")
    evidence, labels, _, images = _example()
    odd, duplicates = np.arange(40) == 7, find_duplicates(images)
    found = find_issues(evidence, labels, np.zeros(40), images, duplicates, labels[:0], odd)
    assert found["odd size"].to_numpy().nonzero()[0].tolist() == [7]


def test_no_cell_is_a_formula(tmp_path):
    table, issues, _ = _table()
    files.write_issues(tmp_path / "issues.csv", table, issues)
    files.export_cleanlab(tmp_path / "cleanlab.csv", table)
    files.export_aum(tmp_path / "aum.csv", table)
    for path in tmp_path.glob("*.csv"):
        text = path.read_text()
        assert not re.search(r'(^|,|")[=+@]', text, re.MULTILINE), path.name
    assert len(pd.read_csv(tmp_path / "issues.csv")) == (table["issue"] != "").sum()


def test_ids_are_those_of_images_and_categories(tmp_path):
    table, _, _ = _table()
    files.export_json(tmp_path / "ids.json", table, NAMES)
    document = json.loads((tmp_path / "ids.json").read_text())
    assert [image["id"] for image in document["images"]] == list(range(40))
    assert {a["category_id"] for a in document["annotations"]} == {0, 1}


def test_hostile_names_reach_the_page_as_text_only():
    table, issues, images = _table()
    evidence = pd.DataFrame(
        {"score": ["combined"], "auroc": [1.0], "average_precision": [1.0], "precision_at_k": [1.0]}
    )
    transition = np.array([[0.9, 0.1], [0.1, 0.9]])
    pictures = {"confusion": page.draw_confusion(transition, NAMES)}
    text = page.render(
        NAMES[1], [NAMES[1]], evidence, pictures, table, issues, images, NAMES, "identity"
    )
    assert text.count("<script") == 2
    assert "alert(1)</script>" not in text
    data = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    rows = json.loads(data[1])["rows"]
    assert len(rows) == 40
    assert rows[0]["wrong"] == 0.9
    assert rows[0]["image"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,choice\n1,keep\n", "no column 'decision'"),
        ("index,decision\n99,keep\n", "line 2: index 99: no such training example"),
        ("index,decision\nx,keep\n", "line 2: index 'x': must be a whole number"),
        ("index,decision\n1,burn\n", "line 2: decision 'burn': must be one of keep, relabel, drop"),
        ("index,decision\n1,keep\n1,drop\n", "line 3: index 1: decided in line 2 too"),
        ("index,decision,new_label\n1,relabel,7\n", "new_label 7: must be from 0 to 1"),
        ("index,decision,new_label\n1,relabel,-1\n", "new_label '-1': must be a whole number"),
        ("", "not readable as CSV"),
    ],
)
def test_bad_decisions_are_one_line(tmp_path, text, message):
    (tmp_path / "decisions.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_decisions(tmp_path / "decisions.csv", _table()[0], 2)


def test_decisions_make_a_cleaned_copy_and_leave_the_data_alone(tmp_path):
    table, _, _ = _table()
    dataset = _dataset()
    before = dataset.train.labels.copy()
    (tmp_path / "decisions.csv").write_text(
        "index,decision,new_label,example_id\n"
        "0,relabel,,'=HYPERLINK(0).png\n1,drop,,=HYPERLINK(1).png\n2,keep,,\n3,relabel,0,\n"
    )
    decisions = read_decisions(tmp_path / "decisions.csv", table, 2)
    cleaned = clean(dataset, decisions)
    path = write_clean_copy(tmp_path / "cleaned", dataset, cleaned)
    with np.load(path) as written:
        assert len(written["labels"]) == 39
        assert written["labels"][0] == 1 - before[0]
        assert written["labels"][2] == 0
    assert cleaned.num_dropped == 1
    assert (dataset.train.labels == before).all()
    with pytest.raises(InputError, match="is there already"):
        write_clean_copy(tmp_path / "cleaned", dataset, cleaned)
    everything = pd.DataFrame(
        {"index": np.flatnonzero(before == 0), "decision": "drop", "new_label": 0}
    )
    with pytest.raises(InputError, match="would be left without an example"):
        clean(dataset, everything)
