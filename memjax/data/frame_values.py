"""The columns of a data frame as labels, ids, pictures or numbers; what is missing is an error."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from memjax.data.pictures import Picture
from memjax.errors import InputError

_LARGEST = 2**31  # numbers from here on are no classes


def labels_of(frame: pd.DataFrame, column: str, where: str) -> np.ndarray:
    """Returns [n] integers, where all are whole numbers; else what stands there.

    Raises:
      InputError: if a label is missing, infinite, or far too large for a class.
    """
    values, what = frame[column], f"{where}: column {column!r}"
    _check_complete(values, what, "labels")
    if pd.api.types.is_bool_dtype(values):
        values = values.astype(str)
    if pd.api.types.is_float_dtype(values):
        is_beyond = ~(values.abs() < _LARGEST).to_numpy(bool)
        if is_beyond.any():
            row = int(is_beyond.argmax())
            raise InputError(
                f"{what}: {values.iloc[row]} is no class (row {values.index[row]}); labels must be "
                "whole numbers or text"
            )
        if (values == values.round()).all():
            values = values.astype(np.int64)
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy()
    return values.to_numpy(object)


def ids_of(frame: pd.DataFrame, column: str, where: str) -> list[str]:
    """Returns [n] ids.

    Raises:
      InputError: if one is missing.
    """
    values = frame[column]
    hint = "; each example needs its own"
    _check_complete(values, f"{where}: column {column!r}", "ids", hint)
    return [str(value) for value in values]


def pictures_of(
    frame: pd.DataFrame, column: str, id_column: str, root: pathlib.Path | None, where: str
) -> list[Picture]:
    """Returns [n] pictures; without ids a path is its own id, and other pictures are numbered.

    Args:
      frame: a row for each.
      column: of paths or bytes.
      id_column: of ids, or empty.
      root: the folder that paths are relative to, and may not leave; None: paths are as they are.
      where: begins an error.

    Raises:
      InputError: if a path leaves the folder, or an id is missing.
    """
    values = frame[column]
    sources = [
        _source(value, root, f"{where}: column {column!r}, row {row}")
        for row, value in values.items()
    ]
    if id_column:
        ids = ids_of(frame, id_column, where)
    else:
        ids = [value if isinstance(value, str) else str(n) for n, value in enumerate(values)]
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


def lists_of(frame: pd.DataFrame, column: str, where: str) -> np.ndarray:
    """Returns [n ...], float32, of a column of lists of numbers, which may be nested.

    Raises:
      InputError: if they are none, or of several lengths.
    """
    try:
        return np.stack([_stacked(list(row)) for row in frame[column]])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where}: column {column!r}: must hold paths, encoded images, or lists of numbers of "
            "one length"
        ) from error


def _stacked(values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype == object:  # arrow gives lists of lists as arrays of arrays
        return np.stack([_stacked(list(value)) for value in values])
    return array.astype(np.float32)


def features_of(frame: pd.DataFrame, columns: Sequence[str], where: str) -> np.ndarray:
    """Returns [n features], float64, of columns of numbers.

    Raises:
      InputError: if one holds text, or a value is missing.
    """
    for column in columns:
        values, what = frame[column], f"{where}: column {column!r}"
        if not pd.api.types.is_numeric_dtype(values):
            raise InputError(f"{what}: holds text in one split only")
        hint = "; fill them in, or leave the column or the rows out"
        _check_complete(values, what, "values", hint)
    return frame[list(columns)].to_numpy(np.float64)


def _check_complete(values: pd.Series, what: str, names: str, hint: str = "") -> None:
    is_missing = values.isna().to_numpy()
    if is_missing.any():
        row = values.index[int(is_missing.argmax())]
        raise InputError(f"{what}: {is_missing.sum()} {names} are missing (row {row}){hint}")
