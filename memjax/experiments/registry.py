"""All experiments by name, and how a table becomes its files."""

import dataclasses
import os
from pathlib import Path
from typing import Protocol

import pandas as pd
from matplotlib.figure import Figure

from memjax.errors import InputError
from memjax.experiments import (
    capacity,
    figure01,
    figure02,
    figure03,
    figure04,
    figure05,
    figure06,
    figure09,
    figure10,
    figure11,
    noise_levels,
    norms,
    radii,
    sharpness,
)
from memjax.experiments.context import Context
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Claim
from memjax.reporting.style import save
from memjax.runtime.tables import read_table, write_table
from memjax.runtime.workdir import write_atomically


class Experiment(Protocol):
    """What every module of an experiment has."""

    @property
    def NAME(self) -> str: ...

    @property
    def TITLE(self) -> str: ...

    @property
    def COLUMNS(self) -> dict[str, str]: ...

    @property
    def CLAIMS(self) -> tuple[Claim, ...]: ...

    @property
    def STUDIES(self) -> tuple[str, ...]: ...

    def tabulate(self, studies: dict[str, StudyRuns]) -> pd.DataFrame: ...

    def draw(self, table: pd.DataFrame, context: Context) -> Figure: ...

    def caption(self, table: pd.DataFrame, context: Context) -> str: ...

    def alt_text(self, table: pd.DataFrame, context: Context) -> str: ...


_ALL: tuple[Experiment, ...] = (
    figure01,
    figure02,
    figure03,
    figure04,
    figure05,
    figure06,
    noise_levels.FIGURE07,
    noise_levels.FIGURE08,
    figure09,
    figure10,
    figure11,
    sharpness,
    capacity,
    norms,
    radii,
)
EXPERIMENTS: dict[str, Experiment] = {experiment.NAME: experiment for experiment in _ALL}
CLAIMS: tuple[Claim, ...] = tuple(claim for each in _ALL for claim in each.CLAIMS)


def check_table(experiment: Experiment, table: pd.DataFrame) -> None:
    """Checks that a table has rows, and the columns of its experiment and no others.

    Raises:
      InputError: if not.
    """
    missing = [name for name in experiment.COLUMNS if name not in table.columns]
    unknown = [name for name in table.columns if name not in experiment.COLUMNS]
    if missing or unknown or table.empty:
        raise InputError(
            f"table of {experiment.NAME}: {len(table)} rows, columns missing: {missing}, "
            f"unknown: {unknown}; must have rows and exactly {list(experiment.COLUMNS)}"
        )


def save_table(
    path: os.PathLike | str,
    experiment: Experiment,
    table: pd.DataFrame,
    context: Context,
    identity: str = "",
) -> None:
    """Writes an experiment's table, with all that is needed to draw its figure again.

    Args:
      path: the Parquet file.
      experiment: whose table it is.
      table: one row per observation, as the experiment's COLUMNS say.
      context: how the runs were made.
      identity: of the runs; another one means that the table has to be made anew.

    Raises:
      InputError: if the columns are not those of the experiment, or there are no rows.
    """
    check_table(experiment, table)
    metadata = {"experiment": experiment.NAME, "context": dataclasses.asdict(context)}
    metadata["identity"] = identity
    write_table(path, table, experiment.COLUMNS, metadata)


def load_table(path: os.PathLike | str) -> tuple[Experiment, pd.DataFrame, Context]:
    """Reads what `save_table` wrote.

    Raises:
      InputError: if the file holds no experiment's table.
    """
    table = read_table(path)
    metadata = table.attrs["metadata"]
    if metadata.get("experiment") not in EXPERIMENTS:
        raise InputError(
            f"{path}: experiment {metadata.get('experiment')!r}, must be one of "
            f"{', '.join(EXPERIMENTS)}"
        )
    experiment = EXPERIMENTS[metadata["experiment"]]
    check_table(experiment, table)
    context = metadata["context"]
    return (
        experiment,
        table,
        Context(**(context | {"reductions": tuple(context["reductions"])})),
    )


def redraw(path: os.PathLike | str) -> tuple[Path, Path]:
    """Draws a figure from its Parquet table alone, beside the table.

    Args:
      path: a file that `save_table` wrote.

    Returns:
      The PNG and the SVG file.

    Raises:
      InputError: if the file holds no experiment's table.
    """
    experiment, table, context = load_table(path)
    figure = experiment.draw(table, context)
    png, svg = (Path(path).with_suffix(suffix) for suffix in (".png", ".svg"))
    write_atomically(png, lambda name: save(figure, name, "png"))
    write_atomically(svg, lambda name: save(figure, name, "svg"))
    return png, svg
