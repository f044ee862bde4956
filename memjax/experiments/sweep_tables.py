"""The paper's figures that a sweep of one's own can fill."""

import pandas as pd
from etils import epath

from memjax.errors import InputError, nearest
from memjax.experiments.context import Context
from memjax.experiments.registry import EXPERIMENTS, redraw, save_table
from memjax.sweeps.points import Sweep, first_line


def save_tables(sweep: Sweep, table: pd.DataFrame, folder: epath.Path) -> list[epath.Path]:
    """Saves and draws the tables of the paper's figures that the sweep file makes of its results.

    Args:
      sweep: whose `get_tables(results)` gives {experiment: (table, Context)}.
      table: of all points.
      folder: for EXPERIMENT.parquet, .png and .svg.

    Returns:
      The Parquet files.

    Raises:
      InputError: if `get_tables` fails, or gives something else.
    """
    if sweep.get_tables is None:
        return []
    try:
        tables = {name: (rows, of) for name, (rows, of) in sweep.get_tables(table).items()}
    except InputError:
        raise
    except Exception as error:  # the file is the user's code
        raise InputError(f"--sweep: get_tables failed: {first_line(error)}") from error
    for name, pair in tables.items():
        if name not in EXPERIMENTS:
            raise InputError(f"--sweep: get_tables: {name!r}: {nearest(str(name), EXPERIMENTS)}")
        if not all(map(isinstance, pair, (pd.DataFrame, Context))):
            kinds = ", ".join(type(each).__name__ for each in pair)
            raise InputError(
                f"--sweep: get_tables: {name}: ({kinds}); must be (DataFrame, Context)"
            )
    paths = []
    for name, (rows, context) in tables.items():
        path = folder / f"{name}.parquet"
        save_table(path, EXPERIMENTS[name], rows, context)
        redraw(path)
        paths.append(path)
    return paths
