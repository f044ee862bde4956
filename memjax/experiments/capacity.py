"""Capacity beyond figure 5: what the paper says in prose, and does not plot.

As figure 5, but on CIFAR-10 and with other kinds of noise: random inputs (randX), random labels
(randY), and, as a control, the examples that would become noise left out altogether (removed).
"""

from functools import partial

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memjax.experiments import fit, kinds
from memjax.experiments.context import Context
from memjax.experiments.figure05 import (
    capacity_words,
    draw_capacity,
    measure_more_needed,
    partly_noise,
)
from memjax.experiments.rows import of_kind, select
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Claim
from memjax.reporting.figures import add_legend_below, listed, seeds_phrase
from memjax.reporting.measurement import Measurement
from memjax.reporting.style import new_figure

NAME = "capacity"
TITLE = "Capacity with other data and noise (stated in the paper, not plotted)"
KINDS = {kind: kinds.WORDS[kind] for kind in (kinds.RANDX, kinds.RANDY, kinds.REMOVED)}
COLUMNS = {
    "dataset": "mnist or cifar10: the data set of the paper that it is, or stands for",
    "kind": "real (level 0, shared by all kinds), randX, randY or removed",
    "level": "share of the training examples that are noise, or are left out; 0 to 1",
    "width": "hidden units in each of the two layers",
    "seed": "seed of the network, the order and the noise",
    "best_validation_accuracy": "highest validation accuracy over training, share right",
    **fit.COLUMNS,
}

STUDIES = ("capacity", "cifar_capacity")


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the table: the best accuracy of every run on both data sets."""
    names = {"capacity": "mnist", "cifar_capacity": "cifar10"}
    parts = [
        fit.with_fit(studies[study].last_rows(), studies[study].fit).assign(dataset=names[study])
        for study in STUDIES
    ]
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws best validation accuracy over width, a panel for each data set and kind of noise."""
    panels = _panels(table)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(columns, rows, width=3.8, height=3.4)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    first: dict[str, Axes] = {}
    for ax, (dataset, kind) in zip(axes.flat, panels, strict=False):
        ax.sharey(first.setdefault(dataset, ax))
        draw_capacity(ax, of_kind(select(table, dataset=dataset), kind))
        ax.set_title(f"{kinds.DATASETS[dataset]}: {KINDS[kind]}", fontsize=10)
    lines, levels = axes[0, 0].get_legend_handles_labels()
    add_legend_below(figure, lines, [f"level {level}" for level in levels])
    return figure


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with widths and seeds."""
    return (
        f"{context.setup}. Best validation accuracy over training for widths "
        f"{listed(sorted(table['width'].unique()))}; mean (line) and range (band) over "
        f"{seeds_phrase(table)}."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    words = [
        f"{dataset}, {KINDS[kind]}: {capacity_words(of_kind(select(table, dataset=dataset), kind))}"
        for dataset, kind in _panels(table)
    ]
    return "Curves of best validation accuracy over hidden units. " + " ".join(words)


def measure_noise_needs_more(table: pd.DataFrame, dataset: str, kind: str) -> Measurement:
    """Doublings of the width needed, from real data to some noise of this kind."""
    rows = select(table, dataset=dataset)
    return measure_more_needed(partly_noise(select(rows, kind=kind)), select(rows, kind="real"))


def measure_removed(table: pd.DataFrame, dataset: str) -> Measurement:
    """Doublings of the width needed, from examples removed to as many turned to noise."""
    rows = select(table, dataset=dataset)
    removed, noise = (partly_noise(select(rows, kind=kind)) for kind in ("removed", "randX"))
    shared = set(removed["level"]) & set(noise["level"])
    removed, noise = (part[part["level"].isin(shared)] for part in (removed, noise))
    return measure_more_needed(noise, removed)


def _panels(table: pd.DataFrame) -> list[tuple[str, str]]:
    there = table.groupby(["dataset", "kind"]).size().index
    return [
        (dataset, kind)
        for dataset in sorted(table["dataset"].unique(), reverse=True)
        for kind in KINDS
        if (dataset, kind) in there
    ]


_NEEDED = "doublings of the width that reaches 98 % of the curve's own plateau"
CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="capacity_cifar10_randx",
        figure=NAME,
        sentence="The same is seen on CIFAR-10 with random inputs.",
        statistic=f"{_NEEDED}, real data to randX, CIFAR-10",
        test=partial(measure_noise_needs_more, dataset="cifar10", kind="randX"),
        threshold=0.5,
        why="the margin of figure 5",
    ),
    Claim(
        name="capacity_cifar10_randy",
        figure=NAME,
        sentence="There is no such relation on CIFAR-10 with random labels.",
        statistic=f"{_NEEDED}, real data to randY, CIFAR-10",
        test=partial(measure_noise_needs_more, dataset="cifar10", kind="randY"),
        direction="within",
        threshold=0.5,
        opposite=-0.5,
        why="what would support the claim for random inputs contradicts this one",
    ),
    Claim(
        name="capacity_removed",
        figure=NAME,
        sentence="If the noise examples are left out instead, less capacity is needed.",
        statistic=f"{_NEEDED}, examples removed to as many turned to noise, equal updates, MNIST",
        test=partial(measure_removed, dataset="mnist"),
        threshold=0.5,
        why="the margin of figure 5",
    ),
    Claim(
        name="capacity_removed_beyond_real",
        figure=NAME,
        sentence="Fewer real examples need less capacity than all of them.",
        statistic=f"{_NEEDED}, real data to examples removed, MNIST",
        test=partial(measure_noise_needs_more, dataset="mnist", kind="removed"),
        direction="below",
        threshold=-0.5,
        why="the margin of figure 5",
    ),
)
