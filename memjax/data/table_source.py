"""A CSV or Parquet table: pictures by path or bytes, or columns of numbers, with labels."""

import pathlib
from typing import Any

import pandas as pd
import pyarrow as pa

import memjax.config as configuration
from memjax.data.dataset import Dataset
from memjax.data.frames import KNOWN_NAMES, find_columns, frames_dataset
from memjax.data.picture_sets import choose_train, choose_validation
from memjax.errors import InputError

# Only an empty field is missing: a class may be called NA, None or null.
_CSV: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
_TEXT_FIELDS = ("split_column", "id_column")


def load_table(config: configuration.Dataset) -> Dataset:
    """Reads a table with a row for each example.

    Its columns are named in the config (`image_column`, `label_column`, `true_label_column`,
    `split_column`, `id_column`) or found by their names, and the run says which were. Images are
    paths relative to the table, encoded bytes (Parquet), or lists of numbers (Parquet); without
    such a column, all columns of numbers are features.

    Args:
      config: the dataset section: path, the columns, image_size, scale, standardize and cache_dir
        are used.

    Returns:
      A Dataset. The validation split is the rows whose split is `validation`, `val`, `valid`,
      `dev`, `test`, `testing`, `eval` or `evaluation`, the first that is there; empty without a
      column of splits. Integer labels that are not 0 to k - 1 are names of classes.

    Raises:
      InputError: if the file cannot be read, or its columns cannot be a data set.
    """
    where = f"config.dataset.path={config.path!r}"
    path = pathlib.Path(config.path).expanduser()
    frame = _read(path, config, where)
    if not len(frame):
        raise InputError(f"{where}: has no rows")
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise InputError(f"{where}: has two columns {twice!r}")
    columns = find_columns(config, frame, where)
    if path.suffix.lower() != ".parquet" and columns.features:
        _check_ignored(frame[list(columns.ignored)], where)
    notes = []
    train, validation = frame, None
    if columns.split:
        groups = {str(name): part for name, part in frame.groupby(columns.split, sort=False)}
        train_name, validation_name = choose_train(list(groups)), choose_validation(list(groups))
        if train_name is None:
            raise InputError(
                f"{where}: column {columns.split!r}: has no split train, but "
                f"{', '.join(groups) or 'nothing'}"
            )
        train = groups.pop(train_name)
        validation = groups.pop(validation_name) if validation_name else None
        left = sum(len(part) for part in groups.values())
        left += int(frame[columns.split].isna().sum())
        if left:
            named = f" ({', '.join(groups)})" if groups else ""
            notes = [f"{left:,} rows of other splits are not read{named}"]
    status = path.stat()
    facts = [f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"]
    return frames_dataset(
        config,
        path.stem,
        train,
        validation,
        columns,
        where,
        root=path.parent,
        notes=notes,
        facts=facts,
    )


def _read(path: pathlib.Path, config: configuration.Dataset, where: str) -> pd.DataFrame:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet"):
        raise InputError(f"{where}: must end in .csv, .tsv or .parquet")
    try:
        if suffix == ".parquet":
            frame = pd.read_parquet(path)
            frame.columns = frame.columns.map(str)
            return frame
        return _read_csv(path, "\t" if suffix == ".tsv" else ",", config)
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or error}") from error
    except (ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: cannot be read as {suffix[1:]} ({reason})") from error


def _read_csv(path: pathlib.Path, separator: str, config: configuration.Dataset) -> pd.DataFrame:
    # Pandas would call the second of two columns `label` label.1, and take it for another.
    header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, **_CSV)
    names = pd.read_csv(path, sep=separator, nrows=0).columns
    # Ids keep their leading zeros, and splits are never numbers.
    known = {name for field in _TEXT_FIELDS for name in KNOWN_NAMES[field]}
    known |= {getattr(config, field) for field in _TEXT_FIELDS}
    text = {name: str for name in names if name in known or name.lower() in known}
    frame = pd.read_csv(path, sep=separator, dtype=text, low_memory=False, **_CSV)
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(f"the rows have more fields than the first line, of {len(names)} names")
    pairs = zip(header.iloc[0], names, strict=True)
    written = [own if isinstance(own, str) else made for own, made in pairs]
    return frame.set_axis(written, axis=1)


def _check_ignored(frame: pd.DataFrame, where: str) -> None:
    """Raises InputError if a column is text only for a few values among numbers."""
    for column in frame.select_dtypes(exclude="number"):
        values = frame[column].dropna()
        is_text = pd.to_numeric(values, errors="coerce").isna()
        count = int(is_text.sum())
        if 0 < count < len(values) / 2:
            row = int(is_text.to_numpy().argmax())
            raise InputError(
                f"{where}: column {column!r}: {values.iloc[row]!r} is no number (row "
                f"{values.index[row]}), but most of its values are; fill in the {count} that are "
                "none, or leave the column or the rows out"
            )
