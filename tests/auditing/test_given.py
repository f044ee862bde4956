"""Arrays that a user brings: what is wrong with them is said, and nothing of another audit lost."""

import numpy as np
import pandas as pd
import pytest

import memjax
from memjax.auditing.arrays import savable_labels
from memjax.auditing.given import out_of_order, read_array
from memjax.auditing.request import Request
from memjax.auditing.run import audit
from memjax.errors import InputError

NAMES = [f"class {k}" for k in range(10)]


def _predictions(n=300, noise=0.3, seed=0):
    """Labels of which some are wrong, and right predictions."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 10, n)
    return np.where(rng.random(n) < noise, (truth + 1) % 10, truth), truth


@pytest.mark.parametrize("suffix", ["npz", "csv", "parquet"])
def test_other_files_than_npy_are_refused_by_their_name(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    path.write_text("")
    with pytest.raises(InputError, match=r"--pred_probs=.*: must be a \.npy file"):
        read_array(str(path), "pred_probs", 3)


def test_no_line_advises_to_unpickle(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("0.1,0.9")
    for name in ("objects.npy", "text.npy"):
        with pytest.raises(InputError, match="file of numbers") as told:
            read_array(str(tmp_path / name), "embeddings", 1)
        assert "pickle" not in str(told.value)


def test_rows_without_numbers_are_named(tmp_path):
    array = np.ones((4, 2))
    array[2:] = np.nan, 1
    np.save(tmp_path / "p.npy", array)
    with pytest.raises(InputError, match=r"2 of 4 rows have none .*row 2, with NaN"):
        read_array(str(tmp_path / "p.npy"), "pred_probs", 4)


def test_rows_in_another_order_agree_by_chance_alone():
    labels, truth = _predictions()
    assert out_of_order(truth, labels, NAMES) == ""
    shuffled = np.random.default_rng(1).permutation(truth)
    assert "rows must be in the order of the data" in out_of_order(shuffled, labels, NAMES)
    assert "rows must be" in out_of_order(np.zeros(300, int), labels, NAMES)


@pytest.mark.parametrize("columns", [np.arange(10)[::-1], np.array([1, 0, *range(2, 10)])])
def test_columns_in_another_order_agree_less_than_they_could(columns):
    labels, truth = _predictions()
    said = out_of_order(columns[truth], labels, NAMES)
    assert said.startswith("columns must be in the order of the classes (class 0, class 1")


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.4])
def test_wrong_labels_are_not_taken_for_another_order(noise):
    for seed in range(20):
        labels, truth = _predictions(150, noise, seed)
        assert out_of_order(truth, labels, NAMES) == ""


def test_probabilities_that_are_not_of_these_labels_leave_no_folder(tmp_path):
    labels, truth = _predictions()
    images = np.random.default_rng(0).random((300, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", images=images, labels=labels)
    np.save(tmp_path / "p.npy", np.eye(10)[truth[::-1]])
    request = Request(data=str(tmp_path / "d.npz"), pred_probs=str(tmp_path / "p.npy"))
    with pytest.raises(InputError, match="rows must be in the order"):
        audit(request, tmp_path / "audit")
    assert not (tmp_path / "audit").exists()


def test_labels_of_a_data_frame_are_labels():
    text = savable_labels(pd.Series(["b", "a"]))
    assert (text.dtype.kind, text.tolist()) == ("U", ["b", "a"])
    assert savable_labels(pd.Series(["b", "a"], dtype="category")).tolist() == ["b", "a"]
    assert savable_labels(pd.Series([3, 4], dtype=object)).tolist() == [3, 4]
    with pytest.raises(InputError, match="labels: number 1 is None; must be integers or strings"):
        savable_labels(pd.Series(["b", None], dtype=object))


def test_features_and_names_of_a_data_frame_are_audited(tmp_path):
    labels, truth = _predictions(200)
    rng = np.random.default_rng(0)
    features = pd.DataFrame(100 * rng.normal(size=(200, 3)))
    probabilities = pd.DataFrame(0.02 + 0.8 * np.eye(10)[truth])
    names = pd.Series(list("abcdefghij"))[labels].reset_index(drop=True)
    say = {"say": lambda line: None, "workdir": tmp_path / "audit"}
    table = memjax.audit_labels(features, names, pred_probs=probabilities, **say)
    assert (table["label_name"] == names).all()
    given = probabilities.to_numpy()[np.arange(200), table["suggested_label"]]
    assert np.allclose(table["suggested_probability"], given)
    again = memjax.audit_labels(features, names, pred_probs=probabilities, **say)
    assert again.equals(table)


@pytest.mark.parametrize("change", ["images", "labels", "pred_probs", "nothing given"])
def test_other_arrays_in_the_same_folder_are_refused_and_it_stays_as_it_is(tmp_path, change):
    labels, truth = _predictions(200)
    images = np.random.default_rng(0).random((200, 4, 4)).astype(np.float32)
    arrays = {"images": images, "labels": labels, "pred_probs": np.eye(10)[truth]}
    quiet = {"say": lambda line: None, "workdir": tmp_path}
    memjax.audit_labels(**arrays, **quiet)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.np*")}
    others = {"images": 1 - images, "labels": truth, "pred_probs": np.eye(10)[labels]}
    others["nothing given"] = None
    arrays["pred_probs" if change == "nothing given" else change] = others[change]
    with pytest.raises(InputError, match="holds an audit of other arrays"):
        memjax.audit_labels(**arrays, **quiet)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.np*")} == before
