"""Augmentation of training batches, as in the usual recipe for CIFAR.

Pure functions of a key: the same key gives the same images, whatever else is in the batch. What
happens to a row depends on the key and the row's number alone, never on how many rows follow, so
that padding a batch for more devices changes nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from memjax.errors import InputError


def augment(
    key: jax.Array,
    images: jax.Array,
    crop: int = 0,
    flip: bool = False,
    cutout: int = 0,
    fill: jax.Array | float = 0.0,
) -> jax.Array:
    """Crops, flips and cuts out, each image by draws of its own.

    Args:
        key: typed key; unused where all is off.
        images: [n height width channels], float32 in [0, 1].
        crop: pixels of black that are put around the image before a part of its own size is cut
            out at random; 0: off; 4 in the usual recipe.
        flip: whether left and right are swapped, half of the time.
        cutout: height and width of the square that is filled, with its centre anywhere in the
            image (DeVries and Taylor 2017), so that it may reach beyond the border; 0: off; 16 on
            CIFAR-10.
        fill: of the square, scalar or [channels]; the mean of the training data as published.

    Returns:
        Images like `images`; `images` itself where all is off.

    Raises:
        InputError: examples that are no images, or a crop or a square larger than they are.

    Example:
        >>> images = jnp.ones((3, 8, 8, 1))
        >>> augment(jax.random.key(0), images, crop=2, flip=True).shape
        (3, 8, 8, 1)
        >>> augment(jax.random.key(0), images) is images
        True
    """
    if not (crop or flip or cutout):
        return images
    check_images(images.shape[1:], crop, flip, cutout)

    def augment_one(row: jax.Array, image: jax.Array) -> jax.Array:
        crop_key, flip_key, cutout_key = jax.random.split(jax.random.fold_in(key, row), 3)
        if crop:
            image = _cropped(crop_key, image, crop)
        if flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return _cut_out(cutout_key, image, cutout, fill) if cutout else image

    return jax.vmap(augment_one)(jnp.arange(len(images)), images)


class Mixed(NamedTuple):
    """A batch of which each image is mixed with another one of the batch.

    Attributes:
        images: [n ...].
        other_labels: int [n], the labels of those mixed in.
        share: scalar in [0, 1], how much is left of an image's own.
    """

    images: jax.Array
    other_labels: jax.Array
    share: jax.Array


def mixup(
    key: jax.Array, images: jax.Array, labels: jax.Array, mask: jax.Array | None, strength: float
) -> Mixed:
    """Mixes every image with another one of its batch (Zhang et al. 2018).

    The loss is then share * loss(labels) + (1 - share) * loss(other_labels). As in the authors'
    code one share is drawn for a batch. The other image of the first is the last, and so on, which
    is as random as the order of the batch is.

    Args:
        key: typed key.
        images: [n ...], floating point.
        labels: int [n].
        mask: bool [n], False for padding, which is never mixed in and stands behind the others;
            None: no padding.
        strength: both parameters of the Beta distribution that the share is drawn from.

    Returns:
        The mixed batch.

    Example:
        >>> images, labels = jnp.array([[0.0], [1.0]]), jnp.array([3, 5])
        >>> mixed = mixup(jax.random.key(0), images, labels, None, 1.0)
        >>> mixed.other_labels.tolist(), bool((mixed.images[1] == mixed.share).all())
        ([5, 3], True)
    """
    share = jax.random.beta(key, strength, strength, dtype=images.dtype)
    row = jnp.arange(len(images))
    count = len(images) if mask is None else jnp.sum(mask)
    other = jnp.where(row < count, count - 1 - row, row)
    mixed = share * images + (1 - share) * images[other]
    return Mixed(mixed, labels[other], share)


def check_images(shape: tuple[int, ...], crop: int, flip: bool, cutout: int) -> None:
    """Checks that examples of a shape can be augmented so.

    Args:
        shape: of one example.
        crop: see `augment`.
        flip: likewise.
        cutout: likewise.

    Raises:
        InputError: if not.
    """
    asked = {"crop": crop, "flip": flip, "cutout": cutout}
    for name, value in asked.items():
        if not value:
            continue
        field = f"config.augmentation.{name}={value}"
        if len(shape) != 3:
            raise InputError(
                f"{field}: needs images [height width channels], and an example is {shape}"
            )
        if name != "flip" and value > min(shape[:2]):
            raise InputError(f"{field}: must be at most {min(shape[:2])}, the size of the images")


def _cropped(key: jax.Array, image: jax.Array, crop: int) -> jax.Array:
    first = jax.random.randint(key, (3,), 0, jnp.array([2 * crop + 1, 2 * crop + 1, 1]), jnp.int32)
    padded = jnp.pad(image, ((crop, crop), (crop, crop), (0, 0)))
    return jax.lax.dynamic_slice(padded, tuple(first), image.shape)


def _cut_out(key: jax.Array, image: jax.Array, size: int, fill: jax.Array | float) -> jax.Array:
    def is_inside(key: jax.Array, length: int) -> jax.Array:
        first = jax.random.randint(key, (), 0, length, jnp.int32) - size // 2
        pixel = jnp.arange(length)
        return (pixel >= first) & (pixel < first + size)

    row_key, column_key = jax.random.split(key)
    rows, columns = is_inside(row_key, image.shape[0]), is_inside(column_key, image.shape[1])
    is_cut = (rows[:, None] & columns[None, :])[:, :, None]
    filling = jnp.broadcast_to(jnp.asarray(fill, image.dtype).reshape(1, 1, -1), image.shape)
    return jnp.where(is_cut, filling, image)
