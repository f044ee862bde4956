"""Own arrays: what is read, and one clear line for everything that is wrong with them."""

import pickle

import numpy as np
import pytest

from memjax.data.checks import Reading
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


@pytest.mark.parametrize(("shape", "becomes"), [((6, 5, 4), (6, 5, 4, 1)), ((6, 7), (6, 7))])
def test_grey_images_get_their_channel_and_features_stay_vectors(tmp_path, shape, becomes):
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
        ({"labels": np.eye(3, dtype=int)[LABELS]}, r"\[6, 3\]; must be .* of one-hot rows"),
        ({"labels": LABELS[:, None, None]}, r"labels are int64 \[6, 1, 1\]"),
        ({"labels": LABELS * 0}, "all examples are of one class; at least two are needed"),
        ({"labels": np.array(["cat"] * 6)}, r"all examples are of one class \(cat\)"),
        ({"labels": np.array(["a", "b", "", "a", "b", "c"])}, "labels: number 2 is missing"),
        ({"labels": LABELS + 1}, "class 0 of 4 has no training example; classes count from 0"),
        ({"true_labels": LABELS[:3]}, "6 images but 3 true_labels"),
        ({"true_labels": LABELS + 1}, "true_labels: 3 is outside the classes 0 to 2"),
        ({"true_labels": np.array(list("abcabc"))}, "true_labels are text, but"),
        (
            {"labels": np.array(list("abcabc")), "true_labels": LABELS},
            "true_labels are integers, but the training labels are text; must be text as well",
        ),
        (
            {
                "labels": np.array(list("abcabc")),
                "validation_images": IMAGES,
                "validation_labels": LABELS,
            },
            "validation_labels are integers, but the training labels are text",
        ),
        ({"true_labels": LABELS / 2}, "true_labels are float64"),
        ({"class_names": np.array(["a", "b"])}, "labels: 2 is outside the classes 0 to 1"),
        ({"class_names": np.array(["a", "b", "b"])}, "class_names must be different"),
        ({"class_names": np.arange(3)}, "class_names must be a list of names"),
        ({"class_names": np.array(list("abc")), "num_classes": 4}, "3 class names but 4 classes"),
        (
            {"class_names": np.array(list("abcd"))},
            r"class 3 of 4 has no training example \(d\)",
        ),
        ({"example_ids": np.array(list("aabcde"))}, "example_ids: 'a' stands there twice"),
        ({"example_ids": np.arange(5)}, "6 images but 5 example_ids"),
        ({"val_images": IMAGES}, "unknown arrays val_images beside images, labels; .* to what"),
        ({"mean": np.zeros(3)}, "unknown arrays mean beside images, labels"),
        ({"x_train": IMAGES}, "unknown arrays x_train"),
        ({"features": np.zeros((6, 2))}, "unknown arrays features"),
        ({"images": IMAGES.astype(np.uint16)}, r"uint16 in \[.*; set config.dataset.scale=255"),
        ({"images": IMAGES.astype(np.int32) * 200}, "set config.dataset.scale=65535"),
        ({"images": IMAGES > 9}, r"images are bool in \[0, 1\].*set config.dataset.scale=1,"),
        ({"images": _with(-1.0)}, r"\(images \+ 1\) / 2"),
        ({"images": _with(-300.0)}, "bring them there first"),
        ({"images": _with(1.01)}, r"range over \[0.5, 1.01\]"),
        ({"images": IMAGES.astype(np.complex64)}, "images are complex64; must be numbers"),
        ({"images": np.zeros((6, 0, 3))}, "there must be an example"),
        ({"images": np.full((6, 4), 7.0)}, "set config.dataset.standardize=feature"),
        (
            {"images": np.zeros((6, 3, 8, 9), np.uint8)},
            "height 3, width 8 and 9 channels.*config.dataset.layout=CHW",
        ),
        ({"labels": LABELS - 1}, "labels: -1 is outside the classes 0 to 1"),
        ({"labels": LABELS * 2}, "class 1 of 5 has no training example"),
        ({"labels": LABELS + 10**9}, "class 0 of 1000000003 has no training example"),
        ({"labels": LABELS + 2**32}, "too large"),
        ({"num_classes": 2}, "labels: 2 is outside the classes 0 to 1"),
        ({"num_classes": 4}, "class 3 of 4 has no training example"),
        ({"num_classes": 2.5}, "num_classes must be one integer"),
        ({"images": _with(np.nan)}, r"NaN or infinite values, in 1 of 6 examples \(.*number 3\)"),
        ({"images": _with(np.inf)}, "NaN or infinite"),
        ({"images": _with(-0.1)}, r"range over \[-0.1, 0.5\]"),
        ({"images": _with(255.0)}, r"range over \[0.5, 255\]"),
        ({"images": IMAGES.astype(int)}, r"images are int64 in \[\d+, \d+\].*scale=255"),
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


@pytest.mark.parametrize(
    ("names", "held", "ignored"),
    [
        ("train_images train_labels", "", "none"),
        ("train_images train_labels val_images val_labels", "val", "none"),
        (
            "train_images train_labels val_images val_labels test_images test_labels",
            "val",
            "test_images, test_labels",
        ),
        ("x_train y_train x_test y_test", "test", "none"),
        ("features labels validation_features validation_labels", "validation", "none"),
    ],
)
def test_known_layouts_are_read_as_what_they_are(tmp_path, names, held, ignored):
    arrays = {}
    for place, name in enumerate(names.split()):
        is_labels = "label" in name or name.startswith("y_")
        images = IMAGES[:, :, 0, 0] / 255 if "features" in name else IMAGES
        # Each split has other labels, so that it shows which one was read.
        arrays[name] = np.roll(LABELS, place)[:, None] if is_labels else images
    np.savez(tmp_path / "own.npz", **arrays)
    dataset = load_npz(str(tmp_path / "own.npz"))
    first, *_ = (value for name, value in arrays.items() if np.shape(value) == (6, 1))
    np.testing.assert_array_equal(dataset.train.labels, first[:, 0])
    if held:
        [name] = [n for n in arrays if held in n and ("label" in n or n.startswith("y_"))]
        np.testing.assert_array_equal(dataset.validation.labels, arrays[name][:, 0])
    else:
        assert len(dataset.validation) == 0
    [note] = dataset.notes
    assert note.endswith(f"; ignored: {ignored}")
    assert all(name in note for name in arrays)


@pytest.mark.parametrize("held", ["val", "test"])
def test_true_labels_and_ids_may_stand_beside_the_arrays_of_keras(tmp_path, held):
    own = {"true_labels": LABELS[::-1], "example_ids": np.array(list("abcdef"))}
    arrays = {"x_train": IMAGES, "y_train": LABELS, f"x_{held}": IMAGES, f"y_{held}": LABELS}
    others = {f"validation_{name}": values[::-1] for name, values in own.items()}
    np.savez(tmp_path / "own.npz", **arrays, **own, **others)
    dataset = load_npz(str(tmp_path / "own.npz"))
    np.testing.assert_array_equal(dataset.train.true_labels, LABELS[::-1])
    assert dataset.train.example_ids.tolist() == list("abcdef")
    np.testing.assert_array_equal(dataset.validation.true_labels, LABELS)
    assert dataset.validation.example_ids.tolist() == list("fedcba")


def test_one_half_of_a_split_is_not_enough(tmp_path):
    np.savez(tmp_path / "own.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES)
    with pytest.raises(InputError, match=r"no array y_test \(found: x_train, y_train, x_test\)"):
        load_npz(str(tmp_path / "own.npz"))
    np.savez(tmp_path / "own.npz", arr_0=IMAGES)
    with pytest.raises(InputError, match=r"no array images \(found: arr_0\); write numpy.savez"):
        load_npz(str(tmp_path / "own.npz"))


def test_true_labels_ids_and_names_are_kept(tmp_path):
    path = save(
        tmp_path,
        labels=np.array(["dog", "cat", "dog", "cat", "dog", "cat"]),
        true_labels=np.array(["dog", "cat", "cat", "cat", "dog", "dog"]),
        example_ids=np.array(list("uvwxyz")),
        validation_images=IMAGES[:2],
        validation_labels=np.array([b"cat", b"dog"]),
    )
    dataset = load_npz(path)
    assert dataset.class_names == ("cat", "dog")
    np.testing.assert_array_equal(dataset.train.labels, [1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(dataset.train.true_labels, [1, 0, 0, 0, 1, 1])
    assert dataset.train.example_ids.tolist() == list("uvwxyz")
    np.testing.assert_array_equal(dataset.validation.labels, [0, 1])
    np.testing.assert_array_equal(dataset.validation.true_labels, [0, 1])
    assert dataset.validation.example_ids.tolist() == ["0", "1"]
    taken = dataset.train.take(np.array([4, 2]))
    assert (taken.true_labels.tolist(), taken.example_ids.tolist()) == ([1, 0], ["y", "w"])


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int64, np.float32, np.float64, np.uint8])
def test_a_scale_of_255_reads_any_type_of_bytes_alike(tmp_path, kind):
    train = load_npz(save(tmp_path, images=IMAGES.astype(kind)), Reading(scale=255)).train
    unit = train.images / np.float32(255) if train.images.dtype == np.uint8 else train.images
    np.testing.assert_allclose(unit, IMAGES / 255, rtol=1e-6)


def test_other_scales_and_what_passes_them(tmp_path):
    deep = IMAGES.astype(np.uint16) * 257
    train = load_npz(save(tmp_path, images=deep), Reading(scale=65535)).train
    assert train.images.dtype == np.float32
    np.testing.assert_allclose(train.images, IMAGES / 255, rtol=1e-6)
    with pytest.raises(InputError, match=r"after config.dataset.scale=255; floats must be"):
        load_npz(save(tmp_path, images=deep), Reading(scale=255))


def test_channels_first_are_put_last_on_request(tmp_path):
    first = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
    train = load_npz(save(tmp_path, images=first), Reading(layout="CHW")).train
    np.testing.assert_array_equal(train.images, IMAGES)
    odd = np.zeros((6, 3, 8, 9), np.uint8)
    odd[0] = 9
    assert load_npz(save(tmp_path, images=odd), Reading(layout="HWC")).train.images.shape[3] == 9


def test_rounding_beyond_1_is_clipped_and_said(tmp_path):
    dataset = load_npz(save(tmp_path, images=_with(1.0000001)))
    assert dataset.train.images.max() == 1
    assert any("1.0000001: clipped" in note for note in dataset.notes)
    with pytest.raises(InputError, match=r"\[0.5, 1.0001\]; floats must be in \[0, 1\] \(by up"):
        load_npz(save(tmp_path, images=_with(1.0001)))


def test_bytes_that_never_pass_1_are_warned_of(tmp_path):
    path = save(tmp_path, images=IMAGES % 2)
    assert any("config.dataset.scale=1" in note for note in load_npz(path).notes)
    train = load_npz(path, Reading(scale=1)).train
    np.testing.assert_array_equal(train.images, (IMAGES % 2).astype(np.float32))


def test_nothing_pickled_is_loaded_even_where_no_array_is_wanted(tmp_path):
    path = save(tmp_path, notes=np.array([{"a": 1}]))
    with pytest.raises(InputError, match="Python objects"):
        load_npz(path)
