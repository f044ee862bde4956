"""Figure 5: does noise need capacity?

MLPs of two hidden layers and many widths are trained on MNIST where a share of the inputs is noise
(randX, levels 0 to 1). Plotted: the best validation accuracy over training against the number of
hidden units, one curve per noise level. The paper's reference network has 4096 units a layer.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from memjax.experiments import fit
from memjax.experiments.context import Context
from memjax.experiments.rows import select
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
from memjax.reporting.style import new_figure, share_style

NAME = "figure05"
TITLE = "Figure 5: does noise need capacity?"
REACHED = 0.98  # of the plateau
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
    rows = rows[rows["kind"] != "removed"].assign(reference_width=runs.sizes.width)
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
    for level in levels:
        style = share_style(level) | {"markevery": 1}
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


def needed_width(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Returns for each seed the log2 width that reaches REACHED of its curve's own plateau.

    The plateau is the mean accuracy of the two largest widths: a curve with less clean data has a
    lower one, which is not what the claim is about. Between two widths the accuracy is taken to be
    linear in the log of the width. Averaged over the levels in `rows`.

    Returns:
      Lower and upper bounds: equal, but where the smallest width reaches it already (-inf).

    Raises:
      NotMeasurable: if there are fewer than three widths.
    """
    wide = rows.pivot_table(
        index=["level", "seed"], columns="width", values="best_validation_accuracy"
    ).dropna()
    if wide.shape[1] < 3:
        raise NotMeasurable(f"{wide.shape[1]} widths, at least 3 are needed for a plateau")
    logs = np.log2(wide.columns.to_numpy(float))
    bounds = [_crossing(logs, curve) for curve in wide.to_numpy()]
    lower, upper = (pd.Series(each, index=wide.index) for each in zip(*bounds, strict=True))
    return lower.groupby("seed").mean(), upper.groupby("seed").mean()


def _crossing(logs: np.ndarray, curve: np.ndarray) -> tuple[float, float]:
    target = REACHED * curve[-2:].mean()
    place = int(np.argmax(curve >= target))
    if place == 0:
        return -np.inf, logs[0]
    share = (target - curve[place - 1]) / (curve[place] - curve[place - 1])
    found = logs[place - 1] + share * (logs[place] - logs[place - 1])
    return found, found


def measure_more_needed(noise: pd.DataFrame, other: pd.DataFrame) -> Measurement:
    """Doublings from the width that `other` needs to the width that `noise` needs."""
    first, second = needed_width(noise), needed_width(other)
    return over_seeds(first[0] - second[1], first[1] - second[0])


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


def measure_beyond_reference(table: pd.DataFrame) -> Measurement:
    """On real data: accuracy at the largest width minus that at the reference."""
    real = select(table, level=0.0)
    reference, largest = real["reference_width"].iloc[0], real["width"].max()
    if largest <= reference:
        raise NotMeasurable(f"no width above the reference, {reference} units")
    ends = (
        select(real, width=width).set_index("seed")["best_validation_accuracy"]
        for width in (largest, reference)
    )
    return over_seeds(next(ends) - next(ends))


def measure_noise_needs_more(table: pd.DataFrame) -> Measurement:
    """Doublings of the width needed, from real data to some noise."""
    return measure_more_needed(partly_noise(table), select(table, level=0.0))


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="figure05_noise_needs_more",
        figure=NAME,
        sentence="Reaching the best performance takes more capacity when there is noise.",
        statistic=f"doublings of the width that reaches {REACHED:.0%} of the curve's own plateau, "
        "real data to levels between 0 and 1",
        test=measure_noise_needs_more,
        threshold=0.5,
        why="0.5 doublings are four units in ten more; widths are one to two doublings apart",
        primary=True,
    ),
    Claim(
        name="figure05_real_near_maximum",
        figure=NAME,
        sentence="On real data performance is near its maximum at 4096 hidden units.",
        statistic="accuracy on real data at the largest width minus at the reference",
        test=measure_beyond_reference,
        direction="within",
        threshold=0.01,
        opposite=-0.01,
        why="one point of accuracy is near",
    ),
)
