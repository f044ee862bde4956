"""A user's own arrays from an .npz file, in one of the layouts that are common."""

import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from memjax.data.checks import Arrays, Reading, make_dataset
from memjax.data.dataset import Dataset
from memjax.data.label_names import as_array
from memjax.errors import InputError

_FIELDS = ("images", "labels", "true_labels", "example_ids")
_WHOLE = ("num_classes", "class_names")


def _prefixed(train: str, *others: str) -> dict[str, dict[str, str]]:
    return {prefix: {field: prefix + field for field in _FIELDS} for prefix in (train, *others)}


# For each layout, split by split (training first, then what can be the validation split, best
# first), what the fields are called. Features are images of one axis.
LAYOUTS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "memjax": _prefixed("", "validation_"),
    "MedMNIST": _prefixed("train_", "val_", "test_"),
    "Keras": {
        f"_{split}": {
            "images": f"x_{split}",
            "labels": f"y_{split}",
            "true_labels": f"{prefix}true_labels",
            "example_ids": f"{prefix}example_ids",
        }
        for split, prefix in (("train", ""), ("val", "validation_"), ("test", "validation_"))
    },
    "features": {
        prefix: {"images": f"{prefix}features"}
        | {field: prefix + field for field in _FIELDS if field != "images"}
        for prefix in ("", "validation_")
    },
}


def load_npz(path: str, reading: Reading | None = None) -> Dataset:
    """Reads and checks the arrays of an .npz file.

    They are `images` (or `features`) and `labels`, optionally `true_labels` and `example_ids`, the
    same with `validation_` before them, `num_classes` and `class_names`; or `train_images`,
    `val_images`, `test_images` and so on (MedMNIST), or `x_train`, `y_train`, `x_test`, `y_test`
    (Keras, with `true_labels` and so on as above). What each must be is said in
    `memjax.data.checks`. Where there is a validation and a test split, the test split is not read.

    Args:
      path: the file. Nothing in it is unpickled.
      reading: scale, layout and standardisation; None: the defaults.

    Returns:
      A Dataset; its validation split is empty where the file has none.

    Raises:
      InputError: one line that says what is wrong with the file.
    """
    where = f"config.dataset.path={path!r}"
    reading = (reading or Reading())._replace(where=where)
    file = pathlib.Path(path).expanduser()
    return arrays_dataset(file.stem, _read(file, where), reading)


def arrays_dataset(name: str, arrays: Mapping[str, Any], reading: Reading) -> Dataset:
    """Makes a data set of named arrays, in one of `LAYOUTS`.

    Args:
      name: what to call it.
      arrays: by name; every one must be of the layout.
      reading: how to read them, and where they come from.

    Raises:
      InputError: if names are missing or unknown, with all that are there; or arrays unsound.
    """
    layout = LAYOUTS[_layout(arrays, reading.where)]
    _check_names(arrays, layout, reading.where)
    arrays = {name: as_array(value, f"{reading.where}: {name}") for name, value in arrays.items()}
    splits = list(layout)
    # Keras' splits share the names of true labels and ids: images and labels tell them apart.
    found = [
        split
        for fields in (("images", "labels"), _FIELDS)
        for split in splits[1:]
        if any(layout[split][field] in arrays for field in fields)
    ][:1]
    train = _arrays(arrays, layout, splits[0], reading.where)
    validation = _arrays(arrays, layout, found[0], reading.where) if found else None
    used = {name for split in (splits[0], *found) for name in layout[split].values()} | {*_WHOLE}
    ignored = [name for name in arrays if name not in used]
    read = [
        f"{name} {value.dtype} {list(value.shape)}"
        for name, value in arrays.items()
        if name not in ignored
    ]
    note = f"arrays read: {', '.join(read)}; ignored: {', '.join(ignored) or 'none'}"
    return make_dataset(
        name,
        train,
        validation,
        reading,
        arrays.get("class_names"),
        _num_classes(arrays, reading.where),
        [note],
    )


def _layout(arrays: Mapping[str, Any], where: str) -> str:
    for name, layout in LAYOUTS.items():
        if next(iter(layout.values()))["images"] in arrays:
            return name
    found = ", ".join(arrays) or "nothing"
    raise InputError(
        f"{where}: has no array images (found: {found}); write numpy.savez(PATH, images=..., "
        "labels=...), or x_train, y_train, or train_images, train_labels"
    )


def _check_names(
    arrays: Mapping[str, Any], layout: Mapping[str, Mapping[str, str]], where: str
) -> None:
    known = {name for fields in layout.values() for name in fields.values()} | set(_WHOLE)
    unknown = [name for name in arrays if name not in known]
    if unknown:
        allowed = sorted(name for name in known if name not in arrays)
        raise InputError(
            f"{where}: unknown arrays {', '.join(unknown)} beside "
            f"{', '.join(name for name in arrays if name in known)}; leave them out, or rename "
            f"them to what they are: {', '.join(allowed)}"
        )


def _arrays(
    arrays: Mapping[str, Any], layout: Mapping[str, Mapping[str, str]], split: str, where: str
) -> Arrays:
    names = layout[split]
    for field in ("images", "labels"):
        if names[field] not in arrays:
            found = ", ".join(arrays)
            raise InputError(f"{where}: has no array {names[field]} (found: {found})")
    fields = {field: arrays[name] for field, name in names.items() if name in arrays}
    return Arrays(**fields, names=names)


def _num_classes(arrays: Mapping[str, Any], where: str) -> int | None:
    if "num_classes" not in arrays:
        return None
    stated = np.asarray(arrays["num_classes"])
    if stated.ndim != 0 or not np.issubdtype(stated.dtype, np.integer) or stated < 1:
        raise InputError(f"{where}: num_classes must be one integer of at least 1")
    return int(stated)


def _read(path: pathlib.Path, where: str) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(f"{where}: not an .npz file; numpy.savez writes one")
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or error}") from error
    except MemoryError as error:  # or a header that says what is not there
        raise InputError(f"{where}: does not fit into memory ({error})") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        # NumPy names neither the file nor the array.
        raise InputError(
            f"{where}: holds Python objects or damaged arrays; plain arrays are needed ({error})"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{where}: damaged file ({error})") from error
