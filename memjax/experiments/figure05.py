"""Figure 5: does noise need capacity?

MLPs of two hidden layers and many widths are trained on MNIST where a share of the inputs is noise
(randX, levels 0 to 1). Plotted: the best validation accuracy over training against the number of
hidden units, one curve per noise level. The paper's reference network has 4096 units a layer.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from memjax.experiments import fit
from memjax.experiments.context import Context
from memjax.experiments.rows import chosen_by_others, select, values_at
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Claim
from memjax.reporting.figures import (
    add_legend,
    draw_mean_and_range,
    listed,
    percent,
    seeds_phrase,
)
from memjax.reporting.measurement import Measurement, NotMeasurable, over_seeds
from memjax.reporting.style import level_style, new_figure

NAME = "figure05"
TITLE = "Figure 5: does noise need capacity?"
COLUMNS = {
    "level": "share of the training inputs replaced by noise (randX), 0 to 1",
    "width": "hidden units in each of the two layers",
    "reference_width": "the width that stands for the paper's 4096 at this scale",
    "seed": "seed of the network, the order and the noise",
    "best_validation_accuracy": "highest validation accuracy over training, share right",
    **fit.COLUMNS,
}

STUDIES = ("capacity",)


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the figure's table: the best accuracy of every run with randX."""
    runs = studies["capacity"]
    rows = runs.last_rows()
    rows = rows[rows["kind"] != "removed"].assign(reference_width=int(runs.sizes.width))
    return fit.with_fit(rows, runs.fit)[list(COLUMNS)]


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws best validation accuracy over width, one curve per noise level."""
    figure, axes = new_figure(width=6.0, height=4.0)
    draw_capacity(axes[0, 0], table)
    reference = table["reference_width"].iloc[0]
    axes[0, 0].axvline(reference, color="0.4", linewidth=1, linestyle=(0, (2, 3)))
    add_legend(axes[0, 0], "noise inputs (randX)")
    return figure


def draw_capacity(ax: Axes, rows: pd.DataFrame) -> None:
    """Draws best validation accuracy over width for each level of one kind of noise."""
    levels = sorted(rows["level"].unique())
    for place, level in enumerate(levels):
        style = level_style(place, len(levels)) | {"markevery": 1}
        at_level = rows[rows["level"] == level]
        draw_mean_and_range(
            ax, at_level, "width", "best_validation_accuracy", style, percent(level)
        )
    widths = sorted(rows["width"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(widths, [str(width) for width in widths], fontsize=8)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="hidden units per layer (log scale)", ylabel="best validation accuracy")


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with widths and seeds."""
    return (
        f"{context.setup}. Best validation accuracy over training for widths "
        f"{listed(sorted(table['width'].unique()))}; mean (line) and range (band) over "
        f"{seeds_phrase(table)}. Dotted vertical line: {table['reference_width'].iloc[0]} units, "
        "which stand for the paper's 4096."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    return f"Curves of best validation accuracy over hidden units. {capacity_words(table)}"


def capacity_words(rows: pd.DataFrame) -> str:
    """Returns mean accuracies at the smallest and the largest width, for each level."""
    means = rows.groupby(["level", "width"])["best_validation_accuracy"].mean()
    ends = [means[level] for level in sorted(rows["level"].unique())]
    words = [
        f"{percent(level)} noise: {curve.iloc[0]:.2f} at {curve.index[0]} units, "
        f"{curve.iloc[-1]:.2f} at {curve.index[-1]}"
        for level, curve in zip(sorted(rows["level"].unique()), ends, strict=True)
    ]
    return "; ".join(words) + "."


def capacity_gain(rows: pd.DataFrame) -> pd.Series:
    """Returns for each seed the accuracy at the largest width minus its mean at all smaller ones.

    Averaged over the levels in `rows`. A difference of means, so noise does not bias it, as it
    would the width at which an accuracy is first reached.

    Raises:
      NotMeasurable: if there is only one width.
    """
    wide = rows.pivot_table(
        index=["level", "seed"], columns="width", values="best_validation_accuracy"
    ).dropna()
    if wide.shape[1] < 2:
        raise NotMeasurable("only one width")
    gain = wide.iloc[:, -1] - wide.iloc[:, :-1].mean(axis=1)
    return gain.groupby("seed").mean()


def partly_noise(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows with some real and some noise examples.

    With noise alone, validation accuracy is at chance whatever the width.

    Raises:
      NotMeasurable: if there are none.
    """
    rows = table[(table["level"] > 0) & (table["level"] < 1)]
    if rows.empty:
        raise NotMeasurable("no noise level between 0 and 1")
    return rows


def measure_shortfall(table: pd.DataFrame) -> Measurement:
    """On real data: accuracy at the best width (by the other seeds) minus at the reference."""
    real = select(table, level=0.0)
    reference = real["reference_width"].iloc[0]
    if real["width"].max() <= reference:
        raise NotMeasurable(f"no width above the reference, {reference} units")
    accuracy = real.pivot(index="width", columns="seed", values="best_validation_accuracy")
    accuracy = accuracy.dropna(axis=1)
    if accuracy.empty or reference not in accuracy.index:
        raise NotMeasurable(f"no seed has an accuracy at every width and at {reference} units")
    best = values_at(accuracy, chosen_by_others(accuracy))
    return over_seeds(best - accuracy.loc[reference])


def measure_noise_needs_more(table: pd.DataFrame) -> Measurement:
    """Gain from capacity with some noise minus that on real data, accuracy."""
    return over_seeds(capacity_gain(partly_noise(table)) - capacity_gain(select(table, level=0.0)))


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="figure05_real_near_maximum",
        figure=NAME,
        sentence="On real data performance is near its maximum at 4096 hidden units.",
        statistic="accuracy at the best width (as the other seeds place it) minus at the reference",
        test=measure_shortfall,
        direction="below",
        threshold=0.01,
        opposite=0.02,
        why="one point of accuracy is near, two are not",
    ),
    Claim(
        name="figure05_noise_needs_more",
        figure=NAME,
        sentence="Reaching the best performance takes more capacity when there is noise.",
        statistic="accuracy gained from capacity (largest width minus mean of the smaller ones), "
        "levels between 0 and 1 minus level 0",
        test=measure_noise_needs_more,
        threshold=0.01,
        why="one point of accuracy is more than the spread between seeds",
    ),
)
