"""Figures 7 and 8: does complexity grow with noise? (MLP on MNIST, CNN on CIFAR-10)

A network is trained where a share of the inputs (randX, left) or of the labels (randY, right) is
noise, at several levels. Plotted over epochs: training and validation accuracy; the critical sample
ratio (CSR) of the validation set, the share of examples with another predicted class within a small
max-norm distance; and the median of that distance, the critical radius, which has no radius to be
chosen and does not saturate.
"""

import dataclasses
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from memjax.experiments import fit, kinds, noise_measures
from memjax.experiments.context import Context
from memjax.experiments.rows import final, of_kind
from memjax.experiments.study_runs import StudyRuns
from memjax.loading import Run
from memjax.passes.base import Options
from memjax.reporting.claims import Claim
from memjax.reporting.figures import (
    add_legend_below,
    draw_mean_and_range,
    number_log_axis,
    percent,
    seeds_phrase,
)
from memjax.reporting.style import new_figure, share_style

COLUMNS = {
    "kind": kinds.KIND_COLUMN,
    "level": kinds.LEVEL_COLUMN,
    "seed": kinds.SEED_COLUMN,
    "epoch": "epochs trained",
    "train_accuracy": "share of the training examples right, by the labels trained on",
    "validation_accuracy": "share of the validation examples right, by their true labels",
    "clean_accuracy": "training accuracy on the examples that are not noise",
    "corrupted_accuracy": "training accuracy on the noise, by the labels trained on",
    "mislabeled_as_true": "share of the wrong labels predicted as the true class",
    "mislabeled_as_label": "share of the wrong labels predicted as the label trained on",
    "radius": "radius of the critical sample ratio, max-norm, in units of [0, 1] pixels",
    "csr_lower": "share of validation examples found critical; nan where it was not measured",
    "csr_upper": "share of validation examples not certified safe; nan where not measured",
    "median_radius": "median critical radius found of validation examples, in [0, 1] pixels",
    **fit.COLUMNS,
}


# One of the two kinds each, and the other in the other figure: a dozen primary claims in all.
PRIMARY = (("figure07", kinds.RANDX), ("figure08", kinds.RANDY))


def critical_ratios(runs: StudyRuns, splits: tuple[str, ...]) -> pd.DataFrame:
    """Returns CSR and median radius at the checkpoints of `doubling`, at the study's radius."""
    sizes = runs.sizes
    options = Options(num_examples=sizes.num_searched, radii=(sizes.radius,), splits=splits)
    name = "critical" if len(splits) > 1 else f"critical_{splits[0]}"
    return ratios(runs.analysis("critical", options, name, steps_of=doubling))


def doubling(run: Run) -> list[int]:
    """Returns a run's first and last checkpoints and, after about an epoch, each twice as late.

    The search is by far the longest part of the figure, and little changes in between.
    """
    chosen, least = run.steps[:1], run.setup.batches.steps_per_epoch / 2
    for step in run.steps[1:-1]:
        if step >= least:
            chosen.append(step)
            least = 2 * step
    return [*chosen, run.steps[-1]]


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Returns critical sample ratios and median radii from the rows of single examples."""
    by = ["kind", "level", "seed", "epoch", "split", "radius"]
    found = table.groupby(by, sort=False)
    means = found[["critical_lower", "critical_upper"]].mean()
    means["median_radius"] = found["found_radius"].median()
    names = {"critical_lower": "csr_lower", "critical_upper": "csr_upper"}
    return means.reset_index().rename(columns=names)


@dataclasses.dataclass(frozen=True)
class NoiseLevels:
    """Figure 7 or figure 8: the same on another network."""

    NAME: str
    TITLE: str
    STUDIES: tuple[str, ...]
    CLAIMS: tuple[Claim, ...]
    searched: tuple[str, ...]
    COLUMNS = COLUMNS

    def tabulate(self, studies: dict[str, StudyRuns]) -> pd.DataFrame:
        """Returns the figure's table: accuracy at every epoch, CSR at every checkpoint."""
        runs = studies[self.STUDIES[0]]
        by = ["kind", "level", "seed", "epoch"]
        found = critical_ratios(runs, self.searched)
        found = found[found["split"] == "validation"].drop(columns="split")
        table = runs.results.drop(columns="member").merge(found, on=by, how="outer")
        table = fit.with_fit(table, runs.fit.drop(columns="member"))
        return table.fillna({"radius": runs.sizes.radius})[list(COLUMNS)]

    def draw(self, table: pd.DataFrame, context: Context) -> Figure:
        """Draws accuracy, CSR and critical radius, randX to the left and randY to the right."""
        figure, axes = new_figure(columns=2, rows=3, width=4.6, height=2.8)
        for column, (kind, words) in enumerate(kinds.NOISE.items()):
            rows = of_kind(table, kind)
            for level in sorted(rows["level"].unique()):
                _draw_level(axes[:, column], rows[rows["level"] == level], level)
            axes[0, column].set_title(words)
        for ax in axes[0]:
            ax.set(xlabel="epochs", ylabel="accuracy", ylim=(-0.02, 1.02))
        for ax in axes[1]:
            ax.set(xlabel="epochs", ylim=(-0.02, 1.02))
            ax.set_ylabel(f"critical sample ratio,\nradius {_in_255(table['radius'].iloc[0])}")
        for ax in axes[2]:
            ax.set(xlabel="epochs", ylabel="median critical radius\n(n/255, log scale)")
            ax.set_yscale("log")
            number_log_axis(ax.yaxis)
        lines, labels = axes[1, 0].get_legend_handles_labels()
        split = [Line2D([], [], color="0.2", linestyle=dashes) for dashes in ("-", ":")]
        names = [
            "training accuracy",
            "validation accuracy",
            *(f"{label} noise" for label in labels),
        ]
        add_legend_below(figure, [*split, *lines], names)
        return figure

    def caption(self, table: pd.DataFrame, context: Context) -> str:
        """Returns what is drawn, with seeds and radius."""
        return (
            f"{context.setup}. Above: training (solid) and validation (dotted) accuracy. Middle: "
            "share of validation examples with another predicted class within max-norm distance "
            f"{_in_255(table['radius'].iloc[0])}, found by searches. Below: the median of that "
            f"distance. Mean (line) and range (band) over {seeds_phrase(table)}."
        )

    def alt_text(self, table: pd.DataFrame, context: Context) -> str:
        """Returns the picture in words."""
        ends = final(table, "validation_accuracy", ["kind", "level"])
        found = final(table, "csr_lower", ["kind", "level"])
        words = "; ".join(
            f"{kind} {percent(level)}: validation accuracy {ends[kind, level]:.2f}, critical "
            f"sample ratio {found[kind, level]:.2f}"
            for kind, level in ends.index.intersection(found.index)
        )
        return (
            "Six panels of accuracy, critical sample ratio and critical radius over epochs. At the "
            f"end, {words}."
        )


def _draw_level(panels: list[Axes], rows: pd.DataFrame, level: float) -> None:
    look = share_style(level)
    for value, dashes in (("train_accuracy", "-"), ("validation_accuracy", ":")):
        style = look | {"linestyle": dashes, "marker": ""}
        draw_mean_and_range(panels[0], rows, "epoch", value, style)
    draw_mean_and_range(panels[1], rows, "epoch", "csr_lower", look, percent(level))
    found = rows.assign(median_radius=255 * rows["median_radius"].where(np.isfinite))
    draw_mean_and_range(panels[2], found, "epoch", "median_radius", look)


def _in_255(radius: float) -> str:
    return f"{255 * radius:.3g}/255"


def _claims(figure: str, network: str) -> tuple[Claim, ...]:
    """Returns the claims of figure 7 or 8, the same for both networks."""
    claim = partial(Claim, figure=figure)
    measures = noise_measures
    by_kind = (
        made
        for kind, words in kinds.NOISE.items()
        for made in (
            claim(
                name=f"{figure}_radius_{kind.lower()}",
                sentence=f"{network}: the decision boundaries are nearer with more {words}.",
                statistic="doublings of the median critical radius of validation images at the end "
                "of training, level 0 to 1",
                test=partial(measures.measure_radius_rise, kind=kind),
                direction="below",
                threshold=-0.5,
                why="0.5 doublings: nearly a third nearer with nothing but noise than with none",
                primary=(figure, kind) in PRIMARY,
                gate=measures.gate_of(kind),
            ),
            claim(
                name=f"{figure}_csr_{kind.lower()}",
                sentence=f"{network}: the critical sample ratio is higher with more {words}.",
                statistic="rise of the final validation CSR (found by search), level 0 to 1",
                test=partial(measures.measure_csr_rise, kind=kind),
                threshold=0.05,
                why="one example in twenty more is critical",
                gate=measures.gate_of(kind),
            ),
            claim(
                name=f"{figure}_csr_monotone_{kind.lower()}",
                sentence=f"{network}: the critical sample ratio rises level by level of {words}.",
                statistic="Kendall's tau of final validation CSR and level, mean over seeds",
                test=partial(measures.measure_monotone, kind=kind),
                threshold=0.5,
                opposite=0.0,
                why="0.5: three of four pairs of levels are in order; 0 is no order",
                gate=measures.gate_of(kind),
            ),
            claim(
                name=f"{figure}_csr_matched_{kind.lower()}",
                sentence=f"{network}: at equal training accuracy CSR is higher on {words}.",
                statistic="validation CSR of the highest level minus that of real data, each where "
                f"{measures.MATCHED:.0%} of its training examples are first right",
                test=partial(measures.measure_csr_matched, kind=kind),
                threshold=0.05,
                why="one example in twenty more is critical",
            ),
            claim(
                name=f"{figure}_fits_{kind.lower()}",
                sentence=f"{network}: the networks fit {words}.",
                statistic="final training accuracy at the highest level",
                test=partial(measures.measure_fitted, kind=kind),
                threshold=fit.FITTED,
                opposite=0.9,
                why="99 % is the gate of the other claims; below 90 % they do not fit",
                primary=figure == "figure07",
            ),
            claim(
                name=f"{figure}_final_accuracy_{kind.lower()}",
                sentence=f"{network}: final validation accuracy is lower with more {words}.",
                statistic="rise of the final validation accuracy, level 0 to 1",
                test=partial(measures.measure_final_accuracy_rise, kind=kind),
                direction="below",
                threshold=-0.02,
                why="two points of accuracy are more than the spread between seeds",
                gate=measures.gate_of(kind),
            ),
            claim(
                name=f"{figure}_best_accuracy_{kind.lower()}",
                sentence=f"{network}: best validation accuracy is lower with more {words}.",
                statistic="rise of the best validation accuracy, level 0 to 1",
                test=partial(measures.measure_best_accuracy_rise, kind=kind),
                direction="below",
                threshold=-0.02,
                why="two points of accuracy are more than the spread between seeds",
            ),
        )
    )
    return (*by_kind, *_order_claims(figure, network))


def _order_claims(figure: str, network: str) -> tuple[Claim, ...]:
    """Returns the claims on what comes first, all at the highest level of randY below 1."""
    claim = partial(Claim, figure=figure)
    measures = noise_measures
    return (
        claim(
            name=f"{figure}_patterns_first",
            sentence=f"{network}: patterns are learned before noise is memorized.",
            statistic="doublings from the epochs in which half of the clean training examples are "
            "right to those for half of the wrong labels, highest randY level",
            test=measures.measure_clean_first,
            threshold=1.0,
            why="the wrong labels take at least twice as long",
            primary=figure == "figure07",
        ),
        claim(
            name=f"{figure}_true_label_first",
            sentence=f"{network}: wrong labels are first predicted as the true class.",
            statistic="share of the wrong labels predicted as the true class minus as the label, "
            "where clean and wrong are told apart best in training, highest randY level",
            test=measures.measure_true_first,
            threshold=0.2,
            why="one in five more: the pattern is stronger than the label",
        ),
        claim(
            name=f"{figure}_randy_takes_longer",
            sentence=f"{network}: random labels take longer to fit than real data.",
            statistic="doublings of the epochs to 99 % training accuracy, real data to the "
            "highest level of randY",
            test=measures.measure_randy_later,
            threshold=0.32,
            why="0.32 doublings are a quarter more epochs",
        ),
        claim(
            name=f"{figure}_randy_peaks_early",
            sentence=f"{network}: with random labels validation accuracy peaks early.",
            statistic="share of training at which it peaks, highest randY level below 1",
            test=measures.measure_peak_time,
            direction="below",
            threshold=0.5,
            opposite=0.5,
            why="early is in the first half of training",
            gate=measures.gate_of(kinds.RANDY),
        ),
        claim(
            name=f"{figure}_randy_falls",
            sentence=f"{network}: with random labels validation accuracy falls after its peak.",
            statistic="validation accuracy where clean and wrong are told apart best in training, "
            "minus at the end, highest randY level below 1",
            test=measures.measure_fall,
            threshold=0.02,
            opposite=0.01,
            why="two points are more than the spread between seeds; below one there is no fall",
            gate=measures.gate_of(kinds.RANDY),
        ),
        claim(
            name=f"{figure}_randy_csr_rises_meanwhile",
            sentence=f"{network}: with random labels CSR rises while validation accuracy falls.",
            statistic="validation CSR at the end minus where clean and wrong are told apart best",
            test=measures.measure_csr_rise_meanwhile,
            threshold=0.05,
            why="one example in twenty more is critical",
            gate=measures.gate_of(kinds.RANDY),
        ),
    )


FIGURE07 = NoiseLevels(
    "figure07",
    "Figure 7: does complexity grow with noise? (MLP on MNIST)",
    ("mnist_noise",),
    _claims("figure07", "MLP on MNIST"),
    ("validation",),
)
FIGURE08 = NoiseLevels(
    "figure08",
    "Figure 8: does complexity grow with noise? (CNN on CIFAR-10)",
    ("cifar_noise",),
    _claims("figure08", "CNN on CIFAR-10"),
    ("train", "validation"),  # figure 9 has both
)
