"""Figure 11: do regularisers slow memorization and learning alike?

Selected settings of the regularisers of figure 10. Plotted: training loss over epochs, on random
labels (randY, left) and on real data (right). What matters is the vertical order of the curves.
"""

from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from matplotlib.figure import Figure

from memjax.experiments import fit, kinds
from memjax.experiments.context import Context
from memjax.experiments.rows import select
from memjax.experiments.scales import TECHNIQUES
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Claim
from memjax.reporting.figures import (
    add_legend_below,
    draw_mean_and_range,
    number_log_axis,
    seeds_phrase,
)
from memjax.reporting.measurement import Measurement, NotMeasurable, over_seeds
from memjax.reporting.style import new_figure, series_style

NAME = "figure11"
TITLE = "Figure 11: do regularisers slow memorization and learning alike?"
DATA = {kind: kinds.WORDS[kind] for kind in (kinds.RANDY, kinds.REAL)}
COLUMNS = {
    "technique": "none or the name of a regulariser, as in figure 10",
    "strength": "its strength; 0 for none",
    "data": "real or randY (every label is random)",
    "seed": "seed of the network and the order",
    "epoch": "epochs trained",
    "train_loss": "mean cross-entropy on the training set, nats",
    **fit.COLUMNS,
}
SETTING = ["technique", "strength"]

STUDIES = ("regularizers",)


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the figure's table: the training loss over epochs, the middle of each range."""
    table = studies["regularizers"].results
    table = table[table["adversarial_weight"] == 0]
    middle = table.groupby("technique")["strength"].agg(_middle)
    chosen = table["strength"] == table["technique"].map(middle)
    return fit.with_fit(table[chosen], studies["regularizers"].fit)[list(COLUMNS)]


def _middle(strengths: pd.Series) -> float:
    values = sorted(strengths.unique())
    return values[len(values) // 2]


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws the training loss of every setting, randY to the left and real data to the right."""
    figure, axes = new_figure(columns=2, width=4.6, height=3.9)
    settings = sorted(table.groupby(SETTING).size().index, key=lambda s: (s[0] != "none", s))
    for ax, (data, words) in zip(axes[0], DATA.items(), strict=True):
        for technique, strength in settings:
            rows = select(table, data=data)
            rows = rows[(rows["technique"] == technique) & (rows["strength"] == strength)]
            label = technique if technique == "none" else f"{technique} {strength:g}"
            draw_mean_and_range(ax, rows, "epoch", "train_loss", _look(technique), label)
        ax.set(title=words, xlabel="epochs", ylabel="training loss (nats, log scale)")
        ax.set_yscale("log")
        number_log_axis(ax.yaxis)
    add_legend_below(figure, *axes[0, 0].get_legend_handles_labels())
    return figure


def _look(technique: str) -> dict[str, Any]:
    """Returns the look that figure 10 has for a technique; no regulariser is black there too."""
    if technique == "none":
        return series_style(0) | {"color": "black", "marker": "*"}
    return series_style(list(TECHNIQUES).index(technique))


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with seeds."""
    return (
        f"{context.setup}. Training loss over epochs; mean (line) and range (band) over "
        f"{seeds_phrase(table)}. The order of the curves from top to bottom is what to compare."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    words = []
    for data in DATA:
        order = _mean_log_loss(table, data).mean(axis=1).sort_values(ascending=False).index
        names = ", ".join(technique for technique, _ in order)
        words.append(f"{DATA[data]} from highest to lowest: {names}")
    return f"Two panels of falling training losses. {'; '.join(words)}."


def measure_order(table: pd.DataFrame) -> Measurement:
    """Kendall's tau of the orders on real data and on randY, minus that of two seeds.

    The order is that of the mean log training loss. Noise alone makes orders differ: what two
    seeds of the same data agree in is what is to be undercut.
    """
    losses = [_mean_log_loss(table, data).dropna(axis=1) for data in DATA]
    random, real = losses[0].align(losses[1], join="inner")
    if len(real) < 3 or real.shape[1] < 2:
        raise NotMeasurable(
            f"{len(real)} settings, {real.shape[1]} seeds in common: at least 3 and 2 are needed"
        )
    differences = {}
    for seed in real:
        others = [other for other in real if other != seed]
        within = [_tau(part[seed], part[other]) for part in (real, random) for other in others]
        differences[seed] = _tau(real[seed], random[seed]) - np.mean(within)
    return over_seeds(pd.Series(differences))


def _tau(first: pd.Series, second: pd.Series) -> float:
    return float(scipy.stats.kendalltau(first, second).statistic)


def _mean_log_loss(table: pd.DataFrame, data: str) -> pd.DataFrame:
    """Returns [settings seeds], the mean over epochs of the log2 training loss."""
    rows = select(table, data=data)
    logs = rows.assign(train_loss=np.log2(rows["train_loss"]))
    return logs.groupby([*SETTING, "seed"])["train_loss"].mean().unstack("seed")


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="figure11_order_differs",
        figure=NAME,
        sentence="The vertical order of the training losses differs between randY and real data.",
        statistic="Kendall's tau of the order of the settings on real data and on randY, minus "
        "that of two seeds on the same data",
        test=measure_order,
        direction="below",
        threshold=-0.2,
        opposite=-0.1,
        why="0.2: one pair in ten is in another order for the data's sake; 0.1: one in twenty",
        primary=True,
    ),
)
