"""Whether the networks of a figure fit what they trained on, and the gate of claims about such.

A claim about networks that fit something says nothing of networks that do not. Every figure's table
has, for every network, how far it got: its final training accuracy, its number of updates, and how
far its parameters went from where they began.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd

from memjax.experiments.rows import of_kind, select

FITTED = 0.99  # of what they trained on, by the protocol
COLUMNS = {
    "final_train_accuracy": "share of its training examples right at the end, labels as trained on",
    "num_updates": "updates that the network was trained for",
    "distance": "from the initial parameters to the last, over the norm of the initial ones; nan "
    "where the parameters were not kept",
}


def distance_from_start(initial: Any, last: Any) -> np.ndarray:
    """Returns the norm of what changed over the norm of the initial parameters.

    Args:
      initial: pytree of arrays with a leading member axis, before training.
      last: the same, after.

    Returns:
      [members].

    Example:
      >>> distance_from_start({"w": np.ones((2, 4))}, {"w": np.array([[1.0] * 4, [2.0] * 4])})
      array([0., 1.])
    """

    def squares(leaves: list[Any]) -> np.ndarray:
        flat = [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in leaves]
        return np.sum([np.square(part).sum(axis=1) for part in flat], axis=0)

    first, end = jax.tree.leaves(initial), jax.tree.leaves(last)
    moved = [
        np.asarray(e, np.float64) - np.asarray(f, np.float64)
        for f, e in zip(first, end, strict=True)
    ]
    return np.sqrt(squares(moved) / squares(first))


def with_fit(table: pd.DataFrame, fit: pd.DataFrame, **names: str) -> pd.DataFrame:
    """Returns a figure's table with the columns of this module.

    Args:
      table: of a figure.
      fit: `StudyRuns.fit`: a row for each network.
      **names: factor -> what the table calls it.
    """
    fit = fit.rename(columns=names)
    shared = [name for name in fit.columns if name in table.columns and name not in COLUMNS]
    return table.merge(fit[[*shared, *COLUMNS]], on=shared, how="left", validate="many_to_one")


def without_distance(rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the last rows of a sweep's results with the columns of this module; no distance."""
    return rows.assign(
        final_train_accuracy=rows["train_accuracy"], num_updates=rows["step"], distance=np.nan
    )


def gate(**wanted: Any) -> Callable[[pd.DataFrame], str]:
    """Returns a claim's gate: the networks of the wanted rows fit what they trained on.

    Args:
      **wanted: column -> value of the rows that the claim is about; none: all.
    """

    def closed(table: pd.DataFrame) -> str:
        lowest = float(select(table, **wanted)["final_train_accuracy"].min())
        if lowest >= FITTED:
            return ""
        which = ", ".join(f"{name} {value}" for name, value in wanted.items())
        return (
            f"the networks{f' ({which})' if which else ''} do not fit what they trained on: "
            f"{lowest:.1%} at the lowest, {FITTED:.0%} are needed"
        )

    return closed


def gate_beside_real(kind: str) -> Callable[[pd.DataFrame], str]:
    """Returns the gate of a claim about networks on real data and on one kind of noise.

    Args:
      kind: 'randX' or 'randY', in column `kind` or `data`; every level of it.
    """
    return lambda table: gate()(of_kind(table.rename(columns={"data": "kind"}), kind))


def fit_words(table: pd.DataFrame) -> str:
    """Returns the line under a figure."""
    accuracy, updates = table["final_train_accuracy"], table["num_updates"]
    distance = table["distance"].dropna()
    words = (
        f"Training accuracy at the end {_range(accuracy, '.3f')}; {_range(updates, ',.0f')} updates"
    )
    if not distance.empty:
        words += f"; parameters moved by {_range(distance, '.2g')} of their initial norm"
    return words + "."


def _range(values: pd.Series, form: str) -> str:
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"
