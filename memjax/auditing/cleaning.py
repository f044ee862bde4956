"""A cleaned copy of a data set, from decisions; the data themselves are never changed."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from etils import epath

from memjax.auditing.stages import save_arrays
from memjax.data.dataset import Dataset
from memjax.errors import InputError
from memjax.runtime.workdir import write_atomically

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


def read_decisions(path: epath.PathLike, table: pd.DataFrame, num_classes: int) -> pd.DataFrame:
    """Reads decisions.csv, as the report exports it.

    Args:
      path: with the columns index, decision (keep, relabel, drop) and, to relabel, new_label.
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
        given.append((index, *_decision(row, example, num_classes, where)))
    return pd.DataFrame(given, columns=["index", "decision", "new_label"])


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
      dataset: as loaded for the audit.
      cleaned: from `clean`.

    Returns:
      The path of the .npz file.

    Raises:
      InputError: if there is a cleaned copy already.
    """
    path = epath.Path(folder) / "cleaned.npz"
    if path.exists():
        raise InputError(f"{path}: is there already; delete it, or choose another --workdir")
    kept = cleaned.kept
    arrays = {"images": dataset.train.images[kept], "labels": cleaned.labels}
    if len(dataset.validation.labels):
        arrays |= {
            "validation_images": dataset.validation.images,
            "validation_labels": dataset.validation.labels,
        }
    listing = pd.DataFrame(
        {
            "index": dataset.train.index[kept],
            "example_id": [str(name) for name in dataset.train.example_ids[kept]],
            "label": cleaned.labels,
            "label_name": [str(dataset.class_names[label]) for label in cleaned.labels],
        }
    )
    text = listing.to_csv(index=False, lineterminator="\n")
    write_atomically(path.with_suffix(".csv"), lambda name: epath.Path(name).write_text(text))
    save_arrays(path, arrays)
    return path
