"""TFDS data sets: read without TensorFlow, cached, and clear errors where they are not there."""

import io
import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from memjax.data import tfds_source
from memjax.data.tfds_source import TfdsColumns, find_prepared, load_tfds, tfds_folder
from memjax.errors import InputError

REPOSITORY = pathlib.Path(__file__).parents[2]
PREPARED = pathlib.Path(
    os.environ.get("MEMJAX_TEST_DATA", REPOSITORY.parent / "shared" / "data" / "tfds")
)
needs_mnist = pytest.mark.skipif(
    not (PREPARED / "mnist").is_dir(), reason="no prepared MNIST; set MEMJAX_TEST_DATA"
)
RNG = np.random.default_rng(0)
IMAGES = {
    split: RNG.integers(0, 256, (n, 5, 4, 3), np.uint8)
    for split, n in (("train", 12), ("test", 6), ("validation", 3))
}


def write_builder(root, splits=("train", "test"), name="tiny_pictures", **changes):
    """Writes a small data set as TFDS does, without TensorFlow; returns its arrays as written."""
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["cat", "dog", "fox"]),
        "remark": tfds.features.Text(),
    } | changes.get("features", {})
    label = changes.get("label", lambda position: position % 3)
    damage = changes.get("damage", lambda encoded, position: encoded)
    crop = changes.get("crop", lambda image, position: image)

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            for position, image in enumerate(IMAGES[split]):
                encoded = io.BytesIO()
                Image.fromarray(crop(image, position)).save(encoded, "png")
                stored = damage(encoded.getvalue(), position)
                example = {"image": stored, "label": label(position), "remark": "x"}
                yield position, {k: example.get(k, position % 2) for k in features}

    Tiny.name = name
    builder = Tiny(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return builder


def rows(images):
    return sorted(image.tobytes() for image in images)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    write_builder(root)
    return root


def test_a_prepared_builder_comes_back_as_written(tiny, tmp_path):
    dataset = load_tfds("tiny_pictures", str(tiny), str(tmp_path))
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.images.shape == (12, 5, 4, 3)
    # TFDS shuffles when it writes.
    assert rows(dataset.train.images) == rows(IMAGES["train"])
    assert rows(dataset.validation.images) == rows(IMAGES["test"])
    written = [image.tobytes() for image in IMAGES["train"]]
    positions = [written.index(image.tobytes()) for image in dataset.train.images]
    np.testing.assert_array_equal(dataset.train.labels, np.array(positions) % 3)
    np.testing.assert_array_equal(dataset.train.index, np.arange(12))
    assert (dataset.num_classes, dataset.class_names) == (3, ("cat", "dog", "fox"))


def test_validation_is_preferred_to_test(tmp_path):
    write_builder(tmp_path, splits=("train", "test", "validation"))
    dataset = load_tfds("tiny_pictures", str(tmp_path), str(tmp_path / "cache"))
    assert rows(dataset.validation.images) == rows(IMAGES["validation"])


def test_train_alone_has_no_validation_examples(tmp_path):
    write_builder(tmp_path, splits=("train",))
    dataset = load_tfds("tiny_pictures", str(tmp_path), str(tmp_path / "cache"))
    assert len(dataset.validation) == 0


def test_the_second_start_reads_the_cache(tiny, tmp_path, monkeypatch):
    first = load_tfds("tiny_pictures", str(tiny), str(tmp_path))
    monkeypatch.setattr(tfds_source, "decode_split", None)
    second = load_tfds("tiny_pictures", str(tiny), str(tmp_path))
    np.testing.assert_array_equal(first.train.images, second.train.images)
    np.testing.assert_array_equal(first.validation.labels, second.validation.labels)
    assert second.class_names == first.class_names


def test_other_data_in_the_same_folder_are_decoded_anew(tmp_path):
    cache = str(tmp_path / "cache")
    builder = write_builder(tmp_path / "tfds")
    before = load_tfds("tiny_pictures", str(tmp_path / "tfds"), cache)
    assert before.train.labels.max() == 2
    pathlib.Path(builder.data_path).rename(tmp_path / "old")
    write_builder(tmp_path / "tfds", label=lambda position: position % 2)
    after = load_tfds("tiny_pictures", str(tmp_path / "tfds"), cache)
    assert after.train.labels.max() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": lambda image, position: image[: 5 - position % 2]}, "images of several sizes"),
        ({"label": lambda position: -1}, "no labelled examples"),
        ({"label": lambda position: 1}, "all examples are of one class; at least two are needed"),
        (
            {"damage": lambda encoded, position: encoded[: 60 if position == 5 else None]},
            r"'tiny_pictures': split train, record \d+ \(from 0\): damaged image \(.*truncated",
        ),
        ({"damage": lambda encoded, position: b""}, r"record 0 \(from 0\): damaged image"),
    ],
)
def test_what_is_no_classification_of_one_size_is_refused(tmp_path, changes, message):
    write_builder(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_tfds("tiny_pictures", str(tmp_path), str(tmp_path / "cache"))


def test_a_label_that_is_no_class_is_refused(tmp_path):
    import tensorflow_datasets as tfds

    write_builder(tmp_path, features={"label": tfds.features.Scalar(np.int64)})
    with pytest.raises(InputError, match="must have an image and a class label"):
        load_tfds("tiny_pictures", str(tmp_path), str(tmp_path / "cache"))


def _image(channels, dtype):
    import tensorflow_datasets as tfds

    return {"image": tfds.features.Image(shape=(None, None, channels), dtype=dtype)}


def test_16_bits_keep_their_range_in_either_type(tmp_path):
    def deep(image, position):
        return image[..., 0].astype(np.uint16) * 257

    for name, dtype, white in (("bytes", np.uint8, 255), ("words", np.uint16, 1)):
        write_builder(tmp_path, ("train",), name, crop=deep, features=_image(1, dtype))
        found = load_tfds(name, str(tmp_path), str(tmp_path / "cache")).train.images
        assert found.dtype == (np.uint8 if white == 255 else np.float32)
        expected = np.sort(IMAGES["train"][..., 0].ravel()) / 255
        np.testing.assert_allclose(np.sort(found.ravel()) / white, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "dtype", "message"),
    [
        (
            2,
            np.uint8,
            "image has 2 channels of uint8; must have 1, 3 or 4 of uint8, or 1 of uint16",
        ),
        (3, np.uint16, "image has 3 channels of uint16"),
        (1, np.float32, "image has 1 channels of float32"),
    ],
)
def test_features_that_pillow_cannot_decode_are_told_clearly(channels, dtype, message):
    import tensorflow_datasets as tfds

    features = {**_image(channels, dtype), "label": tfds.features.ClassLabel(num_classes=2)}
    info = types.SimpleNamespace(name="odd", features=features, supervised_keys=None)
    with pytest.raises(InputError, match=message):
        tfds_source.feature_keys(info)


def test_given_and_true_labels_come_from_the_features_that_are_asked_for(tmp_path):
    import tensorflow_datasets as tfds

    names = ["cat", "dog", "fox"]
    write_builder(tmp_path, features={"human": tfds.features.ClassLabel(names=names)})
    folders = str(tmp_path), str(tmp_path / "cache")
    dataset = load_tfds("tiny_pictures", *folders, TfdsColumns("", "human", "label"))
    train = dataset.train
    place = {image.tobytes(): n for n, image in enumerate(IMAGES["train"])}
    positions = np.array([place[image.tobytes()] for image in train.images])
    np.testing.assert_array_equal(train.labels, positions % 2)
    np.testing.assert_array_equal(train.true_labels, positions % 3)
    plain = load_tfds("tiny_pictures", *folders).train  # another entry of the cache
    np.testing.assert_array_equal(plain.true_labels, plain.labels)
    with pytest.raises(
        InputError, match="label_column='remarks': tiny_pictures has human, image, label, remark"
    ):
        load_tfds("tiny_pictures", *folders, TfdsColumns("", "remarks"))
    with pytest.raises(InputError, match="must have an image and a class label"):
        load_tfds("tiny_pictures", *folders, TfdsColumns("", "remark"))


def test_a_damaged_description_or_file_of_records_is_one_line(tmp_path):
    builder = write_builder(tmp_path)
    [file] = pathlib.Path(builder.data_path).glob("*train*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="split train") as raised:
        load_tfds("tiny_pictures", str(tmp_path), str(tmp_path / "cache"))
    assert "\n" not in str(raised.value)
    (pathlib.Path(builder.data_path) / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset_info.json is damaged"):
        load_tfds("tiny_pictures", str(tmp_path), str(tmp_path / "cache"))


def test_no_train_split_and_another_format_are_refused(tiny, tmp_path):
    [folder] = (tiny / "tiny_pictures").iterdir()
    described = json.loads((folder / "dataset_info.json").read_text())
    wrong = tmp_path / "tiny_pictures" / "1.2.0"
    wrong.mkdir(parents=True)
    for change, message in (
        ({"fileFormat": "tfrecord"}, "stored as tfrecord, not array_record"),
        ({"splits": described["splits"][1:]}, "no train split"),
    ):
        (wrong / "dataset_info.json").write_text(json.dumps(described | change))
        with pytest.raises(InputError, match=message):
            load_tfds("tiny_pictures", str(tmp_path), str(tmp_path / "cache"))


def test_the_newest_prepared_version_is_found(tmp_path):
    for version in ("1.9.0", "1.10.0", "incomplete.X_2.0.0"):
        (tmp_path / "toy" / version).mkdir(parents=True)
        (tmp_path / "toy" / version / "dataset_info.json").write_text("{}")
    (tmp_path / "toy" / "3.0.0").mkdir()  # nothing in it
    assert find_prepared("toy", tmp_path) == tmp_path / "toy" / "1.10.0"
    assert find_prepared("toy:1.9.0", tmp_path) == tmp_path / "toy" / "1.9.0"
    assert find_prepared("toy:1.8.0", tmp_path) is None
    assert find_prepared("other", tmp_path) is None
    with pytest.raises(InputError, match=r"NAME\[/CONFIG\]"):
        find_prepared("../toy", tmp_path)


def test_the_folder_comes_from_the_config_then_the_environment(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/from/environment")
    assert tfds_folder().as_posix() == "/from/environment"
    assert tfds_folder("/given").as_posix() == "/given"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert tfds_folder().as_posix().endswith("/tensorflow_datasets")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnst", "did you mean mnist"),
        ("emnist/ballanced", "ballanced"),
        ("mnist:9.9.9", "9.9.9"),
        ("imdb_reviews", "must have an image and a class label"),
    ],
)
def test_names_that_tfds_does_not_know_or_that_are_no_pictures_are_refused(name, message, tmp_path):
    with pytest.raises(InputError, match=message) as raised:
        load_tfds(name, str(tmp_path / "tfds"), str(tmp_path / "cache"))
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_not_prepared_and_no_network_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # refuses every connection
    with pytest.raises(InputError) as raised:
        load_tfds("mnist", str(tmp_path / "tfds"), str(tmp_path / "cache"))
    said = str(raised.value)
    assert "\n" not in said
    assert f"not prepared in {tmp_path / 'tfds'}" in said
    assert "no connection to" in said
    assert f"python -m memjax.data.prepare mnist --data_dir={tmp_path / 'tfds'}" in said
    assert "config.dataset.data_dir" in said
    assert "config.dataset.source=digits, folder or npz" in said
    assert list(tmp_path.iterdir()) == []


@needs_mnist
def test_mnist_starts_again_within_a_second_and_without_tensorflow(tmp_path):
    program = """
import sys, time
from memjax.data.tfds_source import load_tfds
began = time.perf_counter()
dataset = load_tfds("mnist", sys.argv[1], sys.argv[2])
print(time.perf_counter() - began, "tensorflow" in sys.modules, len(dataset.validation),
      (dataset.train.images.mean() / 255).round(4), *map(int, dataset.train.labels[:3]))
"""
    command = [sys.executable, "-c", program, str(PREPARED), str(tmp_path)]
    outputs = []
    for _ in range(2):
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        outputs.append(done.stdout.split())
    (_, *first), (seconds, *second) = outputs
    assert first == second
    assert second[:3] == ["False", "10000", "0.1307"]
    assert float(seconds) < 1
