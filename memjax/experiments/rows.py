"""Picking the rows of a figure's table that a claim is about.

A series of values has one entry per seed. Differences of two series pair the seeds: the same seed
means the same initial parameters and the same order of the examples.
"""

from typing import Any

import numpy as np
import pandas as pd

from memjax.reporting.measurement import NotMeasurable

# The end of training is its last tenth: one epoch alone is noisy.
END_OF_TRAINING = 0.9


def select(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Returns the rows where every named column has the given value.

    Raises:
      NotMeasurable: if there are none.
    """
    rows = table
    for column, value in values.items():
        rows = rows[rows[column] == value]
    if rows.empty:
        wanted = ", ".join(f"{column}={value}" for column, value in values.items())
        raise NotMeasurable(f"the table has no rows with {wanted}")
    return rows


def of_kind(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Returns the rows of one kind of noise together with the real data, its level 0.

    Raises:
      NotMeasurable: if there is no noise of this kind, or no real data.
    """
    return pd.concat([select(table, kind="real"), select(table, kind=kind)])


def final(table: pd.DataFrame, value: str, by: list[str]) -> pd.Series:
    """Returns a value at the end of training, averaged over the last tenth of the epochs.

    Args:
      table: rows with an epoch; those without a value are left out.
      value: the column.
      by: the columns that tell the runs apart.
    """
    rows = table.dropna(subset=[value])
    last = rows.groupby(by)["epoch"].transform("max")
    return rows[rows["epoch"] >= END_OF_TRAINING * last].groupby(by)[value].mean()


def rise_over_levels(values: pd.Series) -> pd.Series:
    """Returns for each seed the rise from noise level 0 to 1, by least squares.

    Args:
      values: indexed by level and seed.

    Raises:
      NotMeasurable: if there are fewer than two levels.
    """
    wide = values.unstack("level")
    if wide.shape[1] < 2:
        raise NotMeasurable("fewer than two noise levels")
    wide = wide.dropna()
    offsets = wide.columns.to_numpy(float) - np.mean(wide.columns.to_numpy(float))
    return pd.Series(wide.to_numpy() @ offsets / (offsets @ offsets), index=wide.index)


def highest(values: pd.Series, below: float = np.inf) -> Any:
    """Returns the highest value below a limit.

    Raises:
      NotMeasurable: if there is none above 0.
    """
    found = values[(values > 0) & (values < below)]
    if found.empty:
        raise NotMeasurable(f"no {values.name} between 0 and {below:g}")
    return found.max()


def chosen_by_others(values: pd.DataFrame) -> pd.Series:
    """Returns for each seed the option with the highest mean over the OTHER seeds.

    A seed's value at its own best option is too high by chance, so that every noisy flat curve
    seems to peak and fall. At an option that the other seeds chose it is not. One seed has only
    its own choice.

    Args:
      values: [options seeds], such as one row per epoch.

    Example:
      >>> chosen_by_others(pd.DataFrame({0: [0.0, 1.0], 1: [1.0, 0.0]})).tolist()
      [0, 1]
    """
    if values.shape[1] == 1:
        return values.idxmax()
    return pd.Series({seed: values.drop(columns=seed).mean(axis=1).idxmax() for seed in values})


def values_at(values: pd.DataFrame, places: pd.Series, tolerance: float) -> pd.Series:
    """Returns for each seed its value at the place nearest to the wanted one.

    Args:
      values: [places seeds], such as one row per measured epoch.
      places: the place for each seed; seeds that `values` lacks are left out.
      tolerance: how far the nearest place may be, over the wanted one.

    Raises:
      NotMeasurable: if nothing was measured so near.

    Example:
      >>> curves = pd.DataFrame({0: [0.1, 0.2]}, index=[4.0, 8.0])
      >>> values_at(curves, pd.Series({0: 7.0}), tolerance=0.5).tolist()
      [0.2]
    """
    there, found = values.index.to_numpy(float), {}
    for seed, place in places.items():
        if seed not in values:
            continue
        nearest = int(np.argmin(np.abs(there - place)))
        if abs(there[nearest] - place) > tolerance * abs(place):
            raise NotMeasurable(
                f"nothing was measured near {place:g} (nearest: {there[nearest]:g}, tolerance "
                f"{tolerance:.0%})"
            )
        found[seed] = values[seed].iloc[nearest]
    return pd.Series(found)
