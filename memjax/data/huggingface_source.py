"""Data sets of the `datasets` package: saved on disk, or by their name on the hub."""

import pathlib
from typing import Any

import pandas as pd

import memjax.config as configuration
from memjax.data.dataset import Dataset, in_words
from memjax.data.frames import Columns, find_columns, frames_dataset
from memjax.data.picture_sets import choose_train, choose_validation
from memjax.errors import InputError


def load_huggingface(config: configuration.Dataset) -> Dataset:
    """Reads a data set of images, or of numbers, with labels.

    Args:
      config: the dataset section. path: a folder that `save_to_disk` wrote; or else name: `NAME` or
        `NAME:CONFIG` on the hub, of which nothing but data is ever read. Columns are named or found
        as in a table; the names of a ClassLabel are kept.

    Returns:
      A Dataset. The validation split is `validation`, `val`, `valid`, `dev`, `test`, `testing`,
      `eval` or `evaluation`, the first that is there; empty for a single split.

    Raises:
      InputError: if the package or the data set is missing, or it is no classification.
    """
    field = "path" if config.path else "name"
    where = f"config.dataset.{field}={getattr(config, field)!r}"
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            "config.dataset.source='huggingface': needs the package datasets; "
            "pip install 'memjax[huggingface]'"
        ) from error
    found = _load(datasets, config, where)
    splits = dict(found) if isinstance(found, dict) else {"train": found}
    train_name, validation_name = choose_train(list(splits)), choose_validation(list(splits))
    if train_name is None:
        raise InputError(f"{where}: has no split train, but {', '.join(splits)}")
    train = splits[train_name]
    validation = splits[validation_name] if validation_name else None
    others = [name for name in splits if name not in (train_name, validation_name)]
    notes = [f"splits that are not read: {in_words(others)}"] if others else []
    if not len(train):
        raise InputError(f"{where}: split {train_name} has no rows")
    frame = train.to_pandas()
    columns = find_columns(config, frame, where)
    label = train.features[columns.label]
    class_names = label.names if isinstance(label, datasets.ClassLabel) else None
    held = validation.to_pandas() if validation is not None else None
    if class_names is not None or not pd.api.types.is_numeric_dtype(frame[columns.label]):
        # Each column numbers its classes in its own order.
        frame = _with_names(datasets, frame, train.features, columns)
        if validation is not None:
            held = _with_names(datasets, held, validation.features, columns)
    return frames_dataset(
        config,
        pathlib.Path(config.path).name if config.path else config.name,
        frame,
        held,
        columns,
        where,
        class_names=class_names,
        notes=notes,
        facts=_facts(splits.values()),
    )


def _with_names(datasets: Any, frame: Any, features: Any, columns: Columns) -> Any:
    """Returns the table with the classes' names in place of their numbers."""
    named = {
        column: frame[column].map(dict(enumerate(features[column].names)))
        for column in (columns.label, columns.true_label)
        if isinstance(features.get(column), datasets.ClassLabel)
    }
    return frame.assign(**named)


def _load(datasets: Any, config: configuration.Dataset, where: str) -> Any:
    try:
        if config.path:
            return datasets.load_from_disk(str(pathlib.Path(config.path).expanduser()))
        name, _, variant = config.name.partition(":")
        return datasets.load_dataset(name, variant or None)
    except Exception as error:  # of the network, the hub, or files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{where}: {type(error).__name__}: {reason}") from error


def _facts(splits: Any) -> list[str] | None:
    """Returns what the bytes depend on: the files behind them, or None if there are none."""
    facts = []
    for split in splits:
        files = [pathlib.Path(file["filename"]) for file in split.cache_files]
        if not files:
            return None
        for file in files:
            status = file.stat()
            facts.append(f"{file.resolve()} {status.st_size} {status.st_mtime_ns} {len(split)}")
    return facts
