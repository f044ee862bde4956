"""Selection from a data set: draws, held-out parts, classes, sizes, moments."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from memjax.data.dataset import Dataset, balanced_order, draw, hold_out, make_split, select_classes
from memjax.data.pixels import pixel_moments, resize
from memjax.errors import InputError

label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array)
seeds = st.integers(0, 2**32 - 1)


def split_of(labels):
    """A split whose images tell their position."""
    images = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1) / len(labels)
    return make_split(images, np.asarray(labels))


@given(label_lists, seeds)
def test_every_beginning_of_the_balanced_order_has_the_class_shares(labels, seed):
    order = balanced_order(labels, seed)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(labels)))
    for count in range(len(labels) + 1):
        drawn = np.bincount(labels[order[:count]], minlength=5)
        shares = np.bincount(labels, minlength=5) * count / len(labels)
        assert (abs(drawn - shares) < 5).all()


def test_balanced_order_of_equal_classes_misses_none():
    labels = np.repeat(np.arange(10), 100)
    for seed in range(20):
        counts = np.bincount(labels[balanced_order(labels, seed)[:50]], minlength=10)
        assert counts.min() >= 4
        assert counts.max() <= 6


def test_balanced_order_chooses_uniformly_within_a_class():
    labels = np.repeat(np.arange(2), 20)
    counts = np.zeros(40)
    for seed in range(2000):
        counts[balanced_order(labels, seed)[:10]] += 1
    assert abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


@given(label_lists, seeds, st.data())
def test_a_smaller_draw_is_part_of_a_larger_one(labels, seed, data):
    small = data.draw(st.integers(0, len(labels)))
    large = data.draw(st.integers(small, len(labels)))
    few = draw(split_of(labels), small, seed, "num_train")
    many = draw(split_of(labels), large, seed, "num_train")
    assert len(few) == small
    assert set(few.index) <= set(many.index)
    assert (np.diff(few.index) > 0).all()
    np.testing.assert_array_equal(few.labels, labels[few.index])


@given(label_lists, seeds, st.data())
def test_held_out_and_training_examples_are_the_whole_and_disjoint(labels, seed, data):
    count = data.draw(st.integers(0, len(labels) - len(np.unique(labels))))
    train, validation = hold_out(split_of(labels), count, seed)
    assert len(validation) == count
    whole = np.sort(np.concatenate([train.index, validation.index]))
    np.testing.assert_array_equal(whole, np.arange(len(labels)))
    assert set(train.labels) == set(labels)


@given(label_lists, seeds, st.data())
def test_a_training_draw_has_every_class_and_changes_nothing_else(labels, seed, data):
    count = data.draw(st.integers(len(np.unique(labels)), len(labels)))
    drawn = draw(split_of(labels), count, seed, "num_train", every_class=True)
    assert set(drawn.labels) == set(labels)
    plain = draw(split_of(labels), count, seed, "num_train")
    if set(plain.labels) == set(labels):
        np.testing.assert_array_equal(drawn.index, plain.index)
    if count < len(labels):
        more = draw(split_of(labels), count + 1, seed, "num_train", every_class=True)
        assert set(drawn.index) < set(more.index)


def test_a_fifth_is_held_out_by_default():
    assert len(hold_out(split_of(np.arange(100) % 10), -1, 0)[1]) == 20


def test_holding_out_or_drawing_too_many_is_refused():
    with pytest.raises(InputError, match=r"num_validation=3: must be at most 0.*3 classes"):
        hold_out(split_of([0, 1, 2]), 3, 0)
    with pytest.raises(InputError, match="num_train=4: must be at most 3"):
        draw(split_of([0, 1, 2]), 4, 0, "num_train")


def test_classes_are_relabelled_in_the_given_order():
    split = split_of([0, 1, 2, 3, 2, 1])
    dataset = Dataset("x", 4, ("a", "b", "c", "d"), split, split.take(np.arange(1)))
    selected = select_classes(dataset, (2, 1))
    assert selected.class_names == ("c", "b")
    assert selected.num_classes == 2
    np.testing.assert_array_equal(selected.train.labels, [1, 0, 0, 1])
    np.testing.assert_array_equal(selected.train.index, [1, 2, 4, 5])
    assert selected.train.labels.dtype == np.int32
    assert len(selected.validation) == 0
    with pytest.raises(InputError, match=r"must be in \[0, 3\]"):
        select_classes(dataset, (0, 4))


def test_whole_factors_average_areas():
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 2), np.uint8)
    halved = resize(images, 14)
    assert halved.dtype == np.float32
    by_hand = images[2, 4:6, 10:12, 1].astype(np.float64).mean() / 255
    assert halved[2, 2, 5, 1] == pytest.approx(by_hand, rel=1e-6)


def test_other_factors_are_antialiased_and_keep_the_mean():
    stripes = np.zeros((1, 30, 30, 1), np.float32)
    stripes[:, :, ::2] = 1
    smaller = resize(stripes, 11)
    assert smaller.shape == (1, 11, 11, 1)
    assert abs(smaller[0, :, 1:-1] - 0.5).max() < 0.1
    plane = Image.fromarray(stripes[0, :, :, 0])
    np.testing.assert_allclose(
        smaller[0, :, :, 0], plane.resize((11, 11), Image.Resampling.BILINEAR), atol=1e-6
    )


def test_images_of_the_size_asked_for_stay_as_stored():
    images = np.zeros((1, 4, 4, 1), np.uint8)
    assert resize(images, 4) is images


@pytest.mark.parametrize("per_channel", [False, True])
def test_moments_of_bytes_and_of_floats_are_those_of_numpy(per_channel):
    images = np.random.default_rng(1).integers(0, 200, (50, 6, 5, 3), np.uint8)
    images[..., 1] //= 3
    scaled = images.astype(np.float64) / 255
    axes = (0, 1, 2) if per_channel else None
    for stored in (images, scaled.astype(np.float32)):
        mean, std = pixel_moments(stored, per_channel)
        assert mean.dtype == std.dtype == np.float32
        assert mean.shape == std.shape == ((3,) if per_channel else ())
        np.testing.assert_allclose(mean, scaled.mean(axis=axes), rtol=1e-6)
        np.testing.assert_allclose(std, scaled.std(axis=axes), rtol=1e-6)


def test_moments_of_a_constant_are_exactly_flat():
    assert pixel_moments(np.full((9, 3, 3, 1), 0.3, np.float32), False)[1] == 0


def test_moments_are_made_in_blocks_of_any_size(monkeypatch):
    images = np.random.default_rng(3).integers(0, 256, (11, 5, 4, 2), np.uint8)
    stored = (images, (images / 255).astype(np.float32))
    whole = [pixel_moments(one, True) for one in stored]
    monkeypatch.setattr("memjax.data.pixels._VALUES_PER_BLOCK", 80)
    for one, expected in zip(stored, whole, strict=True):
        np.testing.assert_allclose(pixel_moments(one, True), expected, rtol=1e-7)


def test_moments_of_many_bytes_take_little_memory():
    images = np.random.default_rng(3).integers(0, 256, (300, 200, 200, 1), np.uint8)
    tracemalloc.start()
    pixel_moments(images, False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * images.nbytes  # 8 bytes each would be twice that


def test_selected_classes_keep_examples_whose_truth_is_selected_too():
    split = dataclasses.replace(
        split_of([0, 1, 2, 1]), true_labels=np.array([0, 2, 2, 0], np.int32)
    )
    selected = select_classes(Dataset("x", 3, ("a", "b", "c"), split, split), (1, 2))
    np.testing.assert_array_equal(selected.train.index, [1, 2])
    np.testing.assert_array_equal(selected.train.true_labels, [1, 1])
    assert any("2 examples are left out: their true label" in note for note in selected.notes)
