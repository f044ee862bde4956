"""From data frames, one a split, to a data set: pictures by path or bytes, or numbers."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import memjax.config as configuration
from memjax.data.checks import Arrays, Reading, make_dataset
from memjax.data.dataset import Dataset, in_words
from memjax.data.frame_values import features_of, ids_of, labels_of, lists_of, pictures_of
from memjax.data.label_names import natural_order
from memjax.data.picture_sets import PictureSplit, picture_dataset
from memjax.errors import InputError

# What a column may be called to be found without being named in the config, in lower case.
KNOWN_NAMES = {
    "image_column": (
        "image", "images", "img", "path", "file", "file_name", "filename", "filepath", "image_path",
        "features", "embedding", "embeddings",
    ),
    "label_column": ("label", "labels", "class", "class_name", "target", "y"),
    "true_label_column": ("true_label", "true_labels", "clean_label", "clean_labels"),
    "split_column": ("split",),
    "id_column": ("example_id", "id", "key"),
}  # fmt: skip
_INDEX_NAMES = ("unnamed:", "__index_level_")  # what pandas writes for its own index


class Columns(NamedTuple):
    """Which columns of a table are what; empty where there is none.

    Attributes:
      image: of paths, of bytes, or of lists of numbers; empty: `features`.
      label: given labels.
      true_label: true labels.
      split: names of splits.
      example_id: ids.
      features: columns of numbers, where there is no `image`.
      ignored: all others.
    """

    image: str
    label: str
    true_label: str
    split: str
    example_id: str
    features: tuple[str, ...]
    ignored: tuple[str, ...]

    def described(self) -> str:
        """Returns one sentence that says which column is read as what."""
        count = len(self.features)
        read = [f"image from {self.image!r}"] if self.image else []
        read += [f"{count} features ({in_words(self.features)})"] if count else []
        named = {"label": self.label, "true label": self.true_label}
        named |= {"split": self.split, "id": self.example_id}
        read += [f"{what} from {column!r}" for what, column in named.items() if column]
        return f"columns read: {', '.join(read)}; ignored: {', '.join(self.ignored) or 'none'}"


def find_columns(config: configuration.Dataset, frame: pd.DataFrame, where: str) -> Columns:
    """Finds out which column is what: as the config says, or else by its name.

    Args:
      config: the dataset section, with the fields image_column, label_column and so on.
      frame: the table, or its first rows.
      where: begins an error.

    Raises:
      InputError: if a column is missing, or if two could be the same thing.
    """
    columns = [str(column) for column in frame.columns]
    chosen = {field: _find(config, field, columns, where) for field in KNOWN_NAMES}
    if not chosen["label_column"]:
        raise InputError(
            f"{where}: has no column label, but {in_words(columns, 8)}; set "
            "config.dataset.label_column to one"
        )
    twice = [c for c in chosen.values() if c and list(chosen.values()).count(c) > 1]
    if twice:
        raise InputError(f"{where}: column {twice[0]!r} cannot be two things at once")
    rest = [c for c in columns if c not in chosen.values()]
    features: tuple[str, ...] = ()
    if not chosen["image_column"]:
        features = tuple(
            column
            for column in rest
            if not column.lower().startswith(_INDEX_NAMES)
            and pd.api.types.is_numeric_dtype(frame[column])
        )
        if not features:
            raise InputError(
                f"{where}: has no column of images (of paths or bytes) and none of numbers, but "
                f"{in_words(columns, 8)}; set config.dataset.image_column to one"
            )
    ignored = tuple(column for column in rest if column not in features)
    return Columns(
        chosen["image_column"],
        chosen["label_column"],
        chosen["true_label_column"],
        chosen["split_column"],
        chosen["id_column"],
        features,
        ignored,
    )


def _find(config: configuration.Dataset, field: str, columns: Sequence[str], where: str) -> str:
    wanted = getattr(config, field)
    if wanted:
        if wanted not in columns:
            near = configuration.nearest(wanted, columns)
            raise InputError(f"config.dataset.{field}={wanted!r}: no such column; {near}")
        return wanted
    found = [column for column in columns if column.lower() in KNOWN_NAMES[field]]
    if len(found) > 1:
        raise InputError(
            f"{where}: the columns {' and '.join(found)} could each be meant; set "
            f"config.dataset.{field} to one"
        )
    return found[0] if found else ""


def frames_dataset(
    config: configuration.Dataset,
    name: str,
    train: pd.DataFrame,
    validation: pd.DataFrame | None,
    columns: Columns,
    where: str,
    *,
    root: pathlib.Path | None = None,
    class_names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    facts: Sequence[str] | None = (),
) -> Dataset:
    """Makes a data set of tables.

    Args:
      config: the dataset section.
      name: what to call the data set.
      train: a row for each training example.
      validation: likewise, or None.
      columns: from `find_columns`.
      where: begins every error.
      root: the folder that paths are relative to, and may not leave; None: paths are as they are.
      class_names: of integer labels; None: as in `make_dataset`, but integers that are not 0 to
        k - 1 are names.
      notes: of the source.
      facts: what bytes in the tables depend on; None: nothing is cached.

    Raises:
      InputError: one line that says what is wrong, and where.
    """
    frames = [train] if validation is None else [train, validation]
    for frame in frames[1:]:
        _check_has(frame, columns, where)
    notes = [*notes, columns.described()]
    labels: list[Any] = [labels_of(frame, columns.label, where) for frame in frames]
    true_labels: list[Any] = [
        labels_of(frame, columns.true_label, where) if columns.true_label else None
        for frame in frames
    ]
    if class_names is None and _are_names(labels[0]):
        names = in_words(natural_order(map(str, labels[0].tolist())))
        notes.append(f"labels that are not 0 to k - 1 are read as the names of classes: {names}")
        labels, true_labels = ([_as_names(one) for one in each] for each in (labels, true_labels))
    if columns.image and _holds_pictures(train[columns.image]):
        splits = [
            PictureSplit(
                pictures_of(frame, columns.image, columns.example_id, root, where), given, true
            )
            for frame, given, true in zip(frames, labels, true_labels, strict=True)
        ]
        held_split = splits[1] if len(splits) > 1 else None
        return picture_dataset(
            config, name, splits[0], held_split, where, class_names, notes, facts
        )
    arrays = [
        Arrays(
            lists_of(frame, columns.image, where)
            if columns.image
            else features_of(frame, columns.features, where),
            given,
            true,
            ids_of(frame, columns.example_id, where) if columns.example_id else None,
            prefix="validation " if place else "",
            names={"images": "features"},
        )
        for place, (frame, given, true) in enumerate(zip(frames, labels, true_labels, strict=True))
    ]
    reading = Reading(where, config.scale, config.layout, config.standardize)
    held = arrays[1] if len(arrays) > 1 else None
    return make_dataset(name, arrays[0], held, reading, class_names, None, notes)


def _holds_pictures(values: pd.Series) -> bool:
    """Returns whether a column is of paths or encoded images: its first value that is there."""
    found = values.dropna()
    return len(found) > 0 and isinstance(found.iloc[0], str | bytes | bytearray | dict)


def _check_has(frame: pd.DataFrame, columns: Columns, where: str) -> None:
    chosen = (columns.image, columns.label, columns.true_label, columns.example_id)
    for column in (*chosen, *columns.features):
        if column and column not in frame:
            raise InputError(
                f"{where}: the validation split has no column {column!r}, which is read in "
                f"training; it has {in_words([str(name) for name in frame], 8)}"
            )


def _are_names(labels: np.ndarray) -> bool:
    """Returns whether labels are integers, but not 0 to k - 1: 1 to k, say."""
    if labels.dtype.kind not in "iu":
        return False
    present = np.unique(labels)
    return not np.array_equal(present, np.arange(len(present)))


def _as_names(labels: Any) -> Any:
    is_number = labels is not None and labels.dtype.kind in "iu"
    return labels.astype(str).astype(object) if is_number else labels
