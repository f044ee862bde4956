"""From data frames, one a split, to a data set: pictures by path or bytes, or numbers."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import memjax.config as configuration
from memjax.data.checks import Arrays, Reading, make_dataset
from memjax.data.dataset import Dataset, in_words
from memjax.data.picture_sets import PictureSplit, picture_dataset
from memjax.data.pictures import Picture
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
      class_names: of integer labels; None: as in `make_dataset`.
      notes: of the source.
      facts: what bytes in the tables depend on; None: nothing is cached.

    Raises:
      InputError: one line that says what is wrong, and where.
    """
    frames = [train] if validation is None else [train, validation]
    notes = [*notes, columns.described()]
    first = train[columns.image].iloc[0] if columns.image and len(train) else None
    if isinstance(first, str | bytes | bytearray | dict):
        splits = [
            PictureSplit(
                _pictures(frame, columns, root, where),
                _labels(frame, columns.label, where),
                _labels(frame, columns.true_label, where) if columns.true_label else None,
            )
            for frame in frames
        ]
        held_split = splits[1] if len(splits) > 1 else None
        return picture_dataset(
            config, name, splits[0], held_split, where, class_names, notes, facts
        )
    arrays = [
        Arrays(
            _numbers(frame, columns, where),
            _labels(frame, columns.label, where),
            _labels(frame, columns.true_label, where) if columns.true_label else None,
            _ids(frame, columns) if columns.example_id else None,
            prefix="validation " if place else "",
            names={"images": "features"},
        )
        for place, frame in enumerate(frames)
    ]
    reading = Reading(where, config.scale, config.layout, config.standardize)
    held = arrays[1] if len(arrays) > 1 else None
    return make_dataset(name, arrays[0], held, reading, class_names, None, notes)


def _labels(frame: pd.DataFrame, column: str, where: str) -> np.ndarray:
    values = frame[column]
    if values.isna().any():
        row = values.index[int(values.isna().to_numpy().argmax())]
        count = int(values.isna().sum())
        raise InputError(f"{where}: column {column!r}: {count} labels are missing (row {row})")
    if pd.api.types.is_bool_dtype(values):
        values = values.astype(str)
    if pd.api.types.is_float_dtype(values) and (values == values.round()).all():
        values = values.astype(np.int64)
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy()
    return values.to_numpy(object)


def _ids(frame: pd.DataFrame, columns: Columns) -> list[str]:
    return [str(value) for value in frame[columns.example_id]]


def _pictures(
    frame: pd.DataFrame, columns: Columns, root: pathlib.Path | None, where: str
) -> list[Picture]:
    sources = [
        _source(value, root, f"{where}: column {columns.image!r}, row {row}")
        for row, value in frame[columns.image].items()
    ]
    if columns.example_id:
        ids = _ids(frame, columns)
    elif all(isinstance(value, str) for value in frame[columns.image]):
        ids = [str(value) for value in frame[columns.image]]
    else:
        ids = [str(n) for n in range(len(frame))]
    return [Picture(*pair) for pair in zip(ids, sources, strict=True)]


def _source(value: Any, root: pathlib.Path | None, what: str) -> pathlib.Path | bytes | str:
    if isinstance(value, dict):  # of the datasets package: {"bytes": ..., "path": ...}
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if not isinstance(value, str) or not value:
        return "missing"
    if "\0" in value:
        return "no name of a file"
    path = pathlib.Path(value)
    if root is None:
        return path
    path = root / path
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(
            f"{what}: {value!r} leaves the table's folder; paths must be relative to it, and in it"
        )
    return path


def _numbers(frame: pd.DataFrame, columns: Columns, where: str) -> np.ndarray:
    """Returns [n features] of columns of numbers, or of one column of lists."""
    if columns.image:
        try:
            return np.stack([np.asarray(list(row), np.float32) for row in frame[columns.image]])
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{where}: column {columns.image!r}: must hold paths, encoded images, or lists of "
                "numbers of one length"
            ) from error
    for column in columns.features:
        values = frame[column]
        if not pd.api.types.is_numeric_dtype(values):
            raise InputError(f"{where}: column {column!r}: holds text in one split only")
        if values.isna().any():
            row = values.index[int(values.isna().to_numpy().argmax())]
            count = int(values.isna().sum())
            raise InputError(
                f"{where}: column {column!r}: {count} values are missing (row {row}); fill them "
                "in, or leave the column or the rows out"
            )
    return frame[list(columns.features)].to_numpy(np.float64)
