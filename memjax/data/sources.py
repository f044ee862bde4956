"""From the config's dataset section to arrays: the sources, and the moments of their pixels."""

import dataclasses

import numpy as np

from memjax import config as configuration
from memjax.data.dataset import (
    Dataset,
    Split,
    draw,
    hold_out,
    make_split,
    pixel_moments,
    resize,
    select_classes,
)
from memjax.data.npz_source import load_npz
from memjax.data.tfds_source import load_tfds
from memjax.errors import InputError

__all__ = ["Dataset", "Split", "load_dataset", "moments"]


def load_dataset(config: configuration.Dataset) -> Dataset:
    """Loads what the config's dataset section says.

    Classes are selected first, then examples are drawn (balanced by class; fewer with the same seed
    are part of more), then images are resized. A source without a validation split (digits, some
    .npz files) gets one: `num_validation` examples held out, a fifth if that is -1.

    Args:
      config: the checked `dataset` section.

    Returns:
      A Dataset. Images are uint8 as stored, or float32 in [0, 1]: digits are stored as 0 to 16 and
      come as sixteenths; resized images are float32.

    Raises:
      InputError: if the data are not there, are not sound, or are fewer than asked for.

    Example:
      >>> dataset = load_dataset(configuration.Dataset(source="digits", num_train=100))
      >>> dataset.train.images.shape, dataset.validation.images.shape
      ((100, 8, 8, 1), (359, 8, 8, 1))
    """
    if config.source == "digits":
        dataset = load_digits()
    elif config.source == "npz":
        dataset = load_npz(config.path)
    else:
        dataset = load_tfds(config.name, config.data_dir, config.cache_dir)
    has_validation = len(dataset.validation) > 0
    if config.classes:
        dataset = select_classes(dataset, config.classes)
    train, validation = dataset.train, dataset.validation
    if len(train) == 0:
        raise InputError(f"config.dataset.classes={config.classes}: have no training example")
    if not has_validation:
        train, validation = hold_out(train, config.num_validation, config.seed)
    elif config.num_validation >= 0:
        validation = draw(validation, config.num_validation, config.seed, "num_validation")
    if config.num_train:
        train = draw(train, config.num_train, config.seed, "num_train")
    if config.image_size:
        train, validation = (
            dataclasses.replace(split, images=resize(split.images, config.image_size))
            for split in (train, validation)
        )
    return dataclasses.replace(dataset, train=train, validation=validation)


def load_digits() -> Dataset:
    """Returns scikit-learn's digits, [1797 8 8 1] float32: no download, no validation split."""
    from sklearn.datasets import load_digits as sklearn_digits  # not at the top: slow

    images, labels = sklearn_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    train = make_split(images, labels)
    names = tuple(str(digit) for digit in range(10))
    return Dataset("digits", 10, names, train, train.take(np.arange(0)))


def moments(images: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and standard deviation of the pixels, for standardisation.

    Args:
      images: [n height width channels], uint8 or float32 in [0, 1]: the training images before
        corruption.
      kind: "none" (0 and 1), "scalar" (over everything) or "channel" (over all but the channels).

    Returns:
      (mean, std), float32, [] or [channels], in units of [0, 1] pixels (of uint8 / 255).

    Raises:
      InputError: if the pixels are all alike, so that they cannot be standardised.

    Example:
      >>> mean, std = moments(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), "scalar")
      >>> float(mean), float(std)
      (0.5, 0.5)
    """
    if kind == "none":
        return np.zeros((), np.float32), np.ones((), np.float32)
    mean, std = pixel_moments(images, per_channel=kind == "channel")
    if (std == 0).any():
        raise InputError(
            f"config.dataset.standardize={kind!r}: the training pixels are all alike; use 'none'"
        )
    return mean, std
