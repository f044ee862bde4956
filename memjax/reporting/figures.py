"""What the drawings of several figures share."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter


def draw_mean_and_range(
    ax: Axes, rows: pd.DataFrame, x: str, y: str, style: dict[str, Any], label: str | None = None
) -> None:
    """Draws the mean over seeds as a line and the range over seeds as a band.

    Args:
      ax: where.
      rows: one row per seed and place on the x axis; rows without a `y` are left out.
      x: the column along the x axis.
      y: the column along the y axis.
      style: colour, dashes and marker.
      label: its line in the legend.
    """
    over_seeds = rows.dropna(subset=[y]).groupby(x)[y].agg(["mean", "min", "max"])
    every = max(1, len(over_seeds) // 8)
    look = {"linewidth": 1.6, "markersize": 4.5, "markevery": every} | style
    ax.plot(over_seeds.index, over_seeds["mean"], label=label, **look)
    if not over_seeds["min"].equals(over_seeds["max"]):
        band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
        ax.fill_between(over_seeds.index, over_seeds["min"], over_seeds["max"], **band)


def add_legend(ax: Axes, title: str | None = None, **options: Any) -> None:
    """Adds the one kind of legend that the figures use."""
    look = {"fontsize": 8, "title_fontsize": 8, "framealpha": 0.8, "edgecolor": "none"}
    ax.legend(**(look | {"title": title} | options))


def add_legend_below(figure: Figure, handles: list[Artist], labels: list[str]) -> None:
    """Adds one legend for all panels, below them."""
    columns = min(len(labels), 4)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )


def number_log_axis(axis: Axis) -> None:
    """Numbers a logarithmic axis in plain digits: 1, 2, 5, 10; more where all is near together."""
    low, high = axis.get_data_interval()
    is_wide = high > 8 * low
    subs = (1.0, 2.0, 5.0) if is_wide else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def percent(level: float) -> str:
    """Returns a share in words: 0.25 is '25 %'."""
    return f"{100 * level:g} %"


def seeds_phrase(table: pd.DataFrame) -> str:
    """Returns which seeds a table holds: '3 seeds (0, 1, 2)'."""
    seeds = sorted(table["seed"].unique())
    return f"{counted(len(seeds), 'seed')} ({listed(seeds)})"


def counted(number: int, noun: str) -> str:
    """Returns '1 seed' or '3 seeds'."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def listed(values: Iterable[Any], limit: int = 12) -> str:
    """Returns values separated by commas; the middle of a long list is left out."""
    words = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    if len(words) > limit:
        words = [*words[:3], "...", words[-1]]
    return ", ".join(words)
