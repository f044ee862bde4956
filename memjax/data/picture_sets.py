"""From listed pictures with labels to a data set: what folders and tables of pictures share."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import memjax.config as configuration
from memjax.data.checks import Arrays, Reading, make_dataset
from memjax.data.dataset import Dataset
from memjax.data.label_names import is_text, names_of_text
from memjax.data.pictures import Picture, decode_cached
from memjax.errors import InputError

TRAIN_NAMES = ("train", "training")
# The first that is there.
VALIDATION_NAMES = ("validation", "val", "valid", "dev", "test", "testing", "eval", "evaluation")


class PictureSplit(NamedTuple):
    """The pictures of one split, in the order of the source.

    Attributes:
      pictures: [n].
      labels: [n], integers or text.
      true_labels: likewise, or None.
    """

    pictures: Sequence[Picture]
    labels: Any
    true_labels: Any = None


def picture_dataset(
    config: configuration.Dataset,
    name: str,
    train: PictureSplit,
    validation: PictureSplit | None,
    where: str,
    class_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    facts: Sequence[str] | None = (),
) -> Dataset:
    """Decodes the pictures of both splits to one size and mode, and checks their labels.

    Args:
      config: the dataset section: image_size and cache_dir are used.
      name: what to call the data set.
      train: the training split.
      validation: the validation split, if the source has one.
      where: begins every error.
      class_names: of the labels; None: what stands in the training labels, also those of broken
        pictures, so that no class is lost in silence.
      notes: of the source.
      facts: what pictures in memory depend on; None: nothing is cached.

    Returns:
      A Dataset; `index` counts the broken pictures too.

    Raises:
      InputError: if the config says how to read numbers, or if the pictures are no data set.
    """
    if config.scale or config.layout == "CHW":
        field = "scale" if config.scale else "layout"
        raise InputError(
            f"config.dataset.{field}={getattr(config, field)!r}: is for arrays of numbers, but "
            "these are pictures, whose files say what white is and where the channels are; leave "
            "it out"
        )
    splits = [train] if validation is None else [train, validation]
    pictures = [picture for split in splits for picture in split.pictures]
    decoded = decode_cached(pictures, config.image_size, where, config.cache_dir, facts)
    if class_names is None and is_text(train.labels):
        others = {"true_labels": train.true_labels}
        if validation is not None:
            others["validation labels"] = validation.labels
            others["validation true_labels"] = validation.true_labels
        class_names = names_of_text(train.labels, others, where, "labels")
    start = 0
    arrays: list[Arrays] = []
    for split in splits:
        stop = start + len(split.pictures)
        low, high = np.searchsorted(decoded.kept, [start, stop])
        kept = decoded.kept[low:high] - start
        true_labels = None if split.true_labels is None else np.asarray(split.true_labels)[kept]
        arrays.append(
            Arrays(
                images=decoded.images[low:high],
                labels=np.asarray(split.labels)[kept],
                true_labels=true_labels,
                example_ids=[split.pictures[n].example_id for n in kept],
                positions=kept,
                prefix="validation " if arrays else "",
            )
        )
        start = stop
    reading = Reading(where, layout="HWC")
    held = arrays[1] if len(arrays) > 1 else None
    all_notes = (*notes, *decoded.notes)
    dataset = make_dataset(name, arrays[0], held, reading, class_names, None, all_notes)
    # The splits may have the same ids.
    of_train = decoded.odd_sized[decoded.odd_sized < len(train.pictures)]
    odd_sized = tuple(train.pictures[n].example_id for n in of_train)
    return dataclasses.replace(dataset, broken=decoded.broken, odd_sized=odd_sized)


def choose_validation(names: Sequence[str]) -> str | None:
    """Returns which of the splits of these names is for validation, if one is.

    Example:
      >>> choose_validation(["train", "test", "Val"])
      'Val'
    """
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in VALIDATION_NAMES if name in lower), None)


def choose_train(names: Sequence[str]) -> str | None:
    """Returns which of the splits of these names is for training, if one is."""
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in TRAIN_NAMES if name in lower), None)
