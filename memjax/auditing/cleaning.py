"""A cleaned copy of a data set, from decisions; the data themselves are never changed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from etils import epath

from memjax.auditing.files import safe_cell, write_csv
from memjax.auditing.stages import save_arrays
from memjax.data.dataset import Dataset, Split
from memjax.errors import InputError

DECISIONS = ("keep", "relabel", "drop")


class Cleaned(NamedTuple):
    """What the decisions make of the training split.

    Attributes:
      kept: int [m], positions in the training split.
      labels: int [m], theirs now.
      num_relabelled: of them.
      num_dropped: examples left out.
    """

    kept: np.ndarray
    labels: np.ndarray
    num_relabelled: int
    num_dropped: int


def check_unchanged(
    table: pd.DataFrame, dataset: Dataset, checksums: Sequence[int | None], where: str
) -> None:
    """Checks that data are still those that were audited.

    Args:
      table: audit.parquet.
      dataset: as loaded now.
      checksums: of the training and the validation split, as audited; None by an older memjax.
      where: begins the error.

    Raises:
      InputError: if they are not, with the first difference.
    """
    train, found = dataset.train, ""
    now = {
        "index": train.index,
        "example_id": np.array([str(name) for name in train.example_ids], object),
        "label": train.labels,
    }
    if len(train) != len(table):
        found = f"{len(table):,} training examples then, {len(train):,} now"
    for name, values in now.items() if not found else ():
        is_other = table[name].to_numpy() != values
        if is_other.any():
            place = int(is_other.argmax())
            then = table[name].iloc[place]
            found = f"{name} {then!s} then, {values[place]!s} now, in row {place} of audit.parquet"
            break
    pairs = zip(checksums, (train.checksum, dataset.validation.checksum), strict=True)
    if not found and any(then not in (None, here) for then, here in pairs):
        found = "other pixels or labels"
    if found:
        raise InputError(
            f"{where}: the data have changed since the audit ({found}); audit them anew, in "
            "another --workdir"
        )


def read_decisions(path: epath.PathLike, table: pd.DataFrame, num_classes: int) -> pd.DataFrame:
    """Reads decisions.csv, as the report exports it.

    Args:
      path: with the columns index, decision (keep, relabel, drop) and, to relabel, new_label; an
        example_id that is there must be that of the index.
      table: audit.parquet, whose suggestion counts where new_label is empty.
      num_classes: of the data.

    Returns:
      index, decision, new_label (the label as given unless relabelled); one row per example.

    Raises:
      InputError: if a column, an index, a decision or a label is not as it must be.
    """
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--apply={path}: not readable as CSV ({error})") from None
    for name in ("index", "decision"):
        if name not in rows:
            raise InputError(f"--apply={path}: no column {name!r}; has {', '.join(map(str, rows))}")
    by_index = table.set_index("index")
    given: list[tuple[int, str, int]] = []
    found: dict[int, int] = {}
    for line, cells in enumerate(rows.to_dict("records"), start=2):
        row = {str(name): str(cell) for name, cell in cells.items()}
        where = f"--apply={path}, line {line}"
        index = _integer(row["index"], where, "index")
        if index not in by_index.index:
            raise InputError(f"{where}: index {index}: no such training example")
        if index in found:
            raise InputError(f"{where}: index {index}: decided in line {found[index]} too")
        found[index] = line
        example = by_index.loc[index]
        assert isinstance(example, pd.Series)
        _check_id(row.get("example_id", ""), str(example["example_id"]), index, where)
        given.append((index, *_decision(row, example, num_classes, where)))
    return pd.DataFrame(given, columns=["index", "decision", "new_label"])


def _check_id(given: str, audited: str, index: int, where: str) -> None:
    """Raises InputError for decisions of another audit; ids that were not exported are not seen."""
    if given and given not in (audited, safe_cell(audited)):
        raise InputError(
            f"{where}: example_id {given!r}: index {index} is {audited!r} in this audit; these are "
            "decisions of another one"
        )


def _decision(
    row: dict[str, str], example: pd.Series, num_classes: int, where: str
) -> tuple[str, int]:
    decision = row["decision"].strip().lower()
    if decision not in DECISIONS:
        raise InputError(
            f"{where}: decision {row['decision']!r}: must be one of {', '.join(DECISIONS)}"
        )
    if decision != "relabel":
        return decision, int(example["label"])
    text = row.get("new_label", "").strip()
    label = _integer(text, where, "new_label") if text else int(example["suggested_label"])
    if not 0 <= label < num_classes:
        raise InputError(f"{where}: new_label {label}: must be from 0 to {num_classes - 1}")
    return decision, label


def _integer(text: str, where: str, name: str) -> int:
    if not text.strip().isdecimal():
        raise InputError(f"{where}: {name} {text!r}: must be a whole number")
    return int(text)


def clean(dataset: Dataset, decisions: pd.DataFrame) -> Cleaned:
    """Returns what the decisions leave of the training split.

    Args:
      dataset: as loaded for the audit.
      decisions: from `read_decisions`.

    Raises:
      InputError: if a class would be left without an example.
    """
    labels = dataset.train.labels.copy()
    place = {int(index): position for position, index in enumerate(dataset.train.index)}
    is_kept = np.ones(len(labels), bool)
    changed = 0
    columns = (decisions[name] for name in ("index", "decision", "new_label"))
    for index, decision, new_label in zip(*columns, strict=True):
        position = place[int(index)]
        is_kept[position] = decision != "drop"
        changed += decision == "relabel" and labels[position] != new_label
        labels[position] = new_label
    kept = np.flatnonzero(is_kept)
    lost = np.setdiff1d(np.unique(dataset.train.labels), np.unique(labels[kept]))
    if len(lost):
        name = dataset.class_names[lost[0]]
        raise InputError(f"--apply: class {name} would be left without an example")
    return Cleaned(kept, labels[kept], int(changed), int((~is_kept).sum()))


def write_clean_copy(folder: epath.PathLike, dataset: Dataset, cleaned: Cleaned) -> epath.Path:
    """Writes cleaned.npz, which `dataset.source=npz` reads, and cleaned.csv with ids and labels.

    Args:
      folder: where; made if it is not there.
      dataset: as loaded for the audit, features as the source has them.
      cleaned: from `clean`.

    Returns:
      The path of the .npz file.

    Raises:
      InputError: if there is a cleaned copy already.
    """
    path = epath.Path(folder) / "cleaned.npz"
    if path.exists():
        raise InputError(f"{path}: is there already; delete it, or choose another --workdir")
    kept = dataset.train.take(cleaned.kept)
    arrays = _arrays(kept, "") | {
        "labels": cleaned.labels,
        "class_names": np.array([str(name) for name in dataset.class_names]),
    }
    if len(dataset.validation):
        arrays |= _arrays(dataset.validation, "validation_")
    listing = pd.DataFrame(
        {
            "index": kept.index,
            "example_id": arrays["example_ids"],
            "label": cleaned.labels,
            "label_name": arrays["class_names"][cleaned.labels],
        }
    )
    write_csv(path.with_suffix(".csv"), listing)
    save_arrays(path, arrays)
    return path


def _arrays(split: Split, prefix: str) -> dict[str, np.ndarray]:
    """Returns a split as a .npz file has it; true labels where the source knows others."""
    arrays = {
        "images": split.images,
        "labels": split.labels,
        "example_ids": np.array([str(name) for name in split.example_ids]),
    }
    if (split.true_labels != split.labels).any():
        arrays["true_labels"] = split.true_labels
    return {prefix + name: values for name, values in arrays.items()}
