"""From the config's corruption section to the examples that a network is trained on."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import pandas as pd

import memjax.config as configuration
from memjax.corruption_kinds import INPUT_KINDS, LABEL_KINDS, parse_kinds
from memjax.data.corruption import (
    check_transition,
    corrupted_positions,
    gaussian_image,
    permute_labels,
    randomize_labels,
    remove,
    shuffle_pixels,
    unique_labels,
)
from memjax.data.dataset import Dataset
from memjax.data.pixels import noise_moments
from memjax.errors import InputError
from memjax.keys import tagged

EXAMPLE_COLUMNS = {
    "split": "'train' or 'validation'",
    "index": "position in the source's split",
    "example_id": "file path or key in the source; the index where it has none",
    "label": "the label trained on",
    "true_label": "the label before corruption, or the source's own true label",
    "label_name": "name of the class of label",
    "true_label_name": "name of the class of true_label",
    "is_corrupted": "whether the corruption touched this example, or the source's label is wrong",
    "is_mislabeled": "whether label is not true_label",
}
_Moments = tuple[np.ndarray, np.ndarray] | None  # of Gaussian inputs; None for other kinds


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Training examples as trained on, on the host.

    Attributes:
      images: [n height width channels], uint8, or float32 in units of [0, 1] pixels (noise is not
        clipped to them); or [n features], float32.
      labels: int32 [n], trained on.
      true_labels: int32 [n], of the source: its true labels where it knows them, else its labels.
      is_corrupted: bool [n], chosen for corruption, or mislabelled in the source itself; unique
        labels alone corrupt nobody.
      index: int64 [n], position in the source's training split.
      num_classes: of `labels`; with unique labels, n.
      is_chosen: bool [n], chosen for corruption: whose input is noise where inputs are.
      is_mislabeled: bool [n], the label is not the true label; with unique labels, nowhere.
      example_ids: str [n], as in the source.
      class_names: a name for each class of the source; with unique labels, the examples' ids.
    """

    images: np.ndarray
    labels: np.ndarray
    true_labels: np.ndarray
    is_corrupted: np.ndarray
    index: np.ndarray
    num_classes: int
    is_chosen: np.ndarray
    is_mislabeled: np.ndarray
    example_ids: np.ndarray
    class_names: tuple[str, ...]


def corrupt_examples(
    config: configuration.Corruption, dataset: Dataset, with_images: bool = True
) -> Examples:
    """Corrupts the training examples as the config's corruption section says.

    Kinds joined with "+" corrupt the same examples: one kind that changes inputs, one that changes
    labels. `removed` goes with `unique_labels` only. New labels are drawn from what the examples
    really show: wrong labels are wrong where the source's own label was wrong already.

    Args:
      config: the checked `corruption` section.
      dataset: as loaded.
      with_images: False leaves the images out, [0 height width channels]: those of a group's
        points are on the devices once, and making noise takes time.

    Returns:
      Examples. The noise of `random_inputs` has the mean and variance of the training split, of
      all its pixels or as `noise_moments` says; `random_inputs` makes images float32, all else
      keeps their type.

    Raises:
      InputError: if kinds do not go together, or if their other fields do not fit.

    Example:
      >>> from memjax.data.sources import load_dataset
      >>> digits = load_dataset(configuration.Dataset(source="digits", num_train=100))
      >>> config = configuration.Corruption(kind="random_labels", fraction=0.5)
      >>> int(corrupt_examples(config, digits).is_corrupted.sum())
      50
    """
    kinds = parse_kinds(config.kind)
    _check(config, kinds, dataset)
    key = jax.random.key(config.seed)
    train = dataset.train
    if "removed" in kinds:
        train = train.take(np.asarray(remove(key, len(train), config.fraction)))
    images, labels = train.images, train.labels
    num_classes, class_names = dataset.num_classes, dataset.class_names
    is_chosen = np.zeros(len(train), bool)
    if not with_images:
        images = images[:0]
    for kind in kinds:
        if kind in INPUT_KINDS and not with_images:
            is_chosen[np.asarray(corrupted_positions(key, len(train), config.fraction))] = True
        elif kind in INPUT_KINDS:
            moments = _moments(kind, config, images)
            images, is_chosen = _corrupt_images(kind, key, images, config.fraction, moments)
        elif kind in LABEL_KINDS and kind != "unique_labels":
            corrupt = _label_corruption(kind, num_classes, config.transition)
            # A permutation keeps the counts of the labels that are there.
            source = train.labels if kind == "permuted_labels" else train.true_labels
            drawn, mask = (np.asarray(made) for made in corrupt(key, source, config.fraction))
            labels, is_chosen = np.where(mask, drawn, labels), mask
    is_mislabeled = labels != train.true_labels
    if "unique_labels" in kinds:
        labels, num_classes = np.asarray(unique_labels(labels)), len(train)
        class_names, is_mislabeled = tuple(train.example_ids), np.zeros(len(train), bool)
    return Examples(
        images,
        labels,
        train.true_labels,
        is_chosen | is_mislabeled,
        train.index,
        num_classes,
        is_chosen,
        is_mislabeled,
        train.example_ids,
        class_names,
    )


def held_out_noise(config: configuration.Corruption, dataset: Dataset) -> np.ndarray:
    """Makes of every validation image noise of the kind that the training images were replaced by.

    Nothing of it was trained on, and it is drawn as the training noise is: the place to look at a
    network that was trained on noise, which never saw a real image.

    Args:
      config: the checked `corruption` section.
      dataset: as loaded.

    Returns:
      [n height width channels] or [n features], of the kind and type of the corrupted images.

    Raises:
      InputError: if the corruption leaves the inputs as they are.
    """
    kind = next((kind for kind in parse_kinds(config.kind) if kind in INPUT_KINDS), None)
    if kind is None:
        raise InputError(
            f"split noise: the inputs of this run are no noise (config.corruption.kind="
            f"{config.kind!r}); it has train and validation"
        )
    key = jax.random.key(config.seed)
    if kind != "shuffled_pixels":  # which is one permutation for all images
        key = tagged(key, "held-out noise")
    moments = _moments(kind, config, dataset.train.images)
    return _corrupt_images(kind, key, dataset.validation.images, 1.0, moments)[0]


def examples_table(dataset: Dataset, examples: Examples) -> pd.DataFrame:
    """Returns one row per example, training examples first.

    Args:
      dataset: as loaded; its validation split is never corrupted.
      examples: its training examples as corrupted.

    Returns:
      A data frame with the columns of `EXAMPLE_COLUMNS`.
    """
    validation = dataset.validation
    sizes = [len(examples.labels), len(validation)]
    label_names = np.array(examples.class_names, object)
    true_names = np.array(dataset.class_names, object)
    is_wrong = validation.labels != validation.true_labels
    columns = {
        "split": np.repeat(["train", "validation"], sizes),
        "index": (examples.index, validation.index),
        "example_id": (examples.example_ids, validation.example_ids),
        "label": (examples.labels, validation.labels),
        "true_label": (examples.true_labels, validation.true_labels),
        "label_name": (label_names[examples.labels], true_names[validation.labels]),
        "true_label_name": (true_names[examples.true_labels], true_names[validation.true_labels]),
        "is_corrupted": (examples.is_corrupted, is_wrong),
        "is_mislabeled": (examples.is_mislabeled, is_wrong),
    }
    return pd.DataFrame(
        {k: np.concatenate(v) if isinstance(v, tuple) else v for k, v in columns.items()}
    )


def _check(config: configuration.Corruption, kinds: tuple[str, ...], dataset: Dataset) -> None:
    if "label_transition" in kinds:
        if not config.transition:
            raise InputError(
                "config.corruption.transition: label_transition needs a row for each class"
            )
        check_transition(config.transition, dataset.num_classes)
    elif config.transition:
        raise InputError(
            f"config.corruption.transition: goes with label_transition, not {config.kind!r}"
        )
    if "wrong_labels" in kinds and dataset.num_classes < 2:
        raise InputError("config.corruption.kind='wrong_labels': needs at least two classes")
    if "removed" in kinds and round(config.fraction * len(dataset.train)) == len(dataset.train):
        raise InputError(
            f"config.corruption.fraction={config.fraction}: leaves no example with kind 'removed'"
        )


def _moments(kind: str, config: configuration.Corruption, real: np.ndarray) -> _Moments:
    return noise_moments(real, config.noise_moments) if kind == "random_inputs" else None


def _corrupt_images(
    kind: str, key: jax.Array, images: np.ndarray, fraction: float, moments: _Moments
) -> tuple[np.ndarray, np.ndarray]:
    if moments is not None:
        return _with_noise(key, images, fraction, moments)
    corrupted, is_corrupted = _shuffle_pixels(
        key, images, fraction, per_example=kind == "shuffled_pixels_each"
    )
    return np.asarray(corrupted), np.asarray(is_corrupted)


def _with_noise(
    key: jax.Array, images: np.ndarray, fraction: float, moments: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """What `randomize_inputs` does, a thousand images at a time: a quarter of its memory."""
    noisy = images / np.float32(255) if images.dtype == np.uint8 else images.copy()
    positions = np.asarray(corrupted_positions(key, len(images), fraction))
    for start in range(0, len(positions), 1000):
        chunk = positions[start : start + 1000]
        noisy[chunk] = _gaussian_images(key, chunk, images.shape[1:], *moments)
    is_corrupted = np.zeros(len(images), bool)
    is_corrupted[positions] = True
    return noisy, is_corrupted


_shuffle_pixels = jax.jit(shuffle_pixels, static_argnames=("fraction", "per_example"))


@functools.partial(jax.jit, static_argnames="shape")
def _gaussian_images(
    key: jax.Array, positions: jax.Array, shape: tuple[int, ...], mean: jax.Array, std: jax.Array
) -> jax.Array:
    return jax.vmap(lambda index: gaussian_image(key, index, shape, mean, std))(positions)


def _label_corruption(
    kind: str, num_classes: int, transition: tuple[tuple[float, ...], ...]
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    if kind == "permuted_labels":
        return permute_labels
    return functools.partial(
        randomize_labels,
        num_classes=num_classes,
        exclude_true=kind == "wrong_labels",
        transition=np.array(transition, np.float32) if transition else None,
    )
