"""The paper's figures that a sweep of one's own can fill."""

import pandas as pd
from etils import epath

from memjax.experiments.registry import EXPERIMENTS, redraw, save_table
from memjax.sweeps.points import Sweep


def save_tables(sweep: Sweep, table: pd.DataFrame, folder: epath.Path) -> list[epath.Path]:
    """Saves and draws the tables of the paper's figures that the sweep file makes of its results.

    Args:
      sweep: whose `get_tables(results)` gives {experiment: (table, Context)}.
      table: of all points.
      folder: for EXPERIMENT.parquet, .png and .svg.

    Returns:
      The Parquet files.
    """
    if sweep.get_tables is None:
        return []
    paths = []
    for name, (rows, context) in sweep.get_tables(table).items():
        path = folder / f"{name}.parquet"
        save_table(path, EXPERIMENTS[name], rows, context)
        redraw(path)
        paths.append(path)
    return paths
