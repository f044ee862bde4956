"""Augmentation: each image by draws of its own, with the distribution that is promised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.data.augmentation import augment, check_images, mixup
from memjax.errors import InputError

KEY = jax.random.key(0)
# Every pixel has a value of its own, above 0, so that a pixel tells where it came from.
IMAGE = (jnp.arange(6 * 5.0) + 1).reshape(6, 5, 1) / 30
MANY = jnp.tile(IMAGE, (4000, 1, 1, 1))


def test_off_is_the_identity_and_needs_no_key():
    assert augment(None, MANY) is MANY


def _windows(image, crop):
    padded = np.pad(np.asarray(image), ((crop, crop), (crop, crop), (0, 0)))
    height, width = image.shape[:2]
    return {
        (top, left): padded[top : top + height, left : left + width]
        for top in range(2 * crop + 1)
        for left in range(2 * crop + 1)
    }


def test_crop_takes_every_window_of_the_padded_image_equally_often():
    found = np.asarray(augment(KEY, MANY, crop=2))
    counts = {
        place: int((found == window).all(axis=(1, 2, 3)).sum())
        for place, window in _windows(IMAGE, 2).items()
    }
    assert sum(counts.values()) == len(MANY)  # nothing else comes out
    expected = len(MANY) / 25
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 51.2  # the .999 quantile with 24 degrees of freedom


def test_flip_mirrors_half_of_the_images_and_changes_no_other():
    found = np.asarray(augment(KEY, MANY, flip=True))
    plain, mirrored = np.asarray(IMAGE), np.asarray(IMAGE)[:, ::-1]
    is_plain = (found == plain).all(axis=(1, 2, 3))
    is_mirrored = (found == mirrored).all(axis=(1, 2, 3))
    assert (is_plain ^ is_mirrored).all()
    assert abs(is_mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(MANY))


@pytest.mark.parametrize("size", [2, 3])
def test_cutout_fills_a_square_whose_centre_is_any_pixel(size):
    found = np.asarray(augment(KEY, MANY, cutout=size, fill=jnp.array([2.0])))
    cut = (found == 2.0)[..., 0]
    np.testing.assert_array_equal(found[~cut], np.asarray(MANY)[~cut])
    squares = {}
    for row in range(6):
        for column in range(5):
            expected = np.zeros((6, 5), bool)
            top, left = row - size // 2, column - size // 2
            expected[max(0, top) : top + size, max(0, left) : left + size] = True
            squares[expected.tobytes()] = 0
    for square in cut:
        squares[square.tobytes()] += 1  # a KeyError for what is no such square
    assert len(squares) == 30
    chi_square = sum((count - len(MANY) / 30) ** 2 / (len(MANY) / 30) for count in squares.values())
    assert chi_square < 58.3  # the .999 quantile with 29 degrees of freedom


def test_an_image_does_not_depend_on_how_many_follow_it():
    settings = {"crop": 2, "flip": True, "cutout": 3}
    whole = augment(KEY, MANY[:10], **settings)
    np.testing.assert_array_equal(augment(KEY, MANY[:7], **settings), whole[:7])
    assert not np.array_equal(augment(jax.random.key(1), MANY[:10], **settings), whole)


def test_draws_of_crop_flip_and_cutout_are_independent():
    """Which images are mirrored says nothing about where they were cropped."""
    both = np.asarray(augment(KEY, MANY, crop=1, flip=True))
    place = {}
    for (top, _), window in _windows(IMAGE, 1).items():
        place[window.tobytes()] = top, False
        place[np.ascontiguousarray(window[:, ::-1]).tobytes()] = top, True
    tops, flips = np.array([place[image.tobytes()] for image in both]).T
    assert abs(np.corrcoef(tops, flips)[0, 1]) < 5 / np.sqrt(len(both))


def test_mixup_takes_one_share_of_a_beta_distribution():
    images, labels = MANY[:3], jnp.array([5, 6, 7])
    shares = jax.vmap(lambda key: mixup(key, images, labels, None, 0.4).share)(
        jax.random.split(KEY, 4000)
    )
    variance = 1 / (4 * (2 * 0.4 + 1))  # of Beta(a, a)
    assert abs(shares.mean() - 0.5) < 5 * np.sqrt(variance / 4000)
    assert abs(shares.var() / variance - 1) < 0.1


def test_mixup_mixes_real_examples_with_real_ones_by_the_share():
    images = jnp.array([1.0, 2.0, 3.0, 100.0, 100.0]).reshape(5, 1, 1, 1)
    labels, mask = jnp.array([5, 6, 7, 0, 0]), jnp.arange(5) < 3
    mixed = mixup(KEY, images, labels, mask, 1.0)
    share = float(mixed.share)
    assert 0 < share < 1
    expected = [share * own + (1 - share) * other for own, other in ((1, 3), (2, 2), (3, 1))]
    np.testing.assert_allclose(mixed.images[:3].ravel(), expected, rtol=1e-6)
    assert mixed.other_labels[:3].tolist() == [7, 6, 5]
    fewer = mixup(KEY, images[:3], labels[:3], None, 1.0)
    np.testing.assert_array_equal(fewer.images, mixed.images[:3])


@pytest.mark.parametrize(
    ("shape", "settings", "words"),
    [
        ((64,), {"crop": 2}, r"augmentation.crop=2: needs images .* \(64,\)"),
        ((64,), {"flip": True}, "augmentation.flip=True: needs images"),
        ((8, 6, 1), {"crop": 7}, "crop=7: must be at most 6"),
        ((8, 6, 1), {"cutout": 16}, "cutout=16: must be at most 6"),
    ],
)
def test_what_does_not_fit_the_examples_is_refused(shape, settings, words):
    with pytest.raises(InputError, match=words):
        augment(KEY, jnp.zeros((2, *shape)), **settings)
    check_images(shape, **{"crop": 0, "flip": False, "cutout": 0})
