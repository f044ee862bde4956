"""A data set in memory, and what can be selected of it: classes, examples, a size of image."""

import dataclasses
import functools
import zlib
from collections.abc import Iterator

import numpy as np

from memjax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The examples of one split, on the host.

    Attributes:
      images: [n height width channels], uint8 as stored, or float32 in [0, 1].
      labels: int32 [n], in [0, num_classes).
      index: int64 [n], position of each example in the source's split.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    @functools.cached_property
    def checksum(self) -> int:
        """CRC-32 of pixels and labels, computed once."""
        labels = np.ascontiguousarray(self.labels).data
        return zlib.crc32(labels, zlib.crc32(np.ascontiguousarray(self.images).data))

    def take(self, positions: np.ndarray) -> "Split":
        """Returns the examples at these positions, in this order."""
        return Split(self.images[positions], self.labels[positions], self.index[positions])


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training and validation examples, before any corruption.

    Attributes:
      name: what to call it.
      num_classes: number of classes.
      class_names: a name for each class.
      train: the training examples.
      validation: the validation examples; there may be none.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    train: Split
    validation: Split


def make_split(images: np.ndarray, labels: np.ndarray) -> Split:
    """Returns a whole split of a source, its index counted from 0.

    Args:
      images: [n height width channels].
      labels: [n], integers.
    """
    return Split(images, labels.astype(np.int32), np.arange(len(labels), dtype=np.int64))


def balanced_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns a random order whose every beginning has about the class shares of the whole.

    So a small draw misses no class, and a smaller draw is part of a larger one.

    Args:
      labels: [n], integers.
      seed: another seed, another order.

    Returns:
      int64 [n], a permutation of the positions.

    Example:
      >>> order = balanced_order(np.array([0, 0, 0, 0, 1, 1, 1, 1]), seed=0)
      >>> sorted(int(i) // 4 for i in order[:4])
      [0, 0, 1, 1]
    """
    generator = np.random.default_rng(seed)
    turn = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # The k-th of a class of m comes at about k/m of the way, with ties between classes broken.
        places = generator.permutation(len(members)) + generator.random()
        turn[members] = places / len(members)
    return np.argsort(turn, kind="stable")


def hold_out(train: Split, num_validation: int, seed: int) -> tuple[Split, Split]:
    """Cuts a source without a validation split in two, balanced by class.

    Args:
      train: all examples.
      num_validation: examples to hold out; -1: a fifth.
      seed: draws them.

    Returns:
      (train, validation), each in the order of the source.

    Raises:
      InputError: if no training example is left.
    """
    count = round(len(train) / 5) if num_validation < 0 else num_validation
    if count >= len(train):
        raise InputError(
            f"config.dataset.num_validation={count}: must be less than {len(train)}, the number of "
            "examples of a source without a validation split"
        )
    order = balanced_order(train.labels, seed)
    return train.take(np.sort(order[count:])), train.take(np.sort(order[:count]))


def draw(split: Split, count: int, seed: int, field: str) -> Split:
    """Draws examples, balanced by class and in the order of the source.

    Args:
      split: to draw from.
      count: how many; fewer with the same seed are part of more.
      seed: another seed, another draw.
      field: the config's field, for the error.

    Raises:
      InputError: if there are not as many.
    """
    if count > len(split):
        raise InputError(f"config.dataset.{field}={count}: must be at most {len(split)}")
    if count == len(split):
        return split
    return split.take(np.sort(balanced_order(split.labels, seed)[:count]))


def select_classes(dataset: Dataset, classes: tuple[int, ...]) -> Dataset:
    """Keeps some classes, relabelled 0, 1, ... in the given order.

    Args:
      dataset: a data set.
      classes: different classes of it.

    Raises:
      InputError: if one is not a class of the data set.
    """
    for label in classes:
        if not 0 <= label < dataset.num_classes:
            raise InputError(
                f"config.dataset.classes={classes}: must be in [0, {dataset.num_classes - 1}]"
            )
    relabel = np.full(dataset.num_classes, -1, np.int32)
    relabel[list(classes)] = np.arange(len(classes))

    def select(split: Split) -> Split:
        kept = split.take(np.flatnonzero(relabel[split.labels] >= 0))
        return dataclasses.replace(kept, labels=relabel[kept.labels])

    names = tuple(dataset.class_names[label] for label in classes)
    return Dataset(
        dataset.name, len(classes), names, select(dataset.train), select(dataset.validation)
    )


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes images to squares: area means where the factor is whole, else antialiased.

    Args:
      images: [n height width channels], uint8, or float32 in [0, 1].
      size: the new height and width, pixels.

    Returns:
      float32 [n size size channels] in [0, 1], not rounded to whole grey levels; `images` itself
      where it has that size already.

    Example:
      >>> resize(np.array([[0, 255], [255, 255]], np.uint8).reshape(1, 2, 2, 1), 1).item()
      0.75
    """
    n, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    white = np.float32(255 if images.dtype == np.uint8 else 1)
    resized = np.empty((n, size, size, channels), np.float32)
    if height % size == 0 and width % size == 0:
        blocks = images.reshape(n, size, height // size, size, width // size, channels)
        blocks.mean(axis=(2, 4), dtype=np.float32, out=resized)
        return resized / white
    from PIL import Image  # not at the top: slow, and rarely needed

    for position in range(n):
        for channel in range(channels):
            plane = Image.fromarray(images[position, :, :, channel].astype(np.float32))
            smaller = plane.resize((size, size), Image.Resampling.BILINEAR)
            resized[position, :, :, channel] = np.asarray(smaller)
    return np.clip(resized / white, 0, 1)


_BLOCK_BYTES = 1 << 24  # numpy counts, and sums in float64, with eight bytes a pixel


def _blocks(images: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, _BLOCK_BYTES // max(1, images[:1].size))
    return (images[start : start + rows] for start in range(0, len(images), rows))


def pixel_moments(images: np.ndarray, per_channel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and standard deviation of the pixels, summed in float64.

    Args:
      images: [n height width channels], uint8 or float32 in [0, 1].
      per_channel: for each channel, in place of over everything.

    Returns:
      (mean, std), float32, [channels] or [], in units of [0, 1] pixels (of uint8 / 255).
    """
    channels = images.shape[-1]
    if images.dtype == np.uint8:
        # Exact, and fast: 256 counts instead of a sum over all pixels.
        counts = np.zeros((channels, 256), np.int64)
        for block in _blocks(images):
            for channel in range(channels):
                counts[channel] += np.bincount(block[..., channel].ravel(), minlength=256)
        shares = counts / counts.sum(axis=1, keepdims=True)
        levels = np.arange(256) / 255
        mean = shares @ levels
        square = shares @ levels**2
    else:
        sums = [
            (block.sum((0, 1, 2), np.float64), np.square(block, dtype=np.float64).sum((0, 1, 2)))
            for block in _blocks(images)
        ]
        mean, square = np.sum(sums, axis=0) / np.prod(images.shape[:3])
    if not per_channel:
        mean, square = mean.mean(), square.mean()
    # Rounding may leave a variance of about 1e-17 where there is none.
    variance = square - mean**2
    variance = np.where(variance > 1e-12, variance, 0)
    return np.asarray(mean, np.float32), np.asarray(np.sqrt(variance), np.float32)
