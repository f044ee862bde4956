"""Own arrays: what is read, and one clear line for everything that is wrong with them."""

import pickle

import numpy as np
import pytest

from memjax.data.npz_source import load_npz
from memjax.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 3, 2), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def save(tmp_path, **arrays):
    path = tmp_path / "own.npz"
    np.savez(path, **{"images": IMAGES, "labels": LABELS} | arrays)
    return str(path)


def test_arrays_come_back_as_stored(tmp_path):
    dataset = load_npz(save(tmp_path))
    np.testing.assert_array_equal(dataset.train.images, IMAGES)
    assert dataset.train.images.dtype == np.uint8
    np.testing.assert_array_equal(dataset.train.labels, LABELS)
    assert dataset.train.labels.dtype == np.int32
    np.testing.assert_array_equal(dataset.train.index, np.arange(6))
    assert (dataset.name, dataset.num_classes) == ("own", 3)
    assert dataset.class_names == ("0", "1", "2")
    assert len(dataset.validation) == 0


def test_validation_arrays_are_the_validation_split(tmp_path):
    path = save(tmp_path, validation_images=IMAGES[:2], validation_labels=LABELS[:2])
    validation = load_npz(path).validation
    np.testing.assert_array_equal(validation.images, IMAGES[:2])
    np.testing.assert_array_equal(validation.labels, LABELS[:2])


@pytest.mark.parametrize(("shape", "becomes"), [((6, 5, 4), (6, 5, 4, 1)), ((6, 7), (6, 7, 1, 1))])
def test_grey_images_and_feature_vectors_get_their_missing_axes(tmp_path, shape, becomes):
    images = np.random.default_rng(1).random(shape)
    train = load_npz(save(tmp_path, images=images)).train
    assert train.images.shape == becomes
    assert train.images.dtype == np.float32
    np.testing.assert_allclose(train.images.reshape(shape), images, rtol=1e-6)


def _with(value):
    images = np.full((6, 4, 3, 2), 0.5)
    images[3, 2, 1, 0] = value
    return images


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": LABELS[:-1]}, "6 images but 5 labels"),
        ({"labels": LABELS.astype(float)}, "labels are float64"),
        ({"labels": LABELS > 0}, "labels are bool"),
        ({"labels": LABELS[:, None]}, r"labels are int64 \[6, 1\]"),
        ({"labels": LABELS - 1}, "labels: -1 is outside the classes 0 to 1"),
        ({"labels": LABELS * 2}, "class 1 of 5 has no training example"),
        ({"labels": LABELS + 10**9}, "class 0 of 1000000003 has no training example"),
        ({"labels": LABELS + 2**32}, "too large"),
        ({"num_classes": 2}, "labels: 2 is outside the classes 0 to 1"),
        ({"num_classes": 4}, "class 3 of 4 has no training example"),
        ({"num_classes": 2.5}, "num_classes must be one integer"),
        ({"images": _with(np.nan)}, "NaN or infinite"),
        ({"images": _with(np.inf)}, "NaN or infinite"),
        ({"images": _with(-0.1)}, r"range over \[-0.1, 0.5\]"),
        ({"images": _with(255.0)}, r"range over \[0.5, 255\]"),
        ({"images": IMAGES.astype(int)}, "images are int64"),
        ({"images": IMAGES[..., None]}, "shape"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, "there must be an example"),
        ({"images": np.array([{}] * 6)}, "Python objects"),
        ({"validation_images": IMAGES}, "no array validation_labels"),
        (
            {"validation_images": IMAGES, "validation_labels": LABELS + 1},
            "validation_labels: 3 is outside",
        ),
        (
            {"validation_images": IMAGES[:, :2], "validation_labels": LABELS},
            r"validation_images are \[2, 3, 2\], but images are \[4, 3, 2\]",
        ),
    ],
)
def test_unsound_arrays_are_refused_with_one_line(tmp_path, arrays, message):
    path = save(tmp_path, **arrays)
    with pytest.raises(InputError, match=message) as raised:
        load_npz(path)
    assert "\n" not in str(raised.value)
    assert "own.npz" in str(raised.value)


def test_labels_without_images_are_refused(tmp_path):
    np.savez(tmp_path / "own.npz", labels=LABELS)
    with pytest.raises(InputError, match=r"no array images \(found: labels\)"):
        load_npz(str(tmp_path / "own.npz"))


def test_a_missing_file_a_folder_and_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        load_npz(str(tmp_path / "none.npz"))
    with pytest.raises(InputError, match="directory"):
        load_npz(str(tmp_path))
    (tmp_path / "pickled.npz").write_bytes(pickle.dumps({"images": IMAGES}))
    with pytest.raises(InputError, match=r"not an \.npz file"):
        load_npz(str(tmp_path / "pickled.npz"))
    np.save(tmp_path / "single.npy", IMAGES)
    with pytest.raises(InputError, match=r"not an \.npz file"):
        load_npz(str(tmp_path / "single.npy"))


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "own.npz"
    np.savez_compressed(path, images=IMAGES, labels=LABELS)
    whole = bytearray(path.read_bytes())
    whole[120:160] = bytes(40)
    path.write_bytes(whole)
    with pytest.raises(InputError, match="damaged"):
        load_npz(str(path))
