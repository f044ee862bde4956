"""From the config's corruption section to the examples that a network is trained on."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np
import pandas as pd

from memjax import config as configuration
from memjax.data.corruption import (
    CORRUPTION_KINDS,
    check_transition,
    corrupted_positions,
    gaussian_image,
    permute_labels,
    randomize_labels,
    remove,
    shuffle_pixels,
    unique_labels,
)
from memjax.data.dataset import Dataset, pixel_moments
from memjax.errors import InputError

_INPUT_KINDS = ("random_inputs", "shuffled_pixels", "shuffled_pixels_each")
_LABEL_KINDS = (
    "random_labels",
    "wrong_labels",
    "label_transition",
    "permuted_labels",
    "unique_labels",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Training examples as trained on, on the host.

    Attributes:
      images: [n height width channels], uint8, or float32 in units of [0, 1] pixels (noise is not
        clipped to them).
      labels: int32 [n], trained on.
      true_labels: int32 [n], of the source.
      is_corrupted: bool [n], chosen for corruption; unique labels alone corrupt nobody.
      is_mislabeled: bool [n], the label is not the true one; False where every example is a class.
      index: int64 [n], position in the source's training split.
      num_classes: of `labels`; with unique labels, n.
    """

    images: np.ndarray
    labels: np.ndarray
    true_labels: np.ndarray
    is_corrupted: np.ndarray
    is_mislabeled: np.ndarray
    index: np.ndarray
    num_classes: int


def corrupt_examples(
    config: configuration.Corruption, dataset: Dataset, with_images: bool = True
) -> Examples:
    """Corrupts the training examples as the config's corruption section says.

    Kinds joined with "+" corrupt the same examples: one kind that changes inputs, one that changes
    labels. `removed` goes with `unique_labels` only.

    Args:
      config: the checked `corruption` section.
      dataset: as loaded.
      with_images: False leaves the images out, [0 height width channels]: those of a group's
        points are on the devices once, and making noise takes time.

    Returns:
      Examples. The noise of `random_inputs` has the mean and variance of all pixels of the training
      split; `random_inputs` makes images float32, all else keeps their type.

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
    num_classes = dataset.num_classes
    is_corrupted = np.zeros(len(train), bool)
    if not with_images:
        images = images[:0]
    for kind in kinds:
        if kind in _INPUT_KINDS and not with_images:
            is_corrupted = np.zeros(len(train), bool)
            is_corrupted[np.asarray(corrupted_positions(key, len(train), config.fraction))] = True
        elif kind in _INPUT_KINDS:
            images, is_corrupted = _corrupt_images(kind, key, images, config.fraction)
        elif kind == "unique_labels":
            labels, num_classes = np.asarray(unique_labels(labels)), len(train)
        elif kind in _LABEL_KINDS:
            corrupt = _label_corruption(kind, num_classes, config.transition)
            drawn, mask = corrupt(key, labels, config.fraction)
            labels, is_corrupted = np.asarray(drawn), np.asarray(mask)
    is_class = "unique_labels" not in kinds
    is_mislabeled = (labels != train.labels) & is_class
    return Examples(
        images, labels, train.labels, is_corrupted, is_mislabeled, train.index, num_classes
    )


def parse_kinds(kind: str) -> tuple[str, ...]:
    """Splits "a+b" into kinds that are known and go together.

    Args:
      kind: names of `CORRUPTION_KINDS` joined with "+".

    Raises:
      InputError: if one is unknown, or if two would undo each other.

    Example:
      >>> parse_kinds("random_inputs+unique_labels")
      ('random_inputs', 'unique_labels')
    """
    kinds = tuple(kind.split("+"))
    for name in kinds:
        if name not in CORRUPTION_KINDS:
            known = configuration.nearest(name, CORRUPTION_KINDS)
            raise InputError(f"config.corruption.kind={kind!r}: {known}")
    for group, what in ((_INPUT_KINDS, "inputs"), (_LABEL_KINDS, "labels")):
        if sum(name in group for name in kinds) > 1:
            raise InputError(
                f"config.corruption.kind={kind!r}: at most one kind may change the {what}"
            )
    if ("none" in kinds and len(kinds) > 1) or (
        "removed" in kinds and set(kinds) - {"removed", "unique_labels"}
    ):
        raise InputError(
            f"config.corruption.kind={kind!r}: none goes with nothing else, removed only with "
            "unique_labels"
        )
    return kinds


def examples_table(dataset: Dataset, examples: Examples) -> pd.DataFrame:
    """Returns one row per example, training examples first.

    Args:
      dataset: as loaded; its validation split is never corrupted.
      examples: its training examples as corrupted.

    Returns:
      A data frame with the columns split ("train" or "validation"), index (position in the source's
      split), label (trained on), true_label, is_corrupted and is_mislabeled.
    """
    validation = dataset.validation
    sizes = [len(examples.labels), len(validation)]
    uncorrupted = np.zeros(len(validation), bool)
    return pd.DataFrame(
        {
            "split": np.repeat(np.array(["train", "validation"], object), sizes),
            "index": np.concatenate([examples.index, validation.index]),
            "label": np.concatenate([examples.labels, validation.labels]),
            "true_label": np.concatenate([examples.true_labels, validation.labels]),
            "is_corrupted": np.concatenate([examples.is_corrupted, uncorrupted]),
            "is_mislabeled": np.concatenate([examples.is_mislabeled, uncorrupted]),
        }
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


def _corrupt_images(
    kind: str, key: jax.Array, images: np.ndarray, fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    if kind == "random_inputs":
        return _with_noise(key, images, fraction)
    corrupted, is_corrupted = _shuffle_pixels(
        key, images, fraction, per_example=kind == "shuffled_pixels_each"
    )
    return np.asarray(corrupted), np.asarray(is_corrupted)


def _with_noise(
    key: jax.Array, images: np.ndarray, fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """What `randomize_inputs` does, a thousand images at a time: a quarter of its memory."""
    mean, std = pixel_moments(images, per_channel=False)
    noisy = images / np.float32(255) if images.dtype == np.uint8 else images.copy()
    positions = np.asarray(corrupted_positions(key, len(images), fraction))
    for start in range(0, len(positions), 1000):
        chunk = positions[start : start + 1000]
        noisy[chunk] = _gaussian_images(key, chunk, images.shape[1:], mean, std)
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
