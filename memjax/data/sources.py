"""From the config's dataset section to arrays: the sources, and the moments of their pixels."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

import memjax.config as configuration
from memjax.data.checks import Reading
from memjax.data.dataset import Dataset, Split, draw, hold_out, in_words, select_classes
from memjax.data.digits_source import load_digits
from memjax.data.folder_source import load_folder
from memjax.data.huggingface_source import load_huggingface
from memjax.data.module_source import load_module
from memjax.data.npz_source import load_npz
from memjax.data.pixels import pixel_moments, resize
from memjax.data.table_source import load_table
from memjax.data.tfds_source import TfdsColumns, load_tfds
from memjax.errors import InputError

__all__ = ["LOADERS", "Dataset", "Split", "load_dataset", "moments"]


def _reading(config: configuration.Dataset) -> Reading:
    return Reading("", config.scale, config.layout, config.standardize)


def _load_tfds(config: configuration.Dataset) -> Dataset:
    columns = TfdsColumns(config.image_column, config.label_column, config.true_label_column)
    return load_tfds(config.name, config.data_dir, config.cache_dir, columns)


# Every source is a function of the dataset section that returns a whole Dataset.
LOADERS: Mapping[str, Callable[[configuration.Dataset], Dataset]] = {
    "digits": lambda config: load_digits(),
    "tfds": _load_tfds,
    "npz": lambda config: load_npz(config.path, _reading(config)),
    "folder": load_folder,
    "table": load_table,
    "huggingface": load_huggingface,
}


def load_dataset(config: configuration.Dataset) -> Dataset:
    """Loads what the config's dataset section says.

    Classes are selected first, then examples are drawn (balanced by class, and at least one of
    each; fewer with the same seed are part of more), then images are resized, or features
    standardised. A source without a validation split (digits, some files) gets one:
    `num_validation` examples held out, a fifth if that is -1; every class keeps a training example.

    Args:
      config: the checked `dataset` section.

    Returns:
      A Dataset. Images are uint8 as stored, or float32 in [0, 1]: digits are stored as 0 to 16 and
      come as sixteenths; resized images are float32. Features are float32, standardised by the
      moments of the training examples if `standardize` is "feature".

    Raises:
      InputError: if the data are not there, are not sound, or are fewer than asked for.

    Example:
      >>> dataset = load_dataset(configuration.Dataset(source="digits", num_train=100))
      >>> dataset.train.images.shape, dataset.validation.images.shape
      ((100, 8, 8, 1), (359, 8, 8, 1))
    """
    if ":" in config.source:
        dataset = load_module(config.source, _reading(config))
    else:
        dataset = LOADERS[config.source](config)
    has_validation = len(dataset.validation) > 0
    if config.classes:
        dataset = select_classes(dataset, config.classes)
        if len(config.classes) < 2:
            raise InputError(
                f"config.dataset.classes={config.classes}: one class; at least two are needed"
            )
    train, validation = dataset.train, dataset.validation
    if len(train) == 0:
        raise InputError(f"config.dataset.classes={config.classes}: have no training example")
    if config.classes and len(found := np.unique(train.labels)) < 2:
        raise InputError(
            f"config.dataset.classes={config.classes}: by labels and true labels, only the class "
            f"{dataset.class_names[found[0]]!r} has training examples; at least two are needed"
        )
    if not has_validation:
        train, validation = hold_out(train, config.num_validation, config.seed)
    elif config.num_validation >= 0:
        validation = draw(validation, config.num_validation, config.seed, "num_validation")
    if config.num_train:
        train = draw(train, config.num_train, config.seed, "num_train", every_class=True)
    dataset = dataclasses.replace(dataset, train=train, validation=validation)
    return _with_features(dataset, config) if train.images.ndim == 2 else _resized(dataset, config)


def _resized(dataset: Dataset, config: configuration.Dataset) -> Dataset:
    if config.standardize == "feature":
        raise InputError(
            "config.dataset.standardize='feature': is for [n features], but these are images "
            f"{list(dataset.train.images.shape[1:])}; allowed: none, scalar, channel"
        )
    if not config.image_size:
        return dataset
    train, validation = (
        dataclasses.replace(split, images=resize(split.images, config.image_size))
        for split in (dataset.train, dataset.validation)
    )
    return dataclasses.replace(dataset, train=train, validation=validation)


def _with_features(dataset: Dataset, config: configuration.Dataset) -> Dataset:
    """Returns [n features] as the network gets them."""
    train, validation = dataset.train, dataset.validation
    if config.image_size:
        raise InputError(
            f"config.dataset.image_size={config.image_size}: is for images, but these are "
            f"{train.images.shape[1]} features"
        )
    if config.standardize == "channel":
        raise InputError(
            "config.dataset.standardize='channel': features have no channels; use 'feature'"
        )
    if config.standardize != "feature":
        return dataset
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        mean, std = feature_moments(train.images)
    largest = float(np.finfo(np.float32).max)
    is_small = np.maximum(np.abs(mean), std) <= largest
    if not is_small.all():
        place = int(is_small.argmin())
        reach = float(np.abs(train.images[:, place]).max())
        raise InputError(
            f"config.dataset.standardize='feature': feature {place} reaches {reach:.3g}, which is "
            f"too large for its mean or deviation; must be at most {largest:.3g}"
        )
    is_flat = std == 0
    train, validation = (
        dataclasses.replace(
            split, images=((split.images - mean) / np.where(is_flat, 1, std)).astype(np.float32)
        )
        for split in (train, validation)
    )
    notes = dataset.notes
    if is_flat.any():
        flat = [str(n) for n in np.flatnonzero(is_flat)]
        notes = (
            *notes,
            f"{len(flat)} of {len(std)} features are constant in training, and are 0 there: number "
            f"{in_words(flat)}",
        )
    found = (mean.astype(np.float32), std.astype(np.float32))
    return dataclasses.replace(
        dataset, train=train, validation=validation, notes=notes, feature_moments=found
    )


def feature_moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and standard deviation of each feature.

    Args:
      features: [n features], of any scale.

    Returns:
      (mean, std), float64 [features]; std is exactly 0 where all values are the same.

    Example:
      >>> mean, std = feature_moments(np.array([[1e9, 3.0], [1e9 + 2, 3.0]]))
      >>> mean.tolist(), std.tolist()
      ([1000000001.0, 3.0], [1.0, 0.0])
    """
    values = features.astype(np.float64)
    mean = values.mean(axis=0)
    std = values.std(axis=0)  # about the mean: no digits cancel
    return mean, np.where((values == values[:1]).all(axis=0), 0, std)


def moments(images: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and standard deviation of the pixels, for standardisation.

    Args:
      images: [n height width channels], uint8 or float32 in [0, 1], or [n features]: the training
        images before corruption.
      kind: "none" (0 and 1), "scalar" (over everything) or "channel" (over all but the channels);
        "feature" gives 0 and 1, for such features are standardised when they are loaded.

    Returns:
      (mean, std), float32, [] or [channels], in units of [0, 1] pixels (of uint8 / 255).

    Raises:
      InputError: if the pixels are all alike, so that they cannot be standardised.

    Example:
      >>> mean, std = moments(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1), "scalar")
      >>> float(mean), float(std)
      (0.5, 0.5)
    """
    if kind in ("none", "feature"):
        return np.zeros((), np.float32), np.ones((), np.float32)
    mean, std = pixel_moments(images, per_channel=kind == "channel")
    if (std == 0).any():
        raise InputError(
            f"config.dataset.standardize={kind!r}: the training pixels are all alike; use 'none'"
        )
    return mean, std
