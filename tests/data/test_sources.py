"""The dataset section as a whole: digits, own arrays, and the moments for standardisation."""

import dataclasses

import numpy as np
import pytest

from memjax.config import Dataset
from memjax.data.sources import load_dataset, moments
from memjax.errors import InputError


def section(**fields):
    return Dataset(**{"source": "digits"} | fields)


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
    assert len(load_dataset(dataclasses.replace(npz, num_validation=2)).validation) == 2


def test_a_class_that_the_validation_split_lacks_takes_nothing_from_training(tmp_path):
    images, labels = np.zeros((10, 2, 2, 1), np.uint8), np.arange(10) % 3
    images[:, 0] = np.arange(0, 20, 2)[:, None, None]
    held = {"validation_images": images[:1], "validation_labels": labels[:1]}
    np.savez(tmp_path / "own.npz", images=images, labels=labels, **held)
    dataset = load_dataset(section(source="npz", path=str(tmp_path / "own.npz"), classes=(1, 2)))
    assert (len(dataset.train), len(dataset.validation)) == (6, 0)


def test_one_class_is_refused_however_it_comes_about(npz):
    with pytest.raises(InputError, match=r"classes=\(1,\): one class; at least two are needed"):
        load_dataset(dataclasses.replace(npz, classes=(1,)))


def test_classes_of_which_true_labels_leave_one_are_refused(tmp_path):
    labels, images = np.arange(9) % 3, np.zeros((9, 2, 2, 1), np.uint8)
    true_labels = np.where(labels == 0, 2, labels)
    np.savez(tmp_path / "own.npz", images=images, labels=labels, true_labels=true_labels)
    with pytest.raises(InputError, match=r"classes=\(0, 1\): .* only the class '1' has training"):
        load_dataset(section(source="npz", path=str(tmp_path / "own.npz"), classes=(0, 1)))


def test_more_examples_than_there_are_are_refused(npz):
    with pytest.raises(InputError, match=r"dataset\.num_train=11: must be at most 10"):
        load_dataset(dataclasses.replace(npz, num_train=11))
    with pytest.raises(InputError, match=r"dataset\.num_train=1: must be at least 2, an example"):
        load_dataset(dataclasses.replace(npz, num_train=1))
    with pytest.raises(InputError, match=r"dataset\.num_validation=4: must be at most 3"):
        load_dataset(dataclasses.replace(npz, num_validation=4))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("options", [{}, {"num_train": 4}, {"num_validation": 8}])
def test_a_classs_only_example_stays_in_training(tmp_path, seed, options):
    images, labels = np.arange(12, dtype=np.uint8).reshape(12, 1, 1), np.arange(12) % 3
    labels[7] = 3
    np.savez(tmp_path / "own.npz", images=images * 9, labels=labels)
    path = str(tmp_path / "own.npz")
    dataset = load_dataset(section(source="npz", path=path, seed=seed, **options))
    assert set(dataset.train.labels) == {0, 1, 2, 3}
    assert 7 in dataset.train.index


@pytest.fixture
def features(tmp_path):
    values = np.random.default_rng(2).normal(1e6, [1, 100, 1e-3, 0], (40, 4))
    labels = np.arange(40) % 2
    np.savez(tmp_path / "own.npz", features=values, labels=labels)
    return values, section(source="npz", path=str(tmp_path / "own.npz"), standardize="feature")


def test_features_of_any_scale_are_standardised_by_the_training_examples(features):
    values, config = features
    dataset = load_dataset(config)
    train, validation = dataset.train, dataset.validation
    assert (train.images.shape, validation.images.shape) == ((32, 4), (8, 4))
    assert train.images.dtype == validation.images.dtype == np.float32
    np.testing.assert_allclose(train.images[:, :3].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(train.images[:, :3].std(axis=0), 1, rtol=1e-5)
    mean, std = values[train.index].mean(axis=0), values[train.index].std(axis=0)
    expected = (values[validation.index] - mean)[:, :3] / std[:3]
    np.testing.assert_allclose(validation.images[:, :3], expected, rtol=1e-3, atol=1e-5)
    assert (train.images[:, 3] == 0).all()
    assert any("1 of 4 features are constant" in note for note in dataset.notes)
    np.testing.assert_allclose(dataset.feature_moments[0], mean, rtol=1e-6)
    assert [float(moment) for moment in moments(train.images, "feature")] == [0, 1]


@pytest.mark.parametrize("largest", [1e300, 1e39])
def test_features_whose_moments_are_no_float32_are_refused(tmp_path, largest):
    values = np.stack([np.arange(10), np.linspace(-largest / 2, largest, 10)], axis=1)
    np.savez(tmp_path / "own.npz", features=values, labels=np.arange(10) % 2)
    config = section(source="npz", path=str(tmp_path / "own.npz"), standardize="feature")
    with pytest.raises(InputError, match=r"feature 1 reaches 1e\+\d+, .* must be at most 3.4e\+38"):
        load_dataset(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"standardize": "scalar"}, "set config.dataset.standardize=feature"),
        ({"standardize": "none"}, "set config.dataset.standardize=feature"),
        ({"image_size": 8}, "image_size=8: is for images, but these are 4 features"),
    ],
)
def test_what_does_not_go_with_features_is_refused(features, fields, message):
    with pytest.raises(InputError, match=message):
        load_dataset(dataclasses.replace(features[1], **fields))


def test_what_goes_with_features_only_is_refused_of_images_and_channels_of_features(tmp_path):
    with pytest.raises(
        InputError, match=r"is for \[n features\], but these are images \[8, 8, 1\]"
    ):
        load_dataset(section(standardize="feature"))
    np.savez(
        tmp_path / "a.npz", features=np.random.default_rng(0).random((9, 3)), labels=[0, 1, 1] * 3
    )
    path = str(tmp_path / "a.npz")
    assert load_dataset(section(source="npz", path=path)).train.images.shape[1:] == (3,)
    with pytest.raises(InputError, match="features have no channels"):
        load_dataset(section(source="npz", path=path, standardize="channel"))


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
