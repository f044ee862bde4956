"""What a sweep shows: one summary picture of any sweep, and the paper's figures where it can."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from etils import epath
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from memjax.reporting.figures import add_legend_below
from memjax.reporting.style import level_style, new_figure, save
from memjax.runtime.workdir import write_atomically

_SEED = "run_seed"  # along x where no factor is a number
PANELS = {
    "best_validation_accuracy": "best validation accuracy",
    "train_accuracy": "final training accuracy",
    "epochs_to_fit": "epochs to 100 % training accuracy",
}


def last_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Returns one row for each member of each point, its last, without those that failed."""
    rows = table[table["failure"] == ""]
    return rows.groupby(["point", "member"], sort=False).tail(1)


def draw_results(table: pd.DataFrame, factors: Sequence[str], path: epath.Path) -> None:
    """Draws accuracy and time to fit over one factor, the rest as lines.

    Along x is the numeric factor with the most values; of several such the one with the widest
    range: widths and numbers of examples rather than noise levels.

    Members, and seeds where `seed` is a factor, are averaged (time: median). Runs that never fit
    their training set are censored: they count with the epochs that they ran, and where they are
    half or more the marker is hollow.

    Args:
      table: of all points.
      factors: the columns that tell the points apart.
      path: the PNG file.
    """
    rows = last_rows(table)
    if rows.empty:
        return
    rows = rows.assign(
        is_censored=rows["epochs_to_fit"].isna(),
        epochs_to_fit=rows["epochs_to_fit"].fillna(rows["epochs_run"]),
    )
    shown = [name for name in factors if name != "seed"]
    numbers = [name for name in shown if pd.api.types.is_numeric_dtype(rows[name])]
    x = max(numbers, key=lambda name: (rows[name].nunique(), np.ptp(rows[name])), default=_SEED)
    others = [name for name in shown if name != x and rows[name].nunique() > 1]
    figure, axes = new_figure(columns=len(PANELS), width=4.4)
    lines = list(rows.groupby(others, sort=True)) if others else [((), rows)]
    for ax, (column, words) in zip(axes[0], PANELS.items(), strict=True):
        for place, (values, part) in enumerate(lines):
            label = ", ".join(f"{n} {v}" for n, v in zip(others, values, strict=True)) or "all"
            _draw_line(ax, part, x, column, level_style(place, len(lines)), label)
        ax.set(xlabel=x.replace("_", " "), ylabel=words)
        if rows[x].gt(0).all() and rows[x].max() >= 4 * rows[x].min():
            ticks = sorted(rows[x].unique())
            ax.set_xscale("log", base=2)
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
            ax.xaxis.set_minor_locator(NullLocator())
    if rows["is_censored"].any():
        axes[0, -1].plot(
            [], [], marker="^", label="half or more not fitted when stopped", **_hollow("0.3")
        )
    add_legend_below(figure, *axes[0, -1].get_legend_handles_labels())
    write_atomically(path, lambda name: save(figure, name))


def _draw_line(ax: Axes, rows: pd.DataFrame, x: str, column: str, style: dict, label: str) -> None:
    by_x = rows.groupby(x)
    is_time = column == "epochs_to_fit"
    values = by_x[column].median() if is_time else by_x[column].mean()
    ax.plot(values.index, values, label=label, linewidth=1.4, markersize=4, **style)
    if is_time:
        censored = by_x["is_censored"].mean() >= 0.5
        look: dict[str, Any] = {"marker": "^", "markersize": 7, "zorder": 5} | _hollow(
            style["color"]
        )
        ax.plot(values.index[censored], values[censored], **look)


def _hollow(color: str) -> dict[str, Any]:
    return {"color": color, "markerfacecolor": "white", "linestyle": "none"}
