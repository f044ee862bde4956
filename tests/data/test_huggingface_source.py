"""Data sets of the `datasets` package, and the one line where it is missing."""

import sys
import tempfile

import numpy as np
import pytest

from memjax.config import Dataset
from memjax.data.sources import load_dataset
from memjax.errors import InputError
from tests.data.pictures import encoded, noise


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'memjax\[huggingface\]'"):
        load_dataset(Dataset(source="huggingface", path="x"))


class TestWithThePackage:
    """Skipped where the extra `huggingface` is not installed."""

    @pytest.fixture
    def datasets(self, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        datasets = pytest.importorskip("datasets")
        datasets.disable_progress_bars()
        return datasets

    @pytest.fixture
    def pictures(self, datasets):
        def make(seeds):
            rows = [{"bytes": encoded(noise(seed, 5, 4)), "path": None} for seed in seeds]
            features = datasets.Features(
                {"img": datasets.Image(), "fine": datasets.ClassLabel(names=["a", "b", "c"])}
            )
            labels = [seed % 3 for seed in seeds]
            return datasets.Dataset.from_dict({"img": rows, "fine": labels}, features=features)

        return make

    @pytest.fixture
    def load(self, tmp_path):
        def load(saved, **fields):
            folder = tempfile.mkdtemp(dir=tmp_path)
            saved.save_to_disk(folder)
            fields = {"cache_dir": str(tmp_path / "cache"), "label_column": "fine"} | fields
            return load_dataset(Dataset(source="huggingface", path=folder, **fields))

        return load

    def test_splits_images_and_class_names_are_kept(self, datasets, pictures, load):
        saved = {"train": pictures(range(9)), "test": pictures([9, 10]), "extra": pictures([11])}
        dataset = load(datasets.DatasetDict(saved))
        assert dataset.class_names == ("a", "b", "c")
        expected = np.stack([noise(seed, 5, 4) for seed in range(9)])
        np.testing.assert_array_equal(dataset.train.images[..., 0], expected)
        np.testing.assert_array_equal(dataset.validation.labels, [0, 1])
        assert dataset.notes[0] == "splits that are not read: extra"

    def test_a_single_split_is_cut_in_two(self, pictures, load):
        dataset = load(pictures(range(15)))
        assert (len(dataset.train), len(dataset.validation)) == (12, 3)

    def test_lists_of_numbers_are_features(self, datasets, load):
        values = np.random.default_rng(0).normal(size=(8, 3))
        table = {"embedding": values.tolist(), "fine": ["x", "y"] * 4}
        dataset = load(datasets.Dataset.from_dict(table), standardize="feature", num_validation=0)
        expected = (values - values.mean(axis=0)) / values.std(axis=0)
        np.testing.assert_allclose(dataset.train.images, expected, atol=1e-5)
        assert dataset.class_names == ("x", "y")

    def test_each_columns_classes_are_known_by_name_in_whatever_order(self, datasets, load):
        def numbers(label, true, names):
            columns = {"x": [0.5, 1.5] * 4, "fine": [label] * 4 + [1 - label] * 4}
            features = {"x": datasets.Value("float64"), "fine": datasets.ClassLabel(names=names)}
            if true is not None:
                columns["true_label"] = [true] * 8
                features["true_label"] = datasets.ClassLabel(names=["b", "a"])
            return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

        dataset = load(numbers(0, 0, ["a", "b"]), standardize="feature", num_validation=0)
        assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4
        assert dataset.train.true_labels.tolist() == [1] * 8
        splits = {"train": numbers(0, None, ["a", "b"]), "test": numbers(0, None, ["b", "a"])}
        dataset = load(datasets.DatasetDict(splits), standardize="feature")
        assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4
        assert dataset.validation.labels.tolist() == [1] * 4 + [0] * 4

    def test_a_column_that_validation_lacks_is_one_line(self, datasets, load):
        columns = {"x": [0.5, 1.5] * 4, "fine": [0, 1] * 4}
        whole = datasets.Dataset.from_dict({**columns, "id": list("abcdefgh")})
        saved = {"train": whole, "test": datasets.Dataset.from_dict(columns)}
        with pytest.raises(InputError, match="the validation split has no column 'id', which is"):
            load(datasets.DatasetDict(saved), standardize="feature")

    def test_what_does_not_fit_is_one_line(self, datasets, pictures, load, tmp_path):
        with pytest.raises(InputError, match="no column label, but img, fine; set"):
            load(pictures(range(9)), label_column="")
        with pytest.raises(InputError, match="has no split train, but test"):
            load(datasets.DatasetDict({"test": pictures(range(9))}))
        with pytest.raises(InputError, match="not found"):
            load_dataset(Dataset(source="huggingface", path=str(tmp_path / "none")))
        with pytest.raises(InputError, match=r"config.dataset.name='no/such:x'.*Hub"):
            load_dataset(Dataset(source="huggingface", name="no/such:x"))
