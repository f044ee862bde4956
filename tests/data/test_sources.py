"""The dataset section as a whole: digits, own arrays, and the moments for standardisation."""

import types

import numpy as np
import pytest

from memjax.data.sources import load_dataset, moments
from memjax.errors import InputError


def section(**fields):
    defaults = {
        "source": "digits",
        "name": "digits",
        "path": "",
        "data_dir": "",
        "num_train": 0,
        "num_validation": -1,
        "classes": (),
        "image_size": 0,
        "standardize": "scalar",
        "seed": 0,
        "cache_dir": "",
    }
    return types.SimpleNamespace(**defaults | fields)


def test_digits_are_sixteenths_with_a_balanced_fifth_held_out():
    dataset = load_dataset(section())
    train, validation = dataset.train, dataset.validation
    assert (len(train), len(validation), dataset.num_classes) == (1438, 359, 10)
    assert train.images.shape[1:] == (8, 8, 1)
    assert train.images.dtype == np.float32
    np.testing.assert_array_equal(np.unique(train.images), np.arange(17) / 16)
    counts = np.bincount(validation.labels)
    assert counts.min() >= 34
    assert counts.max() <= 38
    assert not set(train.index) & set(validation.index)


def test_the_seed_decides_what_is_held_out():
    one, again, other = (load_dataset(section(seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.validation.index, again.validation.index)
    assert set(one.validation.index) != set(other.validation.index)


def test_fewer_training_examples_do_not_change_what_is_held_out():
    few, many = load_dataset(section(num_train=100)), load_dataset(section())
    assert len(few.train) == 100
    np.testing.assert_array_equal(few.validation.index, many.validation.index)
    assert set(few.train.index) <= set(many.train.index)


def test_no_validation_examples_when_none_are_asked_for():
    dataset = load_dataset(section(num_validation=0))
    assert (len(dataset.train), len(dataset.validation)) == (1797, 0)


def test_classes_size_and_numbers_together():
    dataset = load_dataset(section(classes=(7, 1), num_train=50, num_validation=20, image_size=4))
    assert dataset.train.images.shape == (50, 4, 4, 1)
    assert dataset.validation.images.shape == (20, 4, 4, 1)
    assert dataset.class_names == ("7", "1")
    np.testing.assert_array_equal(np.bincount(dataset.train.labels), [25, 25])


@pytest.fixture
def npz(tmp_path):
    images = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
    labels = np.arange(10) % 2
    np.savez(
        tmp_path / "own.npz",
        images=images,
        labels=labels,
        validation_images=images[:6:2],
        validation_labels=labels[:6:2],
    )
    return section(source="npz", path=str(tmp_path / "own.npz"))


def test_a_validation_split_of_the_source_is_used(npz):
    dataset = load_dataset(npz)
    assert (len(dataset.train), len(dataset.validation)) == (10, 3)
    npz.num_validation = 2
    assert len(load_dataset(npz).validation) == 2


def test_a_class_that_the_validation_split_lacks_takes_nothing_from_training(npz):
    npz.classes = (1,)
    dataset = load_dataset(npz)
    assert (len(dataset.train), len(dataset.validation)) == (5, 0)


def test_more_examples_than_there_are_are_refused(npz):
    npz.num_train = 11
    with pytest.raises(InputError, match=r"dataset\.num_train=11: must be at most 10"):
        load_dataset(npz)
    npz.num_train, npz.num_validation = 0, 4
    with pytest.raises(InputError, match=r"dataset\.num_validation=4: must be at most 3"):
        load_dataset(npz)


def test_moments_by_kind():
    images = np.random.default_rng(0).random((20, 3, 3, 2), np.float32)
    mean, std = moments(images, "none")
    assert (float(mean), float(std)) == (0, 1)
    for kind, shape in (("none", ()), ("scalar", ()), ("channel", (2,))):
        for moment in moments(images, kind):
            assert moment.dtype == np.float32
            assert moment.shape == shape
    mean, std = moments(images, "channel")
    standardised = (images - mean) / std
    np.testing.assert_allclose(standardised.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(standardised.std(axis=(0, 1, 2)), 1, rtol=1e-6)


def test_pixels_that_are_all_alike_cannot_be_standardised():
    images = np.random.default_rng(0).random((20, 3, 3, 2), np.float32)
    images[..., 1] = 0.25
    moments(images, "scalar")
    with pytest.raises(InputError, match="standardize='channel'"):
        moments(images, "channel")
