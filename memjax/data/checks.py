"""Arrays of any source, checked and brought to one form: one rule for all sources."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from memjax.data.dataset import Dataset, Split, printable
from memjax.data.label_names import (
    check_length,
    is_text,
    label_numbers,
    label_text,
    names_of_text,
)
from memjax.errors import InputError

# Floats this much outside [0, 1] are rounding, of a resize say: clipped, and said.
TOLERANCE = 1e-5


class Arrays(NamedTuple):
    """What a source has read of one split, unchecked.

    Attributes:
      images: [n height width channels], [n height width] or [n features].
      labels: [n] or [n 1], integers or text.
      true_labels: likewise, or None where nothing is known of them.
      example_ids: text [n], or None.
      positions: int64 [n], where they stand in the source's split; None: 0 to n - 1.
      prefix: what the source puts before these names, for errors: "validation_".
      names: what the source calls the fields, for errors, where it is not prefix + name.
    """

    images: Any
    labels: Any
    true_labels: Any = None
    example_ids: Any = None
    positions: np.ndarray | None = None
    prefix: str = ""
    names: Mapping[str, str] = {}

    def called(self, field: str) -> str:
        """Returns what the source calls a field."""
        return self.names.get(field, self.prefix + field)


class Reading(NamedTuple):
    """How arrays are to be read.

    Attributes:
      where: begins every error: "config.dataset.path='own.npz'".
      scale: what images are divided by; 0: uint8 by 255 in the network, floats by nothing.
      layout: "HWC", "CHW", or "auto": HWC, unless it looks like CHW, which is an error then.
      standardize: "feature" lets [n features] be of any real scale.
    """

    where: str = "arrays"
    scale: float = 0.0
    layout: str = "auto"
    standardize: str = "scalar"


def make_dataset(
    name: str,
    train: Arrays,
    validation: Arrays | None,
    reading: Reading,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """Checks what a source has read.

    Args:
      name: what to call the data set.
      train: the training split.
      validation: the validation split, or None where the source has none.
      reading: how to read the images.
      class_names: of classes 0, 1, ...; None: the different training labels, if they are text, else
        their numbers.
      num_classes: stated by the source; None: by the names or the largest training label.
      notes: what the source itself has to say.

    Returns:
      A Dataset; its validation split is empty where there is none.

    Raises:
      InputError: one line that says what is wrong, and where.
    """
    where = reading.where
    given = [split for split in (train, validation) if split is not None]
    if class_names is not None:
        class_names = _checked_names(class_names, where)
    elif is_text(train.labels):
        others = {
            split.called(field): getattr(split, field)
            for split in given
            for field in ("labels", "true_labels")
        }
        class_names = names_of_text(train.labels, others, where, train.called("labels"))
    images, said = zip(*(_checked_images(split, reading) for split in given), strict=True)
    for split, checked in zip(given, images, strict=True):
        _check_lengths(split, len(checked), where)
    if len(given) == 2 and images[0].shape[1:] != images[1].shape[1:]:
        raise InputError(
            f"{where}: {given[1].called('images')} are {list(images[1].shape[1:])}, "
            f"but {train.called('images')} are {list(images[0].shape[1:])}"
        )
    if len(given) == 2 and images[0].dtype != images[1].dtype:
        images = tuple(_as_floats(one) for one in images)
    labels = [
        label_numbers(split.labels, class_names, where, split.called("labels")) for split in given
    ]
    if num_classes is None:
        num_classes = len(class_names) if class_names else int(labels[0].max()) + 1
    elif class_names is not None and len(class_names) != num_classes:
        raise InputError(f"{where}: {len(class_names)} class names but {num_classes} classes")
    if num_classes > 1 or labels[0].max() >= num_classes or labels[0].min() < 0:
        for split, numbers in zip(given, labels, strict=True):
            _check_classes(numbers, num_classes, f"{where}: {split.called('labels')}")
    _check_all_present(labels[0], num_classes, class_names, where)
    splits = [
        _split(split, images[place], labels[place], class_names, num_classes, where)
        for place, split in enumerate(given)
    ]
    if len(splits) == 1:
        splits.append(splits[0].take(np.arange(0)))
    names = tuple(class_names or map(str, range(num_classes)))
    notes = [*notes, *dict.fromkeys(note for one in said for note in one)]
    return Dataset(name, num_classes, names, splits[0], splits[1], tuple(notes))


def _split(
    given: Arrays,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str] | None,
    num_classes: int,
    where: str,
) -> Split:
    index = np.arange(len(labels), dtype=np.int64) if given.positions is None else given.positions
    true_labels = labels
    if given.true_labels is not None:
        what = given.called("true_labels")
        true_labels = label_numbers(given.true_labels, class_names, where, what)
        _check_classes(true_labels, num_classes, f"{where}: {what}")
    ids = None
    if given.example_ids is not None:
        ids = _checked_ids(given.example_ids, f"{where}: {given.called('example_ids')}")
    return Split(images, labels, index, true_labels, ids)  # type: ignore[arg-type]


def _check_lengths(given: Arrays, num_images: int, where: str) -> None:
    for field in ("labels", "true_labels", "example_ids"):
        values = getattr(given, field)
        if values is not None:
            check_length(values, num_images, given.called("images"), given.called(field), where)


def _checked_names(names: Sequence[str], where: str) -> list[str]:
    found = np.asarray(names)
    if found.ndim != 1 or not is_text(found):
        raise InputError(f"{where}: class_names must be a list of names, one for each class")
    text = list(label_text(found, where, "class_names"))
    if len(set(text)) < len(text):
        raise InputError(f"{where}: class_names must be different: {text[:5]}")
    return text


def _checked_ids(ids: Any, what: str) -> np.ndarray:
    text = [printable(str(one)) for one in np.asarray(ids, object)]
    if len(set(text)) < len(text):
        seen: set[str] = set()
        twice = next(one for one in text if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise InputError(f"{what}: {twice!r} stands there twice; each example needs its own")
    return np.array(text, object)


def _check_classes(labels: np.ndarray, num_classes: int, what: str) -> None:
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise InputError(f"{what}: {outside[0]} is outside the classes 0 to {num_classes - 1}")


def _check_all_present(
    labels: np.ndarray, num_classes: int, class_names: Sequence[str] | None, where: str
) -> None:
    present = np.unique(labels)
    if len(present) < num_classes:
        gaps = np.flatnonzero(present != np.arange(len(present)))
        empty = gaps[0] if len(gaps) else len(present)
        named = f" ({class_names[empty]})" if class_names else ""
        numbered = "" if class_names else "; classes count from 0, or are given as text"
        raise InputError(
            f"{where}: class {empty} of {num_classes} has no training example{named}{numbered}"
        )
    if num_classes < 2:
        one = f" ({class_names[0]})" if class_names else ""
        raise InputError(f"{where}: all examples are of one class{one}; at least two are needed")


def _checked_images(given: Arrays, reading: Reading) -> tuple[np.ndarray, list[str]]:
    """Returns [n height width channels] or [n features], and what there is to say of them."""
    name, what = given.called("images"), f"{reading.where}: {given.called('images')}"
    images = np.asarray(given.images)
    if images.dtype.kind not in "biuf":
        raise InputError(f"{what} are {images.dtype}; must be numbers, in one array")
    if images.ndim not in (2, 3, 4):
        raise InputError(
            f"{what} have shape {list(images.shape)}; must be [n height width channels], "
            "[n height width] or [n features]"
        )
    if images.size == 0:
        raise InputError(f"{what} have shape {list(images.shape)}; there must be an example")
    if images.ndim == 4:
        images = _channels_last(images, reading.layout, what)
    if images.dtype.kind == "f":
        _check_finite(images, what)
    if images.ndim == 2 and reading.standardize == "feature":
        return images.astype(np.float32 if images.dtype.itemsize <= 4 else np.float64), []
    images, notes = _in_unit_range(images, reading, what, name)
    return images.reshape(*images.shape, *(1,) * (images.ndim == 3)), notes


def _check_finite(images: np.ndarray, what: str) -> None:
    if np.isfinite(images.min()) and np.isfinite(images.max()):  # NaN if there is one
        return
    rows = np.flatnonzero(~np.isfinite(images.reshape(len(images), -1)).all(axis=1))
    raise InputError(
        f"{what} have NaN or infinite values, in {len(rows)} of {len(images)} examples "
        f"(the first is number {rows[0]})"
    )


def _channels_last(images: np.ndarray, layout: str, what: str) -> np.ndarray:
    _, second, third, last = images.shape
    if layout == "CHW":
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    if layout == "auto" and second <= 4 < last:
        raise InputError(
            f"{what} have shape {list(images.shape)}: read as height {second}, width {third} and "
            f"{last} channels, which they hardly are; set config.dataset.layout=CHW if channels "
            "come first, HWC if not"
        )
    return images


def _in_unit_range(
    images: np.ndarray, reading: Reading, what: str, name: str
) -> tuple[np.ndarray, list[str]]:
    """Returns uint8, or float32 in [0, 1]."""
    scale = reading.scale
    if images.dtype == np.uint8 and scale in (0, 255):
        notes = []
        if scale == 0 and images.max() <= 1:
            notes = [
                f"warning: {name} are uint8 and never pass 1, so that all are nearly black; if 1 "
                "is white, set config.dataset.scale=1"
            ]
        return images, notes
    low, high = images.min(), images.max()
    if scale == 0 and images.dtype.kind != "f":
        raise InputError(
            f"{what} are {images.dtype} in [{low:d}, {high:d}]; must be uint8, or floats in "
            f"[0, 1]; {_mend(float(low), float(high), images.ndim)}"
        )
    divisor = scale or 1.0
    low, high = float(low) / divisor, float(high) / divisor
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        scaled = f" after config.dataset.scale={scale:g}" if scale else ""
        raise InputError(
            f"{what} range over [{low:.9g}, {high:.9g}]{scaled}; floats must be in [0, 1] (by up "
            f"to {TOLERANCE:g}); {_mend(low * divisor, high * divisor, images.ndim)}"
        )
    if scale == 255 and images.dtype.kind != "f":
        return images.astype(np.uint8), []
    floats = images.astype(np.float32) if divisor == 1 else images / np.float32(divisor)
    floats = np.asarray(floats, np.float32)
    if low < 0 or high > 1:
        np.clip(floats, 0, 1, out=floats)
        return floats, [f"{name} reach {low:.9g} to {high:.9g}: clipped to [0, 1], as rounding"]
    return floats, []


def _mend(low: float, high: float, ndim: int) -> str:
    if ndim == 2:
        return "set config.dataset.standardize=feature for features of any scale"
    if low < 0:
        return "(images + 1) / 2, say" if low >= -1 and high <= 1 else "bring them there first"
    white = 1 if high <= 1 else 255 if high <= 255 else 65535 if high <= 65535 else round(high)
    return f"set config.dataset.scale={white:g}, or to whatever white is"


def _as_floats(images: np.ndarray) -> np.ndarray:
    return images / np.float32(255) if images.dtype == np.uint8 else images
