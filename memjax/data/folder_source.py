"""A folder of pictures, with a folder for each class."""

import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

import memjax.config as configuration
from memjax.data.dataset import Dataset, in_words, printable
from memjax.data.label_names import natural_order
from memjax.data.picture_sets import (
    VALIDATION_NAMES,
    PictureSplit,
    choose_train,
    choose_validation,
    picture_dataset,
)
from memjax.data.pictures import SUFFIXES, Picture
from memjax.errors import InputError

TRUE_LABELS = "true_labels.csv"


class _Listing(NamedTuple):
    """What was found below a folder.

    Attributes:
      files: class -> paths relative to the root, sorted.
      ignored: paths that are no pictures.
      links: paths that are links to elsewhere, and are not followed.
    """

    files: dict[str, list[str]]
    ignored: list[str]
    links: list[str]


def load_folder(config: configuration.Dataset) -> Dataset:
    """Reads `PATH/CLASS/*.png`, or `PATH/train/CLASS/*.png` beside `PATH/validation/CLASS/*.png`.

    Pictures are PNG, JPEG, WebP, BMP or PPM, at any depth below their class. The validation split
    is the folder `validation`, `val`, `valid`, `dev`, `test`, `testing`, `eval` or `evaluation`,
    the first that is there. Hidden files are ignored; broken files, and links that leave the
    folder, are left out and listed. A file `true_labels.csv` at the top, with the columns `path`
    and `true_label`, names the pictures that show another class than their folder says.

    Args:
      config: the dataset section: path, image_size and cache_dir are used.

    Returns:
      A Dataset. Classes are the folders' names, sorted; the ids are paths relative to PATH.

    Raises:
      InputError: if there is no such folder, or its pictures cannot be one data set.
    """
    where = f"config.dataset.path={config.path!r}"
    root = pathlib.Path(config.path).expanduser()
    if not root.is_dir():
        raise InputError(f"{where}: must be a folder with a folder for each class")
    folders = [entry.name for entry in _entries(root, where) if entry.is_dir()]
    train_name, validation_name = choose_train(folders), choose_validation(folders)
    if train_name is None:
        _check_no_splits(root, folders, where)
        validation_name, ignored = None, []
    else:
        others = [name for name in folders if name not in (train_name, validation_name)]
        if validation_name is None:
            _check_is_split(root, train_name, others, where)
        ignored = [f"{name}/" for name in others]
    train = _list(root, train_name or "", where)
    held = _list(root, validation_name, where) if validation_name else None
    listings = [train] if held is None else [train, held]
    top = [entry.name for entry in _entries(root, where) if not entry.is_dir()]
    ignored += [name for name in top if name != TRUE_LABELS]
    ignored += [path for listing in listings for path in listing.ignored]
    links = [path for listing in listings for path in listing.links]
    class_names = natural_order(train.files)
    true_labels = _true_labels(root, where)
    splits = [_split(root, listing, true_labels) for listing in listings]
    unused = set(true_labels) - {p.example_id for split in splits for p in split.pictures}
    if unused:
        raise InputError(f"{where}: {TRUE_LABELS}: {min(unused)!r} is no picture that is read")
    held_split = splits[1] if len(splits) > 1 else None
    notes = _notes(ignored, links)
    return picture_dataset(config, root.name, splits[0], held_split, where, class_names, notes)


def _entries(folder: pathlib.Path, where: str) -> list[os.DirEntry[str]]:
    """Returns what is in a folder, sorted, without hidden files."""
    try:
        with os.scandir(folder) as entries:
            found = [e for e in entries if not e.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise InputError(f"{where}: {printable(str(folder))}: {error.strerror}") from error
    return sorted(found, key=lambda entry: entry.name)


def _check_no_splits(root: pathlib.Path, folders: list[str], where: str) -> None:
    for name in folders:
        is_split = name.lower() in VALIDATION_NAMES
        if is_split and any(entry.is_dir() for entry in _entries(root / name, where)):
            raise InputError(
                f"{where}: has a folder {name} with classes in it but no folder train; must have "
                "a folder for each class, or train/CLASS beside validation/CLASS"
            )
    if not folders:
        raise InputError(
            f"{where}: has no folders in it; must have a folder for each class, or train/CLASS "
            "beside validation/CLASS"
        )


def _check_is_split(root: pathlib.Path, train: str, others: list[str], where: str) -> None:
    """Raises InputError if the folder `train` may as well be one of the classes."""
    classes = []
    for name in others:
        files = (file for _, _, found in os.walk(root / name) for file in found)
        if any(file.lower().endswith(SUFFIXES) for file in files):
            classes.append(name)
    if classes:
        raise InputError(
            f"{where}: has a folder {train} beside {in_words(classes)} with pictures: if {train} "
            "is a split, move the others elsewhere; if it is a class, move every class into one "
            f"new folder train (train/{train}, train/{classes[0]})"
        )


def _list(root: pathlib.Path, split: str, where: str) -> _Listing:
    listing = _Listing({}, [], [])
    resolved = root.resolve()
    for entry in _entries(root / split, where):
        path = f"{split}/{entry.name}" if split else entry.name
        if not entry.is_dir():
            if split:
                listing.ignored.append(path)
        elif entry.is_symlink():
            listing.links.append(path)
        else:
            files = sorted(_walk(root, path, resolved, listing, where))
            if not files:
                raise InputError(
                    f"{where}: the folder {printable(path)} holds no picture "
                    f"({', '.join(SUFFIXES)}); take it out, for each folder is a class"
                )
            listing.files[printable(entry.name)] = files
    if not listing.files:
        raise InputError(f"{where}: {split or 'it'} has no folder of a class in it")
    return listing


def _walk(
    root: pathlib.Path, folder: str, resolved: pathlib.Path, listing: _Listing, where: str
) -> Iterator[str]:
    for entry in _entries(root / folder, where):
        path = f"{folder}/{entry.name}"
        if entry.is_symlink() and (
            entry.is_dir() or not (root / path).resolve().is_relative_to(resolved)
        ):
            listing.links.append(path)
        elif entry.is_dir():
            yield from _walk(root, path, resolved, listing, where)
        elif entry.name.lower().endswith(SUFFIXES):
            yield path
        else:
            listing.ignored.append(path)


def _split(root: pathlib.Path, listing: _Listing, true_labels: dict[str, str]) -> PictureSplit:
    names = [name for name, files in listing.files.items() for _ in files]
    paths = [path for files in listing.files.values() for path in files]
    pictures = [Picture(printable(path), root / path) for path in paths]
    if not true_labels:
        return PictureSplit(pictures, np.array(names, object))
    truth = [
        true_labels.get(printable(path), name) for path, name in zip(paths, names, strict=True)
    ]
    return PictureSplit(pictures, np.array(names, object), np.array(truth, object))


def _true_labels(root: pathlib.Path, where: str) -> dict[str, str]:
    import pandas as pd

    if not (root / TRUE_LABELS).is_file():
        return {}
    try:
        table = pd.read_csv(root / TRUE_LABELS, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise InputError(f"{where}: {TRUE_LABELS}: {str(error).strip()}") from error
    if not {"path", "true_label"} <= set(table.columns):
        columns = ", ".join(map(str, table.columns))
        raise InputError(
            f"{where}: {TRUE_LABELS}: must have columns path, true_label; has {columns}"
        )
    twice = table["path"][table["path"].duplicated()]
    if len(twice):
        raise InputError(f"{where}: {TRUE_LABELS}: {twice.iloc[0]!r} stands there twice")
    return dict(zip(table["path"], table["true_label"], strict=True))


def _notes(ignored: list[str], links: list[str]) -> list[str]:
    ignored, links = [printable(path) for path in ignored], [printable(path) for path in links]
    notes = []
    if ignored:
        notes.append(f"ignored: {in_words(ignored)}")
    if links:
        notes.append(
            f"warning: links that leave the folder, or to folders, are left out: {in_words(links)}"
        )
    return notes
