"""Labels as numbers, whatever a source has: integers of any width, or the classes' names."""

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from memjax.data.dataset import printable
from memjax.errors import InputError


def as_array(values: Any, what: str) -> np.ndarray:
    """Returns values of any library as an array; text among numbers stays what it is.

    Args:
      values: an array, or nested lists.
      what: begins the error.

    Raises:
      InputError: if lists are of several lengths.
    """
    has_text = isinstance(values, list | tuple) and any(isinstance(v, str) for v in values)
    try:
        return np.asarray(values, object) if has_text else np.asarray(values)
    except ValueError as error:
        raise InputError(f"{what}: must be one array; the lists in it differ in length") from error


def natural_order(names: Iterable[str]) -> list[str]:
    """Returns the different names, sorted: as numbers if all are whole numbers, else as text.

    Example:
      >>> natural_order(["10", "9", "10"]), natural_order(["dog", "cat"])
      (['9', '10'], ['cat', 'dog'])
    """
    found = sorted(set(names))
    if all(name.isascii() and name.isdigit() for name in found):
        found.sort(key=int)
    return found


def plain_labels(labels: Any) -> np.ndarray:
    """Returns labels as an array, of integers if they are Python's integers in an array of objects.

    Example:
      >>> plain_labels(np.array([0, 1], object)).dtype.kind, plain_labels(["a"]).dtype.kind
      ('i', 'U')
    """
    values = np.asarray(labels)
    if values.dtype == object and values.size:
        found = values.reshape(-1).tolist()
        if all(isinstance(one, numbers.Integral) and not isinstance(one, bool) for one in found):
            return np.asarray(values.tolist())
    return values


def is_text(labels: Any) -> bool:
    """Returns whether labels are names; what is neither text nor a number counts as such."""
    return bool(plain_labels(labels).dtype.kind in "USOT")


def names_of_text(labels: Any, others: Mapping[str, Any], where: str, what: str) -> list[str]:
    """Returns the classes that stand in training labels that are text, in their order.

    Args:
      labels: the training labels.
      others: the other labels of the data set, by what the source calls them; some may be None.
      where: begins the error.
      what: what the source calls the training labels.

    Raises:
      InputError: if others are integers: the place of a name in its order was never stated.
    """
    names = natural_order(label_text(labels, where, what))
    for name, values in others.items():
        if values is not None and plain_labels(values).dtype.kind in "iu":
            raise InputError(
                f"{where}: {name} are integers, but the training labels are text; must be text as "
                "well"
            )
    return names


def label_text(labels: Any, where: str, what: str) -> list[str]:
    """Returns labels that are text as a list of str.

    Args:
      labels: [n] or [n 1], of text; bytes are UTF-8.
      where: begins the error.
      what: what the source calls them.

    Raises:
      InputError: if one is missing, empty, or no text.
    """
    values = np.asarray(labels)
    text = []
    for position, value in enumerate(values.reshape(-1).tolist()):
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        if isinstance(value, list | tuple | np.ndarray):
            raise InputError(
                f"{where}: {what}: number {position} holds {len(value)} values; must be one "
                "integer or text each; of one-hot rows take the argmax"
            )
        is_nan = isinstance(value, float) and value != value
        if value is None or is_nan or (isinstance(value, str) and not value):
            raise InputError(f"{where}: {what}: number {position} is missing")
        if not isinstance(value, str):
            raise InputError(
                f"{where}: {what}: number {position} is {value!r}; must be all integers or all text"
            )
        text.append(printable(value))
    return text


def label_numbers(
    labels: Any, class_names: Sequence[str] | None, where: str, what: str
) -> np.ndarray:
    """Returns labels as numbers of their classes.

    Args:
      labels: [n] or [n 1], integers or text.
      class_names: what text stands for, by its place in here.
      where: begins the error.
      what: what the source calls the labels.

    Returns:
      int32 [n]. Integers are not checked against the classes.

    Raises:
      InputError: if they are of another type or shape, or no class has that name.

    Example:
      >>> label_numbers(np.array([["dog"], ["cat"]]), ["cat", "dog"], "x", "labels").tolist()
      [1, 0]
    """
    values = plain_labels(labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "iuUSOT":
        hint = "; of one-hot rows take the argmax" if values.ndim == 2 else ""
        raise InputError(
            f"{where}: {what} are {values.dtype} {list(values.shape)}; must be integers or text "
            f"[n]{hint}"
        )
    if values.dtype.kind in "iu":
        if len(values) and (outside := values[abs(values.astype(np.float64)) > 2**31 - 1]).size:
            raise InputError(f"{where}: {what}: {outside[0]} is too large for a class")
        return values.astype(np.int32)
    text = label_text(values, where, what)
    if class_names is None:
        raise InputError(f"{where}: {what} are text, but the training labels are integers")
    number = {name: place for place, name in enumerate(class_names)}
    for name in dict.fromkeys(text):
        if name not in number:
            raise InputError(f"{where}: {what}: {name!r} is no class of the training labels")
    return np.array([number[name] for name in text], np.int32)


def check_length(values: Any, count: int, images: str, what: str, where: str) -> None:
    """Raises InputError unless there are as many values as images."""
    found = np.shape(values)[0] if np.ndim(values) else 0
    if found != count:
        raise InputError(f"{where}: {count} {images} but {found} {what}; must be as many")
