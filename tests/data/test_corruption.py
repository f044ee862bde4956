"""Corruption: nested, exact in number, distributed as stated, the same under jit and vmap."""

import functools

import jax
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, strategies as st

from memjax.data import corruption
from memjax.errors import InputError

N, CLASSES = 60, 5
IMAGES = np.random.default_rng(0).random((N, 4, 3, 2), np.float32)
LABELS = np.random.default_rng(1).integers(0, CLASSES, N).astype(np.int32)
TRANSITION = np.random.default_rng(2).dirichlet(np.ones(CLASSES), CLASSES)
FRACTIONS = (0.0, 0.35, 0.9)

# Each takes (key, fraction) and returns (values, is_corrupted).
KINDS = {
    "randomize_inputs": lambda key, f: corruption.randomize_inputs(key, IMAGES, f),
    "randomize_labels": lambda key, f: corruption.randomize_labels(key, LABELS, f, CLASSES),
    "wrong_labels": lambda key, f: corruption.randomize_labels(key, LABELS, f, CLASSES, True),
    "transition_labels": lambda key, f: corruption.randomize_labels(
        key, LABELS, f, CLASSES, transition=TRANSITION
    ),
    "permute_labels": lambda key, f: corruption.permute_labels(key, LABELS, f),
    "shuffle_pixels": lambda key, f: corruption.shuffle_pixels(key, IMAGES, f),
    "shuffle_pixels_each": lambda key, f: corruption.shuffle_pixels(key, IMAGES, f, True),
}
ORIGINAL = {kind: LABELS if "labels" in kind else IMAGES for kind in KINDS}
JITTED = {kind: jax.jit(function, static_argnums=1) for kind, function in KINDS.items()}
REMOVE = jax.jit(corruption.remove, static_argnums=(1, 2))
keys = st.integers(0, 2**32 - 1).map(jax.random.key)


@pytest.mark.parametrize("kind", KINDS)
@given(key=keys)
def test_exactly_the_fraction_is_corrupted_and_the_rest_untouched(kind, key):
    for fraction in FRACTIONS:
        values, is_corrupted = map(np.asarray, JITTED[kind](key, fraction))
        assert values.dtype == ORIGINAL[kind].dtype
        assert is_corrupted.dtype == bool
        assert is_corrupted.sum() == round(fraction * N)
        np.testing.assert_array_equal(values[~is_corrupted], ORIGINAL[kind][~is_corrupted])


@pytest.mark.parametrize("kind", KINDS)
@given(key=keys)
def test_larger_fraction_corrupts_a_superset_and_keeps_its_values(kind, key):
    few_values, few = map(np.asarray, JITTED[kind](key, 0.35))
    many_values, many = map(np.asarray, JITTED[kind](key, 0.9))
    assert (many | ~few).all()
    changed = few_values[few] != many_values[few]
    num_changed = changed.reshape(len(changed), -1).any(axis=1).sum()
    # A cycle that takes in newcomers is cut in one place.
    assert num_changed <= (1 if kind == "permute_labels" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_fraction_zero_is_the_identity(kind):
    values, is_corrupted = JITTED[kind](jax.random.key(3), 0.0)
    np.testing.assert_array_equal(values, ORIGINAL[kind])
    assert not is_corrupted.any()


@pytest.mark.parametrize(
    "kind", ["randomize_inputs", "transition_labels", "permute_labels", "shuffle_pixels_each"]
)
def test_jit_and_vmap_over_keys_equal_the_plain_call(kind):
    one, other = jax.random.key(4), jax.random.key(5)
    both = jax.numpy.stack([one, other])
    mapped = jax.jit(jax.vmap(functools.partial(KINDS[kind], f=0.35)))(both)
    for plain, jitted, jitted_other, member in zip(
        KINDS[kind](one, 0.35),
        JITTED[kind](one, 0.35),
        JITTED[kind](other, 0.35),
        mapped,
        strict=True,
    ):
        # The compiler may round mean + std * noise once where the plain call does so twice.
        tolerance = 1e-6 if plain.dtype == np.float32 else 0
        np.testing.assert_allclose(plain, jitted, rtol=0, atol=tolerance)
        np.testing.assert_allclose(member, [jitted, jitted_other], rtol=0, atol=tolerance)


def test_choice_of_examples_is_uniform():
    keys = jax.random.split(jax.random.key(5), 4000)
    masks = jax.jit(jax.vmap(lambda key: corruption.permute_labels(key, LABELS, 0.3)[1]))(keys)
    # Each count is binomial; 4 standard deviations of 60 counts are passed by chance once in 250.
    deviations = (np.asarray(masks.sum(axis=0)) - 1200) / np.sqrt(4000 * 0.3 * 0.7)
    assert abs(deviations).max() < 4


def test_noise_is_gaussian_with_the_moments_of_the_data():
    images = np.random.default_rng(3).beta(0.3, 1.2, (500, 8, 8, 1)).astype(np.float32)
    noisy, _ = corruption.randomize_inputs(jax.random.key(6), images, 1.0)
    assert noisy.dtype == np.float32
    standard_error = images.std() / np.sqrt(noisy.size)
    assert abs(noisy.mean() - images.mean()) < 4 * standard_error
    assert abs(noisy.std() / images.std() - 1) < 4 / np.sqrt(2 * noisy.size)
    normalised = (np.asarray(noisy).ravel() - images.mean()) / images.std()
    assert scipy.stats.kstest(normalised, "norm").pvalue > 0.01
    assert noisy.min() < 0  # not clipped
    flat = np.asarray(noisy).reshape(500, -1)
    between_pixels = np.corrcoef(flat.T)[np.triu_indices(64, 1)]
    assert abs(between_pixels).max() < 5 / np.sqrt(500)


def test_noise_follows_given_moments_per_pixel():
    mean = np.arange(24.0, dtype=np.float32).reshape(4, 3, 2)
    std = np.zeros(2, np.float32)
    noisy, _ = corruption.randomize_inputs(jax.random.key(7), IMAGES, 1.0, mean, std)
    np.testing.assert_array_equal(noisy, np.broadcast_to(mean, noisy.shape))


def test_one_example_of_the_noise_can_be_drawn_alone():
    key = jax.random.key(8)
    noisy, is_corrupted = corruption.randomize_inputs(key, IMAGES, 0.5, 0.2, 0.3)
    for index in np.flatnonzero(is_corrupted)[:3]:
        alone = corruption.gaussian_image(key, index, IMAGES.shape[1:], 0.2, 0.3)
        np.testing.assert_array_equal(alone, noisy[index])


def test_random_labels_are_uniform_whatever_the_true_one():
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), 2000)
    drawn, _ = corruption.randomize_labels(jax.random.key(9), labels, 1.0, CLASSES)
    table = np.zeros((CLASSES, CLASSES))
    np.add.at(table, (labels, np.asarray(drawn)), 1)
    assert scipy.stats.chisquare(table.ravel()).pvalue > 0.01


def test_exclude_true_is_uniform_over_the_other_classes():
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), 2000)
    drawn, _ = corruption.randomize_labels(
        jax.random.key(10), labels, 1.0, CLASSES, exclude_true=True
    )
    table = np.zeros((CLASSES, CLASSES))
    np.add.at(table, (labels, np.asarray(drawn)), 1)
    assert (np.diag(table) == 0).all()
    assert scipy.stats.chisquare(table[~np.eye(CLASSES, dtype=bool)]).pvalue > 0.01


def test_transition_rows_are_followed():
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), 2000)
    transition = TRANSITION.copy()
    transition[0] = [0, 0, 1, 0, 0]
    transition[1] = [0.5, 0, 0, 0, 0.5]
    drawn, _ = corruption.randomize_labels(
        jax.random.key(11), labels, 1.0, CLASSES, transition=transition
    )
    table = np.zeros((CLASSES, CLASSES))
    np.add.at(table, (labels, np.asarray(drawn)), 1)
    possible = transition > 0
    assert (table[~possible] == 0).all()
    for row in range(1, CLASSES):
        expected = 2000 * transition[row][possible[row]]
        assert scipy.stats.chisquare(table[row][possible[row]], expected).pvalue > 0.01


@given(keys)
def test_permuted_labels_keep_the_class_counts(key):
    permuted, _ = JITTED["permute_labels"](key, 0.35)
    np.testing.assert_array_equal(np.bincount(permuted), np.bincount(LABELS))


def test_permuted_labels_say_nothing_of_the_true_ones():
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), 2000)
    permuted, _ = corruption.permute_labels(jax.random.key(12), labels, 1.0)
    table = np.zeros((CLASSES, CLASSES))
    np.add.at(table, (labels, np.asarray(permuted)), 1)
    assert scipy.stats.chi2_contingency(table).pvalue > 0.01


@pytest.mark.parametrize("per_example", [False, True])
def test_pixels_are_permuted_with_their_channels_together(per_example):
    images = np.arange(N * 24, dtype=np.int32).reshape(N, 4, 3, 2)
    shuffled, _ = corruption.shuffle_pixels(jax.random.key(13), images, 1.0, per_example)
    pixels = np.asarray(shuffled).reshape(N, 12, 2)
    np.testing.assert_array_equal(np.sort(pixels, axis=1), images.reshape(N, 12, 2))
    np.testing.assert_array_equal(pixels[..., 0] + 1, pixels[..., 1])
    orders = np.unique((pixels[..., 0] - 24 * np.arange(N)[:, None]) // 2, axis=0)
    assert len(orders) == (N if per_example else 1)
    assert (orders != np.arange(12)).any()


def test_shuffles_keep_uint8():
    images = (IMAGES * 255).astype(np.uint8)
    shuffled, _ = corruption.shuffle_pixels(jax.random.key(14), images, 0.5)
    assert shuffled.dtype == np.uint8


def test_unique_labels_give_each_example_a_class():
    unique = corruption.unique_labels(LABELS)
    assert unique.dtype == LABELS.dtype
    np.testing.assert_array_equal(unique, np.arange(N))


@given(keys)
def test_removed_are_those_that_would_be_corrupted(key):
    kept = REMOVE(key, N, 0.35)
    _, is_corrupted = JITTED["randomize_labels"](key, 0.35)
    np.testing.assert_array_equal(kept, np.flatnonzero(~np.asarray(is_corrupted)))


def test_the_kinds_corrupt_the_same_examples_with_independent_draws():
    key = jax.random.key(15)
    masks = {tuple(np.flatnonzero(JITTED[kind](key, 0.35)[1])) for kind in KINDS}
    assert len(masks) == 1
    labels = np.zeros(5000, np.int32)
    drawn, _ = corruption.randomize_labels(key, labels, 1.0, CLASSES)
    noise, _ = corruption.randomize_inputs(key, np.zeros((5000, 1, 1, 1), np.float32), 1.0, 0, 1)
    assert abs(np.corrcoef(drawn, np.asarray(noise).ravel())[0, 1]) < 4 / np.sqrt(5000)


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan"), float("inf")])
def test_fraction_outside_zero_to_one_is_refused(fraction):
    with pytest.raises(InputError, match=r"must be in \[0, 1\]"):
        corruption.corrupted_positions(jax.random.key(0), N, fraction)


def test_noise_in_integer_images_is_refused():
    with pytest.raises(InputError, match="floating point"):
        corruption.randomize_inputs(jax.random.key(0), np.zeros((2, 1, 1, 1), np.uint8), 1.0)


@pytest.mark.parametrize(
    ("transition", "message"),
    [
        (np.eye(CLASSES)[:-1], "shape"),
        ([[0.5, 0.5], [1.0]], "one length"),
        (np.full((CLASSES, CLASSES), 0.5), "row 0"),
        (np.full((CLASSES, CLASSES), np.nan), "row 0"),
        (2 * np.eye(CLASSES) - np.roll(np.eye(CLASSES), 1, axis=1), "row 0"),
    ],
)
def test_transition_that_is_no_matrix_of_probabilities_is_refused(transition, message):
    with pytest.raises(InputError, match=message):
        corruption.randomize_labels(jax.random.key(0), LABELS, 1.0, CLASSES, transition=transition)


def test_exclude_true_needs_another_class_and_no_transition():
    with pytest.raises(InputError, match="exclude_true"):
        corruption.randomize_labels(jax.random.key(0), LABELS, 1.0, 1, exclude_true=True)
    with pytest.raises(InputError, match="exclude_true"):
        corruption.randomize_labels(
            jax.random.key(0), LABELS, 1.0, CLASSES, exclude_true=True, transition=TRANSITION
        )
