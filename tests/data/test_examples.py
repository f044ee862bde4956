"""From the corruption section to training examples and their table."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from memjax.corruption_kinds import CORRUPTION_KINDS, parse_kinds
from memjax.data import corruption
from memjax.data.dataset import Dataset, make_split
from memjax.data.examples import (
    EXAMPLE_COLUMNS,
    corrupt_examples,
    examples_table,
    held_out_noise,
)
from memjax.errors import InputError

N, CLASSES = 40, 4
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 2), np.uint8)
LABELS = np.arange(N) % CLASSES
FRACTIONAL = [kind for kind in CORRUPTION_KINDS if kind not in ("none", "unique_labels")]


def dataset_of(images=IMAGES):
    whole = make_split(images, LABELS)
    names = ("a", "b", "c", "d")
    train, validation = whole.take(np.arange(5, N)), whole.take(np.arange(5))
    return Dataset("tiny", CLASSES, names, train, validation)


def section(kind, fraction=0.4, seed=3, transition=(), noise_moments="all"):
    fields = {"kind": kind, "fraction": fraction, "seed": seed, "transition": transition}
    return types.SimpleNamespace(**fields, noise_moments=noise_moments)


def corrupt(kind, fraction=0.4, **fields):
    if kind == "label_transition":
        rows = np.roll(np.eye(CLASSES), 1, axis=1)
        fields["transition"] = tuple(map(tuple, rows.tolist()))
    return corrupt_examples(section(kind, fraction, **fields), dataset_of())


def test_none_changes_nothing():
    examples, train = corrupt("none"), dataset_of().train
    for name in ("images", "labels", "index"):
        np.testing.assert_array_equal(getattr(examples, name), getattr(train, name))
    assert examples.images.dtype == np.uint8
    assert not examples.is_corrupted.any()
    assert examples.num_classes == CLASSES


@pytest.mark.parametrize("kind", ["random_inputs", "shuffled_pixels", "shuffled_pixels_each"])
def test_held_out_noise_is_of_the_kind_trained_on_and_of_other_images(kind):
    noise = held_out_noise(section(kind), dataset_of())
    validation, trained = dataset_of().validation, corrupt(kind, 1.0)
    assert noise.shape == validation.images.shape
    assert noise.dtype == trained.images.dtype
    if kind == "random_inputs":
        assert abs(noise.mean() - trained.images.mean()) < 0.1
        assert not np.isin(noise, trained.images).any()
        return
    pixels = np.sort(noise.reshape(5, 16, 2), axis=1)
    np.testing.assert_array_equal(pixels, np.sort(validation.images.reshape(5, 16, 2), axis=1))
    places = np.arange(32, dtype=np.uint8).reshape(16, 2)
    same = dataset_of(np.broadcast_to(places.reshape(4, 4, 2), IMAGES.shape))
    held_out = held_out_noise(section(kind), same)
    [first, *_] = corrupt_examples(section(kind, 1.0), same).images
    is_one_permutation = (held_out == first).all()
    assert is_one_permutation == (kind == "shuffled_pixels")


@pytest.mark.parametrize(("of", "axes"), [("channel", (0, 1, 2)), ("pixel", 0)])
def test_noise_has_the_moments_of_each_channel_or_pixel(of, axes):
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.01, 0.2, (4, 4, 2))
    images = (0.5 + scale * rng.normal(size=(2000, 4, 4, 2))).astype(np.float32)
    images[..., 1] /= 2
    whole = make_split(images, np.arange(2000) % CLASSES)
    data = Dataset("tiny", CLASSES, ("a", "b", "c", "d"), whole, whole.take(np.arange(1000)))
    for noise in (
        corrupt_examples(section("random_inputs", 1.0, noise_moments=of), data).images,
        held_out_noise(section("random_inputs", noise_moments=of), data),
    ):
        np.testing.assert_allclose(noise.mean(axes), images.mean(axes), atol=0.02)
        np.testing.assert_allclose(noise.std(axes), images.std(axes), rtol=0.1)


def test_there_is_no_noise_to_hold_out_where_only_labels_are_noise():
    with pytest.raises(InputError, match=r"split noise: .*random_labels"):
        held_out_noise(section("random_labels"), dataset_of())


@pytest.mark.parametrize("kind", FRACTIONAL)
def test_every_kind_corrupts_the_fraction_and_keeps_the_truth(kind):
    examples, train = corrupt(kind), dataset_of().train
    count = round(0.4 * len(train))
    if kind == "removed":
        assert len(examples.labels) == len(train) - count
        assert not examples.is_corrupted.any()
    else:
        assert examples.is_corrupted.sum() == count
        np.testing.assert_array_equal(examples.index, train.index)
    np.testing.assert_array_equal(examples.true_labels, LABELS[examples.index])
    assert examples.labels.dtype == examples.true_labels.dtype == np.int32
    assert examples.index.dtype == np.int64
    assert examples.is_corrupted.dtype == bool
    clean = ~examples.is_corrupted
    np.testing.assert_array_equal(examples.labels[clean], examples.true_labels[clean])
    stored = IMAGES[examples.index]
    if kind == "random_inputs":
        stored = stored / np.float32(255)
    assert examples.images.dtype == stored.dtype
    np.testing.assert_array_equal(examples.images[clean], stored[clean])


def test_random_inputs_are_those_of_the_pure_function():
    examples, images = corrupt("random_inputs"), dataset_of().train.images / np.float32(255)
    expected, is_corrupted = corruption.randomize_inputs(jax.random.key(3), images, 0.4)
    np.testing.assert_allclose(examples.images, expected, atol=1e-6)
    np.testing.assert_array_equal(examples.is_corrupted, is_corrupted)


def test_random_inputs_leave_the_loaded_images_alone():
    images = (IMAGES / 255).astype(np.float32)
    dataset = dataset_of(images)
    corrupt_examples(section("random_inputs", 1.0), dataset)
    np.testing.assert_array_equal(dataset.train.images, images[5:])


def test_wrong_labels_are_all_wrong_and_transitions_follow_their_row():
    wrong = corrupt("wrong_labels")
    assert (wrong.labels != wrong.true_labels)[wrong.is_corrupted].all()
    moved = corrupt("label_transition")
    expected = np.where(moved.is_corrupted, (moved.true_labels + 1) % CLASSES, moved.true_labels)
    np.testing.assert_array_equal(moved.labels, expected)


def test_removed_are_the_examples_that_another_kind_corrupts():
    kept, noisy = corrupt("removed"), corrupt("random_labels")
    np.testing.assert_array_equal(kept.index, noisy.index[~noisy.is_corrupted])


def test_unique_labels_are_one_class_each_whatever_the_fraction():
    examples = corrupt("random_inputs+unique_labels")
    np.testing.assert_array_equal(examples.labels, np.arange(35))
    assert examples.num_classes == 35
    assert examples.is_corrupted.sum() == 14
    left = corrupt("removed+unique_labels")
    np.testing.assert_array_equal(left.labels, np.arange(21))


def test_joined_kinds_corrupt_the_same_examples():
    both = corrupt("shuffled_pixels+wrong_labels")
    np.testing.assert_array_equal(both.is_corrupted, both.labels != both.true_labels)
    changed = (both.images != IMAGES[both.index]).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(both.is_corrupted, changed)


def test_the_seed_decides():
    one, again, other = (corrupt("random_labels", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.labels, again.labels)
    assert (one.is_corrupted != other.is_corrupted).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "random_label"}, "did you mean random_labels"),
        ({"kind": "random_labels+wrong_labels"}, "at most one kind may change the labels"),
        ({"kind": "random_inputs+shuffled_pixels"}, "at most one kind may change the inputs"),
        ({"kind": "none+random_labels"}, "none goes with nothing else"),
        ({"kind": "removed+random_labels"}, "removed only with unique_labels"),
        ({"kind": "removed", "fraction": 1.0}, "leaves no example"),
        ({"kind": "label_transition"}, "needs a row for each class"),
        ({"kind": "label_transition", "transition": ((1.0,),)}, "must be"),
        ({"kind": "random_labels", "transition": ((1.0,),)}, "goes with label_transition"),
        ({"kind": "random_labels", "fraction": 1.5}, r"must be in \[0, 1\]"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        corrupt_examples(section(**fields), dataset_of())


def test_every_documented_kind_is_known():
    for kind, description in CORRUPTION_KINDS.items():
        assert parse_kinds(kind) == (kind,)
        assert "\n" not in description


def test_the_table_has_a_row_for_each_example_of_both_splits():
    examples, dataset = corrupt("random_labels"), dataset_of()
    table = examples_table(dataset, examples)
    assert list(table.columns) == list(EXAMPLE_COLUMNS)
    columns = {
        "index": "int64",
        "label": "int32",
        "true_label": "int32",
        "is_corrupted": "bool",
        "is_mislabeled": "bool",
    }
    assert {name: str(table[name].dtype) for name in columns} == columns
    train, validation = table[table.split == "train"], table[table.split == "validation"]
    np.testing.assert_array_equal(train.label, examples.labels)
    np.testing.assert_array_equal(train.is_corrupted, examples.is_corrupted)
    np.testing.assert_array_equal(train["index"], examples.index)
    np.testing.assert_array_equal(validation["index"], np.arange(5))
    np.testing.assert_array_equal(validation.label, validation.true_label)
    assert not validation.is_corrupted.any()
    assert train.label_name.tolist() == ["abcd"[label] for label in examples.labels]
    assert train.true_label_name.tolist() == ["abcd"[label] for label in examples.true_labels]
    np.testing.assert_array_equal(train.is_mislabeled, train.label != train.true_label)
    assert train.example_id.tolist() == [str(index) for index in examples.index]
    assert list(table.index) == list(range(N))


def test_the_table_without_validation_examples_has_the_same_types():
    dataset = dataset_of()
    examples = corrupt_examples(section("random_labels"), dataset)
    alone = dataclasses.replace(dataset, validation=dataset.validation.take(np.arange(0)))
    expected, table = examples_table(dataset, examples), examples_table(alone, examples)
    assert len(table) == 35
    assert table.dtypes.equals(expected.dtypes)


def noisy_dataset():
    """Human labels, a third of them wrong, and the truth beside them."""
    dataset = dataset_of()
    given = [
        np.where(np.arange(len(s)) % 3 == 0, (s.labels + 1) % CLASSES, s.labels).astype(np.int32)
        for s in (dataset.train, dataset.validation)
    ]
    train, validation = (
        dataclasses.replace(split, labels=labels, true_labels=split.labels)
        for split, labels in zip((dataset.train, dataset.validation), given, strict=True)
    )
    return dataclasses.replace(dataset, train=train, validation=validation)


def test_labels_that_the_source_knows_to_be_wrong_are_corrupted_without_any_corruption():
    dataset = noisy_dataset()
    examples = corrupt_examples(section("none"), dataset)
    wrong = np.arange(35) % 3 == 0
    np.testing.assert_array_equal(examples.is_corrupted, wrong)
    np.testing.assert_array_equal(examples.is_mislabeled, wrong)
    assert not examples.is_chosen.any()
    table = examples_table(dataset, examples)
    assert table.is_mislabeled.sum() == 12 + 2
    assert (table.is_mislabeled == (table.label != table.true_label)).all()


@pytest.mark.parametrize("kind", FRACTIONAL)
def test_artificial_noise_comes_on_top_of_human_noise(kind):
    rows = {"transition": tuple(map(tuple, np.roll(np.eye(CLASSES), 1, axis=1).tolist()))}
    fields = rows if kind == "label_transition" else {}
    dataset = noisy_dataset()
    examples = corrupt_examples(section(kind, 0.4, **fields), dataset)
    chosen = corrupt_examples(section(kind, 0.4, **fields), dataset_of()).is_corrupted
    np.testing.assert_array_equal(examples.is_chosen, chosen)
    np.testing.assert_array_equal(examples.is_mislabeled, examples.labels != examples.true_labels)
    np.testing.assert_array_equal(examples.is_corrupted, chosen | examples.is_mislabeled)
    if kind in ("wrong_labels", "label_transition"):  # of the true class, not of the given one
        assert examples.is_mislabeled[chosen].all()
        shift = (examples.labels - examples.true_labels)[chosen] % CLASSES
        assert (shift == 1).all() or kind == "wrong_labels"
    if kind == "permuted_labels":
        np.testing.assert_array_equal(
            np.bincount(examples.labels), np.bincount(dataset.train.labels)
        )


def test_unique_labels_know_no_wrong_label():
    examples = corrupt_examples(section("random_inputs+unique_labels"), noisy_dataset())
    assert not examples.is_mislabeled.any()
    np.testing.assert_array_equal(examples.is_corrupted, examples.is_chosen)


@pytest.mark.parametrize("kind", ["random_inputs", "shuffled_pixels", "shuffled_pixels_each"])
def test_features_are_corrupted_as_images_are(kind):
    features = np.random.default_rng(4).normal(size=(N, 6)).astype(np.float32)
    examples = corrupt_examples(section(kind), dataset_of(features))
    stored = features[examples.index]
    assert examples.images.shape == stored.shape
    changed = (examples.images != stored).any(axis=1)
    np.testing.assert_array_equal(changed, examples.is_corrupted)
    if kind != "random_inputs":
        np.testing.assert_array_equal(np.sort(examples.images, axis=1), np.sort(stored, axis=1))
