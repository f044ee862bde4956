"""Figure 6: how long does it take to fit noise?

MLPs are trained on MNIST where a share of the inputs is noise (randX) until every training example
is classified correctly. Plotted: epochs to 100 % training accuracy, left against the number of
hidden units at 50 000 examples, right against the number of examples at 4096 units. A run that was
stopped before it got there is right-censored: its time is at least the epochs that it ran.
"""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from memjax.experiments import fit
from memjax.experiments.context import Context
from memjax.experiments.rows import highest, select
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Claim
from memjax.reporting.figures import add_legend, listed, number_log_axis, percent, seeds_phrase
from memjax.reporting.measurement import Measurement, NotMeasurable, over_seeds
from memjax.reporting.style import new_figure, share_style

NAME = "figure06"
TITLE = "Figure 6: how long does it take to fit noise?"
PANELS = {"capacity": "width", "examples": "num_examples"}
AXES = {"width": "hidden units per layer (log scale)", "num_examples": "examples (log scale)"}
COLUMNS = {
    "panel": "capacity (the width varies) or examples (their number varies)",
    "level": "share of the training inputs replaced by noise (randX), 0 to 1",
    "width": "hidden units in each of the two layers",
    "num_examples": "number of training examples",
    "seed": "seed of the network, the order and the noise",
    "epochs_before": "epochs of the last evaluation before, at which some were still wrong",
    "epochs_to_fit": "epochs until every training example was right; nan if never (censored)",
    "epochs_run": "epochs that the run was trained; a censored time is longer",
    **fit.COLUMNS,
}

STUDIES = ("capacity", "dataset_size")


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the figure's table: the time of every run with randX to fit its training set."""
    by_width, by_number = studies["capacity"], studies["dataset_size"]
    left = fit.with_fit(_times(by_width), by_width.fit)
    left = left[left["kind"] != "removed"].assign(
        panel="capacity", num_examples=by_width.sizes.num_train
    )
    right = fit.with_fit(_times(by_number), by_number.fit).assign(
        panel="examples", width=by_number.sizes.width
    )
    return pd.concat([left, right], ignore_index=True)[list(COLUMNS)]


def _times(runs: StudyRuns) -> pd.DataFrame:
    """Returns the last rows with the last evaluation before the fit (0: there was none)."""
    results = runs.results
    is_before = (results["epoch"] < results["epochs_to_fit"]) | results["epochs_to_fit"].isna()
    before = results[is_before].groupby(["point", "member"])["epoch"].max().rename("epochs_before")
    last = runs.last_rows().merge(before, on=["point", "member"], how="left")
    return last.fillna({"epochs_before": 0.0})


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws epochs to fit over width and over number of examples, censored runs marked."""
    figure, axes = new_figure(columns=2, width=4.6, height=3.8)
    for ax, (panel, x) in zip(axes[0], PANELS.items(), strict=True):
        rows = select(table, panel=panel)
        levels = sorted(rows["level"].unique())
        for level in levels:
            at_level = rows[rows["level"] == level]
            _draw_times(ax, at_level, x, share_style(level), percent(level))
        values = sorted(rows[x].unique())
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(values, [str(value) for value in values], fontsize=8)
        ax.xaxis.set_minor_locator(NullLocator())
        number_log_axis(ax.yaxis)
        ax.set(xlabel=AXES[x], ylabel="epochs to 100 % training accuracy")
        if rows["epochs_to_fit"].isna().any():
            hollow = {"color": "0.3", "markerfacecolor": "white", "linestyle": "none"}
            ax.plot([], [], marker="^", label="not fitted when stopped", **hollow)
        add_legend(ax, "noise inputs (randX)")
    return figure


def _draw_times(ax: Axes, rows: pd.DataFrame, x: str, style: dict, label: str) -> None:
    """Draws the median over seeds as a line, every run as a point, censored ones hollow.

    The line goes only where more than half of the runs were seen to fit: there the median is known.
    """
    censored = rows["epochs_to_fit"].isna()
    times = rows["epochs_to_fit"].fillna(rows["epochs_run"])
    median = times.groupby(rows[x]).median()
    median = median.where(censored.groupby(rows[x]).mean() < 0.5)
    ax.plot(median.index, median, label=label, linewidth=1.6, markersize=4.5, **style)
    seen = {"color": style["color"], "linestyle": "none", "alpha": 0.6, "markersize": 3}
    ax.plot(rows[x][~censored], times[~censored], marker=style["marker"], **seen)
    hollow = {"color": style["color"], "markerfacecolor": "white", "linestyle": "none"}
    ax.plot(rows[x][censored], times[censored], marker="^", markersize=7, zorder=5, **hollow)


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with sizes, seeds and the number of censored runs."""
    sizes = [
        f"{words} {listed(sorted(select(table, panel=panel)[column].unique()))}"
        for panel, column, words in (
            ("capacity", "num_examples", "left: examples"),
            ("examples", "width", "right: hidden units"),
        )
    ]
    return (
        f"{context.setup}. Epochs until every training example is right ({sizes[0]}; "
        f"{sizes[1]}); median (line, where it is known) over {seeds_phrase(table)}, every run a "
        "point. Hollow "
        f"triangles: {table['epochs_to_fit'].isna().sum()} of {len(table)} runs that had not got "
        "there when they were stopped; their time is longer than drawn."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    times = table["epochs_to_fit"].fillna(table["epochs_run"])
    words = ", ".join(
        f"{panel} panel at {percent(level)} noise "
        f"{times[(table['panel'] == panel) & (table['level'] == level)].median():.0f}"
        for panel in PANELS
        for level in sorted(table["level"].unique())
    )
    return f"Two panels of epochs to fit the training set. Median epochs: {words}."


def measure_slowing(table: pd.DataFrame, panel: str, noisy: bool) -> Measurement:
    """Doublings of the epochs to fit, from easy to hard (small or full), at one noise level."""
    return over_seeds(*_slowing(select(table, panel=panel), _level(table, noisy)))


def measure_noise_slowed_more(table: pd.DataFrame, panel: str) -> Measurement:
    """Doublings from easy to hard at the highest noise level, minus those on real data."""
    rows = select(table, panel=panel)
    noise, real = (_slowing(rows, _level(table, noisy)) for noisy in (True, False))
    return over_seeds(*_minus(noise, real))


def measure_remaining_return(table: pd.DataFrame) -> Measurement:
    """Doublings from the largest to the middle width at the highest level, minus on real data."""
    rows = select(table, panel="capacity")
    widths = sorted(rows["width"].unique())
    if len(widths) < 3:
        raise NotMeasurable(f"{len(widths)} widths, at least 3 are needed")
    middle, largest = widths[len(widths) // 2], widths[-1]
    noise, real = (
        _minus(
            _log_times(select(rows, level=_level(table, noisy), width=middle)),
            _log_times(select(rows, level=_level(table, noisy), width=largest)),
        )
        for noisy in (True, False)
    )
    return over_seeds(*_minus(noise, real))


def measure_later(table: pd.DataFrame) -> Measurement:
    """Doublings of the epochs to fit from real data to the highest level, mean over widths."""
    rows = select(table, panel="capacity")
    rows = rows[rows["width"].isin(_fitted_widths(select(rows, level=0.0)))]
    noise, real = (
        _log_times(select(rows, level=_level(table, noisy)), ["seed", "width"])
        for noisy in (True, False)
    )
    return over_seeds(*(bound.groupby("seed").mean() for bound in _minus(noise, real)))


def _fitted_widths(real: pd.DataFrame) -> pd.Index:
    """Returns the widths at which every network fits real data."""
    is_fitted = real["epochs_to_fit"].notna().groupby(real["width"]).all()
    return is_fitted.index[is_fitted]


def _level(table: pd.DataFrame, noisy: bool) -> float:
    return highest(table["level"]) if noisy else 0.0


def _log_times(rows: pd.DataFrame, by: list[str] | None = None) -> tuple[pd.Series, pd.Series]:
    """Returns log2 epochs to fit as bounds: the evaluations before and after; inf if censored."""
    times = rows.set_index(by or ["seed"])
    with np.errstate(divide="ignore"):
        lower = np.log2(times["epochs_before"].to_numpy(float))
    upper = np.log2(times["epochs_to_fit"].fillna(np.inf).to_numpy(float))
    return pd.Series(lower, index=times.index), pd.Series(upper, index=times.index)


def _minus(
    first: tuple[pd.Series, pd.Series], second: tuple[pd.Series, pd.Series]
) -> tuple[pd.Series, pd.Series]:
    """Returns the bounds of a difference; unbounded both ways where both are censored."""
    return first[0] - second[1], first[1] - second[0]


def _slowing(rows: pd.DataFrame, level: float) -> tuple[pd.Series, pd.Series]:
    """Returns log2 time at the hard end over that at the easy end: less capacity, more data.

    The smallest width is the smallest at which every network fits real data: below it nothing is
    known but that it takes longer than was waited.
    """
    rows_of_real = select(rows, level=0.0)
    rows = select(rows, level=level)
    panel = rows["panel"].iloc[0]
    values = rows[PANELS[panel]]
    if panel == "capacity":
        fitted = _fitted_widths(rows_of_real)
        if len(fitted) < 2:
            raise NotMeasurable(f"real data are fitted at {len(fitted)} widths, 2 are needed")
        values = values[values.isin(fitted)]
    if values.nunique() < 2:
        raise NotMeasurable(f"only one {values.name}")
    smallest, largest = (
        _log_times(select(rows, **{str(values.name): end})) for end in (values.min(), values.max())
    )
    return _minus(smallest, largest) if panel == "capacity" else _minus(largest, smallest)


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            name=f"figure06_{panel}_{words}",
            figure=NAME,
            sentence=f"{change} slows the fit of {data}.",
            statistic=f"doublings of the epochs to fit, {ends}, {level}",
            test=partial(measure_slowing, panel=panel, noisy=noisy),
            threshold=0.32,
            why="0.32 doublings are a quarter more epochs",
        )
        for panel, change, ends in (
            ("capacity", "Less capacity", "largest to the smallest width that fits real data"),
            ("examples", "More data", "smallest to largest data set"),
        )
        for noisy, words, data, level in (
            (False, "real", "real data", "noise level 0"),
            (True, "noise", "noise", "the highest noise level"),
        )
    ),
    *(
        Claim(
            name=f"figure06_{panel}_noise_more",
            figure=NAME,
            sentence=f"{change} slows the fit of noise more than that of real data.",
            statistic=f"doublings of the epochs to fit, {ends}, highest noise level minus level 0 "
            "(the change with size of how much later noise is fitted)",
            test=partial(measure_noise_slowed_more, panel=panel),
            threshold=0.32,
            primary=panel == "capacity",
            why="0.32 doublings are a quarter more epochs",
        )
        for panel, change, ends in (
            ("capacity", "Less capacity", "largest to the smallest width that fits real data"),
            ("examples", "More data", "smallest to largest data set"),
        )
    ),
    Claim(
        name="figure06_diminishing_returns",
        figure=NAME,
        sentence="Returns of capacity diminish sooner on real data.",
        statistic="doublings of the epochs to fit, largest to middle width, highest noise level "
        "minus level 0",
        test=measure_remaining_return,
        threshold=0.14,
        why="0.14 doublings are a tenth more epochs; half of the widths give smaller differences",
    ),
    Claim(
        name="figure06_noise_later",
        figure=NAME,
        sentence="Random inputs take longer to fit than real data.",
        statistic="doublings of the epochs to fit, level 0 to highest, mean over widths",
        test=measure_later,
        threshold=0.32,
        why="0.32 doublings are a quarter more epochs",
    ),
    Claim(
        name="figure06_noise_sooner",
        figure=NAME,
        sentence="Random inputs are fitted sooner than real data.",
        statistic="doublings of the epochs to fit, level 0 to highest, mean over widths",
        test=measure_later,
        direction="below",
        threshold=-0.32,
        why="the mirror of the paper's claim: at most one of the two can be supported",
        source="workshop version",
    ),
)
