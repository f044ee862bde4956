"""Figure 10: can regularisers stop memorization, and nothing else?

The CNN is trained with six regularisers, each over a range of strengths, on random labels (randY)
and on real data. Plotted: for each technique and strength, the final TRAINING accuracy on randY
(how much is memorized) against the best VALIDATION accuracy on real data. A curve that stays up as
it runs to the left stops memorization at no cost.
"""

import pandas as pd
from matplotlib.figure import Figure

from memjax.experiments.context import Context
from memjax.experiments.rows import select
from memjax.reporting.figures import add_legend, seeds_phrase
from memjax.reporting.measurement import Measurement, NotMeasurable, over_seeds
from memjax.reporting.style import new_figure, series_style

NAME = "figure10"
TITLE = "Figure 10: can regularisers stop memorization, and nothing else?"
TECHNIQUES = (
    "dropout",
    "input dropout",
    "input noise",
    "hidden noise",
    "weight decay",
    "dropout + adversarial",
)
# Validation accuracy on real data that may be lost for "at no cost".
COST = 0.01
COLUMNS = {
    "technique": f"none (strength 0), {', '.join(TECHNIQUES)}",
    "strength": "share dropped (0 to 1), standard deviation of the noise, or weight decay",
    "adversarial_weight": "weight of the adversarial loss; 0 without adversarial training",
    "data": "real or randY (every label is random)",
    "seed": "seed of the network and the order",
    "train_accuracy": "share of the training examples right at the end, by the labels trained on",
    "best_validation_accuracy": "highest validation accuracy over training (true labels)",
}
SETTING = ["technique", "strength", "adversarial_weight"]


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws validation accuracy on real data against training accuracy on randY."""
    figure, axes = new_figure(width=6.6, height=4.6)
    ax = axes[0, 0]
    means = _by_setting(table).groupby(SETTING)[["memorized", "validation"]].mean().reset_index()
    plain = means[means["technique"] == "none"]
    for place, technique in enumerate(TECHNIQUES):
        rows = means[means["technique"] == technique]
        if rows.empty:
            continue
        look = series_style(place) | {"linewidth": 1.4, "markersize": 5.5, "alpha": 0.9}
        if technique == "dropout + adversarial":
            look["linestyle"] = "none"
        else:
            rows = pd.concat([plain, rows.sort_values("strength")])
        ax.plot(rows["memorized"], rows["validation"], label=technique, **look)
    star = {"marker": "*", "markersize": 14, "color": "black", "linestyle": "none"}
    ax.plot(plain["memorized"], plain["validation"], label="no regulariser", **star)
    ax.set(xlabel="final training accuracy on random labels (randY): memorized")
    ax.set_ylabel("best validation accuracy on real data")
    add_legend(ax)
    return figure


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with ranges and seeds."""
    ranges = table[table["technique"] != "none"].groupby("technique")["strength"]
    words = ", ".join(
        f"{technique} {low:g} to {high:g}"
        for technique, low, high in zip(ranges.min().index, ranges.min(), ranges.max(), strict=True)
    )
    return (
        f"{TITLE} {context.setup}. Each marker is one strength ({words}), joined in order of "
        f"strength from no regulariser (star); means over {seeds_phrase(table)}. Upper left is "
        "best."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    rows = _by_setting(table).groupby(SETTING)[["memorized", "validation"]].mean()
    lowest = rows.groupby("technique")["memorized"].min()
    best = rows.groupby("technique")["validation"].max()
    words = "; ".join(
        f"{technique}: memorized down to {lowest[technique]:.2f}, validation up to "
        f"{best[technique]:.2f}"
        for technique in lowest.index
    )
    return f"Curves of validation accuracy on real data over training accuracy on randY. {words}."


def measure_capped(table: pd.DataFrame, technique: str) -> Measurement:
    """Training accuracy on randY that a technique takes away at no cost on real data."""
    return over_seeds(_capped(table, technique))


def measure_beyond_others(table: pd.DataFrame, technique: str, rivals: str) -> Measurement:
    """Training accuracy taken away at no cost, beyond that of the best other technique.

    Args:
      table: the figure's table.
      technique: the one that is claimed to be best.
      rivals: 'single' (dropout + adversarial not counted) or 'all'.
    """
    others = [name for name in TECHNIQUES if name != technique and name in set(table["technique"])]
    if rivals == "single":
        others = [name for name in others if name != "dropout + adversarial"]
    if not others:
        raise NotMeasurable("no other technique in the table")
    capped = {name: _capped(table, name) for name in others}
    best = max(capped, key=lambda name: capped[name].mean())
    return over_seeds(_capped(table, technique) - capped[best])


def _by_setting(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a row per technique, strength and seed: memorized (randY) and validation (real)."""
    index = [*SETTING, "seed"]
    memorized = select(table, data="randY").set_index(index)["train_accuracy"]
    validation = select(table, data="real").set_index(index)["best_validation_accuracy"]
    columns = {"memorized": memorized, "validation": validation}
    return pd.concat(columns, axis=1, join="inner").reset_index()


def _capped(table: pd.DataFrame, technique: str) -> pd.Series:
    """Returns for each seed the training accuracy on randY that is taken away.

    At the strength, chosen by the means over seeds, that takes away most among those whose mean
    validation accuracy on real data is at most COST below that without regulariser; 0 if none is.
    """
    rows = _by_setting(table)
    plain = select(rows, technique="none").set_index("seed")
    regularized = select(rows, technique=technique)
    means = regularized.groupby(SETTING)[["memorized", "validation"]].mean()
    free = means[means["validation"] >= plain["validation"].mean() - COST]
    if free.empty:
        return 0.0 * plain["memorized"]
    chosen = regularized.set_index(SETTING).loc[[free["memorized"].idxmin()]]
    return plain["memorized"] - chosen.set_index("seed")["memorized"]
