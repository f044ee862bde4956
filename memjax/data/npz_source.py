"""A user's own arrays from an .npz file, checked before anything is done with them."""

import pathlib
import zipfile
import zlib

import numpy as np

from memjax.data.dataset import Dataset, Split, make_split
from memjax.errors import InputError

_KEYS = ("images", "labels", "validation_images", "validation_labels", "num_classes")


def load_npz(path: str) -> Dataset:
    """Reads and checks the arrays of an .npz file.

    They are `images`, `labels` and, if there, `validation_images`, `validation_labels` and
    `num_classes`. Images are uint8, or floats in [0, 1]: [n height width channels],
    [n height width], or [n features], which become images one pixel wide, [n features 1 1]. Labels
    are integers from 0 to num_classes - 1; without `num_classes`, the largest training label is the
    last class. Every class needs a training example.

    Args:
      path: the file. Nothing in it is unpickled.

    Returns:
      A Dataset; its validation split is empty where the file has none.

    Raises:
      InputError: one line that says what is wrong with the file.
    """
    where = f"config.dataset.path={path!r}"
    arrays = _read(pathlib.Path(path).expanduser(), where)
    train = _split(arrays, "", where)
    num_classes = _num_classes(arrays, train, where)
    if {"validation_images", "validation_labels"} & arrays.keys():
        validation = _split(arrays, "validation_", where)
        _check_classes(validation.labels, num_classes, f"{where}: validation_labels")
        if validation.images.shape[1:] != train.images.shape[1:]:
            raise InputError(
                f"{where}: validation_images are {list(validation.images.shape[1:])}, "
                f"but images are {list(train.images.shape[1:])}"
            )
    else:
        validation = train.take(np.arange(0))
    names = tuple(str(label) for label in range(num_classes))
    return Dataset(pathlib.Path(path).stem, num_classes, names, train, validation)


def _read(path: pathlib.Path, where: str) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(f"{where}: not an .npz file; numpy.savez writes one")
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in _KEYS if key in stored.files}
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        # NumPy names neither the file nor the array.
        raise InputError(
            f"{where}: holds Python objects or damaged arrays; plain arrays are needed ({error})"
        ) from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{where}: damaged file ({error})") from error


def _split(arrays: dict[str, np.ndarray], prefix: str, where: str) -> Split:
    for key in (f"{prefix}images", f"{prefix}labels"):
        if key not in arrays:
            found = ", ".join(arrays) or "none of the known ones"
            raise InputError(f"{where}: has no array {key} (found: {found})")
    images, labels = arrays[f"{prefix}images"], arrays[f"{prefix}labels"]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"{where}: {prefix}labels are {labels.dtype} {list(labels.shape)}; must be integers [n]"
        )
    images = _checked_images(images, f"{where}: {prefix}images")
    if len(images) != len(labels):
        raise InputError(
            f"{where}: {len(images)} {prefix}images but {len(labels)} {prefix}labels; "
            "must be as many"
        )
    if labels.max() > np.iinfo(np.int32).max:
        raise InputError(f"{where}: {prefix}labels: {labels.max()} is too large for a class")
    return make_split(images, labels)


def _checked_images(images: np.ndarray, what: str) -> np.ndarray:
    if images.ndim not in (2, 3, 4):
        raise InputError(
            f"{what} have shape {list(images.shape)}; must be [n height width channels], "
            "[n height width] or [n features]"
        )
    if images.size == 0:
        raise InputError(f"{what} have shape {list(images.shape)}; there must be an example")
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            raise InputError(f"{what} are {images.dtype}; must be uint8, or floats in [0, 1]")
        low, high = images.min(), images.max()  # NaN if there is one
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(f"{what} have NaN or infinite values")
        if low < 0 or high > 1:
            raise InputError(f"{what} range over [{low:g}, {high:g}]; floats must be in [0, 1]")
        images = images.astype(np.float32)
    return images.reshape(*images.shape, *(1,) * (4 - images.ndim))


def _num_classes(arrays: dict[str, np.ndarray], train: Split, where: str) -> int:
    largest = int(train.labels.max())
    num_classes = largest + 1
    if "num_classes" in arrays:
        stated = arrays["num_classes"]
        if stated.ndim != 0 or not np.issubdtype(stated.dtype, np.integer) or stated < 1:
            raise InputError(f"{where}: num_classes must be one integer of at least 1")
        num_classes = int(stated)
    _check_classes(train.labels, num_classes, f"{where}: labels")
    present = np.unique(train.labels)
    if len(present) < num_classes:
        gaps = np.flatnonzero(present != np.arange(len(present)))
        empty = gaps[0] if len(gaps) else len(present)
        raise InputError(f"{where}: class {empty} of {num_classes} has no training example")
    return num_classes


def _check_classes(labels: np.ndarray, num_classes: int, what: str) -> None:
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if len(outside):
        raise InputError(f"{what}: {outside[0]} is outside the classes 0 to {num_classes - 1}")
