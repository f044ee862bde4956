"""An audit of arrays, from a notebook."""

import numbers
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from memjax.auditing.request import Request
from memjax.auditing.run import audit
from memjax.auditing.stages import holds_arrays, save_arrays
from memjax.errors import InputError


def audit_labels(
    images: np.ndarray,
    labels: Sequence,
    *,
    effort: str = "standard",
    workdir: epath.PathLike | None = None,
    pred_probs: np.ndarray | None = None,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Says which labels are wrong: the table of `python -m memjax.audit`, as a data frame.

    Args:
      images: [n height width channels], uint8 or float in [0, 1]; or [n features], any scale.
      labels: [n], integers or strings.
      effort: 'quick', 'standard' or 'thorough'.
      workdir: keeps everything, the report too, and resumes; None: nothing is kept.
      pred_probs: [n classes], out-of-sample probabilities of your own model; nothing is trained.
        Classes are in order: of integers 0, 1, ...; of strings as they are sorted.
      say: shows a line to the user.

    Returns:
      A row per example, in order: index, label, suggested_label, suggested_probability,
      probability_wrong, rank, issue, why, example_id, label_name, suggested_name, and the scores.

    Raises:
      InputError: if the arrays cannot be audited.
    """
    if effort not in ("quick", "standard", "thorough"):
        raise InputError(f"effort={effort!r}: must be quick, standard or thorough")
    with tempfile.TemporaryDirectory() as nothing:
        folder = epath.Path(workdir or nothing)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"images": _numbers(images, "images"), "labels": savable_labels(labels)}
        probabilities = None if pred_probs is None else _numbers(pred_probs, "pred_probs")
        _keep(folder, arrays, probabilities)
        request = Request(
            data=str(folder / "data.npz"),
            effort=effort,
            pred_probs="" if pred_probs is None else str(folder / "pred_probs.npy"),
        )
        return audit(request, folder, say).table


def _keep(
    folder: epath.Path, arrays: dict[str, np.ndarray], probabilities: np.ndarray | None
) -> None:
    """Writes the arrays where `audit` reads them; nothing where another audit is."""
    data, given = folder / "data.npz", folder / "pred_probs.npy"
    if not (folder / "config.json").exists():
        save_arrays(data, arrays)
        if probabilities is not None:
            np.save(given, probabilities)
        return
    is_same = data.exists() and holds_arrays(data, arrays)
    if is_same and given.exists() and probabilities is not None:
        is_same = np.array_equal(np.load(given), probabilities)
    elif is_same:
        is_same = given.exists() == (probabilities is not None)
    if not is_same:
        raise InputError(
            f"workdir={str(folder)!r}: holds an audit of other arrays; choose another workdir, or "
            "delete that one"
        )


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name}: must be one array; the parts differ in shape") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name}: has type {array.dtype}; must be an array of numbers")
    return array


def savable_labels(labels: Any) -> np.ndarray:
    """Returns labels of any library as an array that can be saved without pickling it.

    Args:
      labels: [n], integers or text: a list, an array, a column of a data frame.

    Raises:
      InputError: if one is neither.

    Example:
      >>> savable_labels(pd.Series(["cat", "dog"])).dtype.kind, savable_labels([0, 1]).dtype.kind
      ('U', 'i')
    """
    array = np.asarray(labels)
    if array.dtype.kind in "biufUS":
        return array
    for place, value in enumerate(array.tolist()):
        if not isinstance(value, str | numbers.Integral):
            raise InputError(
                f"labels: number {place} is {value!r}; must be integers or strings, one an example"
            )
    is_text = any(isinstance(value, str) for value in array.tolist())
    return array.astype(str if is_text else np.int64)
