"""A function of the user's own that returns arrays."""

import sys

import numpy as np
import pytest

from memjax.config import Dataset
from memjax.data.sources import load_dataset
from memjax.errors import InputError

HEAD = """
import numpy as np
images = np.random.default_rng(0).random((12, 3, 2, 1))
labels = np.arange(12) % 3
"""


@pytest.fixture
def load(tmp_path):
    def load(body, name="load", **fields):
        (tmp_path / "own.py").write_text(f"{HEAD}\n{body}\n")
        return load_dataset(Dataset(source=f"{tmp_path / 'own.py'}:{name}", **fields))

    return load


@pytest.mark.parametrize(
    "returned",
    [
        "{'images': images, 'labels': labels}",
        "(images, labels)",
        "{'images': images, 'labels': labels, 'validation_images': None}",
        "{'images': jax.numpy.asarray(images), 'labels': jax.numpy.asarray(labels)}",
        "{'images': images.tolist(), 'labels': labels.tolist()}",
    ],
)
def test_arrays_of_any_library_are_read(load, returned):
    dataset = load(f"import jax\ndef load(): return {returned}", num_validation=0)
    assert (dataset.name, dataset.num_classes) == ("load", 3)
    expected = np.random.default_rng(0).random((12, 3, 2, 1))
    np.testing.assert_allclose(dataset.train.images, expected, rtol=1e-6)


def test_everything_an_npz_may_have_can_be_returned(load):
    dataset = load("""
def load():
    names = np.array(["x", "y", "z"])
    return dict(images=images, labels=names[labels], true_labels=names[labels[::-1]],
                example_ids=[f"id{n}" for n in range(12)], validation_images=images[:2],
                validation_labels=["y", "z"], class_names=["z", "y", "x"])
""")
    assert dataset.class_names == ("z", "y", "x")
    np.testing.assert_array_equal(dataset.train.labels, 2 - np.arange(12) % 3)
    np.testing.assert_array_equal(dataset.train.true_labels, 2 - (np.arange(12) % 3)[::-1])
    assert dataset.train.example_ids[11] == "id11"
    np.testing.assert_array_equal(dataset.validation.labels, [1, 0])


def test_pythons_integers_in_an_array_of_objects_are_integers(load):
    dataset = load("def load(): return images, labels.astype(object)", num_validation=0)
    np.testing.assert_array_equal(dataset.train.labels, np.arange(12) % 3)


def test_the_file_imports_its_neighbours_whatever_the_working_folder(load, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour_of_test.py").write_text("COUNT = 3\n")
    body = "from neighbour_of_test import COUNT\ndef load(): return images, labels % COUNT"
    assert load(body).num_classes == 3
    sys.modules.pop("neighbour_of_test", None)


def test_features_are_standardised_on_request(load):
    body = "def load(): return dict(features=images[:, :, 0, 0] * 1e4, labels=labels)"
    assert load(body, standardize="feature").train.images.shape[1:] == (3,)


def test_a_function_of_an_installed_module_is_found():
    with pytest.raises(InputError, match="returned tuple; must be a dict"):
        load_dataset(Dataset(source="sys:exc_info"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "has no function 'load'"),
        ("load = 3", "has no function 'load'"),
        ("def load(:", "SyntaxError"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        ("raise SystemExit(0)", r"it calls sys.exit; .*below `if __name__ == \"__main__\":`"),
        ("def load(): raise SystemExit", "it calls sys.exit"),
        ("def load(): return 1 / 0", "failed with ZeroDivisionError: division by zero"),
        ("def load(key): return 1", "failed with TypeError: .* argument: 'key'"),
        ("def load(): return None", "returned NoneType; must be a dict with arrays"),
        ("def load(): return (images, labels, images)", "returned tuple; must be a dict"),
        ("def load(): return {1: images}", "returned dict; must be a dict with arrays"),
        ("def load(): return {}", r"has no array images \(found: nothing\)"),
        ("def load(): return dict(images=images, label=labels)", "unknown arrays label beside"),
        ("def load(): return dict(images=images)", r"has no array labels \(found: images\)"),
        ("def load(): return images * 300, labels", "set config.dataset.scale=65535"),
        ("def load(): return images, labels[:5]", "12 images but 5 labels"),
        ("def load(): return 7, labels", "images have shape"),
        ("def load(): return ['a'] * 12, labels", "must be numbers, in one array"),
        (
            "import pandas\ndef load(): return images, pandas.array(['a', None] * 6, 'string')",
            "number 1 is <NA>; must be all integers or all text",
        ),
        ("def load(): return images, [None] * 12", "labels: number 0 is missing"),
        (
            "def load(): return images, ['a', 3] * 6",
            "number 1 is 3; must be all integers or all text",
        ),
        ("def load(): return [[1.0], [1.0, 2.0]], [0, 1]", "lists in it differ in length"),
    ],
)
def test_what_a_function_does_wrong_is_one_line(load, body, message):
    with pytest.raises(InputError, match=message) as raised:
        load(body)
    assert "\n" not in str(raised.value)
    assert "own.py:load" in str(raised.value)


def test_missing_files_and_modules_are_one_line():
    with pytest.raises(InputError, match=r"FileNotFoundError: no file none\.py"):
        load_dataset(Dataset(source="none.py:load"))
    with pytest.raises(InputError, match="No module named 'no_such_module'"):
        load_dataset(Dataset(source="no_such_module:load"))
