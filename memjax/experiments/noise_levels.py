"""Figures 7 and 8: does complexity grow with noise? (MLP on MNIST, CNN on CIFAR-10)

A network is trained where a share of the inputs (randX, left) or of the labels (randY, right) is
noise, at several levels. Plotted over epochs: training and validation accuracy; the critical sample
ratio (CSR) of the validation set, the share of examples with another predicted class within a small
max-norm distance; and the median of that distance, the critical radius, which has no radius to be
chosen and does not saturate. At the end of training the same over the level, of other images as
well, training images and noise that was held out, and as the paper's own search, LASS, finds it
alone.
"""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from memjax.experiments import fit, kinds, noise_claims
from memjax.experiments.context import Context
from memjax.experiments.rows import final, of_kind
from memjax.experiments.scales import Sizes
from memjax.experiments.study_runs import StudyRuns
from memjax.loading import Run
from memjax.passes.base import Options
from memjax.reporting.claims import Claim
from memjax.reporting.figures import (
    add_legend,
    add_legend_below,
    draw_mean_and_range,
    number_log_axis,
    percent,
    seeds_phrase,
)
from memjax.reporting.style import new_figure, series_style, share_style

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
    "median_radius": "median critical radius found of validation examples, in [0, 1] pixels",
    "csr_lass": "share of validation examples that LASS alone finds critical; at the end only",
    "train_csr": "share of training examples found critical; at the end only, as what follows",
    "train_csr_lass": "share of training examples that LASS alone finds critical",
    "train_median_radius": "median critical radius found of training examples",
    "noise_csr": "share of held-out noise images found critical; randX only, as what follows",
    "noise_csr_lass": "share of held-out noise images that LASS alone finds critical",
    "noise_median_radius": "median critical radius found of held-out noise images",
    **fit.COLUMNS,
}


_RUN = ["kind", "level", "seed", "epoch"]


def critical_ratios(runs: StudyRuns, splits: tuple[str, ...], **wanted: Any) -> pd.DataFrame:
    """Returns CSR and median radius at the checkpoints of `growing`, at the study's radius.

    Args:
      runs: of the study.
      splits: to be searched.
      **wanted: which points, as in `StudyRuns.runs`.
    """
    sizes = runs.sizes
    options = Options(splits=splits, **searches(sizes))
    name = "critical" if len(splits) > 1 else f"critical_{splits[0]}"
    steps_of = partial(growing, growth=sizes.search_growth)
    return ratios(runs.analysis("critical", options, name, steps_of=steps_of, **wanted))


def searches(sizes: Sizes) -> dict[str, Any]:
    """Returns the options of every search: without certificates, which say nothing here."""
    # More starts of PGD find points nearer by less than a thousandth, for twice the time; what
    # follows the bisection of a CNN, by one in a hundred for three times the time.
    return {
        "num_examples": sizes.num_searched,
        "radii": (sizes.radius,),
        "certify": False,
        "num_starts": 1,
        "polish": not sizes.channels,
    }


def final_ratios(runs: StudyRuns) -> pd.DataFrame:
    """Returns what is measured at the end alone: a row a network, columns as in `COLUMNS`."""
    options = Options(steps=(-1,), lass=True, **searches(runs.sizes))
    parts = []
    for kinds_of, more in (((kinds.REAL, kinds.RANDY), ()), ((kinds.RANDX,), ("noise",))):
        chosen = dataclasses.replace(options, splits=(*options.splits, *more))
        parts.append(runs.analysis("critical", chosen, "critical_at_end", kind=kinds_of))
    table = pd.concat(parts, ignore_index=True)
    found = ratios(table)
    by_split = []
    for split, rows in found.groupby("split"):
        names = {"csr_lower": f"{split}_csr", "csr_lass": f"{split}_csr_lass"}
        names["median_radius"] = f"{split}_median_radius"
        by_split.append(rows.set_index(_RUN)[list(names)].rename(columns=names))
    wide = pd.concat(by_split, axis=1).rename(columns={"validation_csr_lass": "csr_lass"})
    return wide[[name for name in COLUMNS if name in wide]].reset_index()


def growing(run: Run, growth: float) -> list[int]:
    """Returns a run's first and last checkpoints, from about an epoch on each `growth` as late.

    The search is by far the longest part of the figure, and little changes in between.
    """
    chosen, least = run.steps[:1], run.setup.batches.steps_per_epoch / 2
    for step in run.steps[1:-1]:
        if step >= least:
            chosen.append(step)
            least = growth * step
    return [*chosen, run.steps[-1]]


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Returns critical sample ratios and median radii from the rows of single examples."""
    by = ["kind", "level", "seed", "epoch", "split", "radius"]
    found = table.groupby(by, sort=False)
    means = found[["critical_lower"]].mean()
    means["median_radius"] = found["found_radius"].median()
    if table["critical_lass"].notna().all():
        means["csr_lass"] = found["critical_lass"].mean()
    return means.reset_index().rename(columns={"critical_lower": "csr_lower"})


@dataclasses.dataclass(frozen=True)
class NoiseLevels:
    """Figure 7 or figure 8: the same on another network."""

    NAME: str
    TITLE: str
    STUDIES: tuple[str, ...]
    CLAIMS: tuple[Claim, ...]
    compared: tuple[float, ...]  # levels whose training images are searched too, for figure 9
    COLUMNS = COLUMNS

    def tabulate(self, studies: dict[str, StudyRuns]) -> pd.DataFrame:
        """Returns the figure's table: accuracy at every epoch, CSR at every checkpoint."""
        runs = studies[self.STUDIES[0]]
        levels = set(runs.results["level"])
        both, one = levels.intersection(self.compared), levels.difference(self.compared)
        searched = {("train", "validation"): both, ("validation",): one}
        parts = [
            critical_ratios(runs, splits, level=tuple(sorted(of)))
            for splits, of in searched.items()
            if of
        ]
        found = pd.concat(parts, ignore_index=True)
        found = found[found["split"] == "validation"].drop(columns="split")
        table = runs.results.drop(columns="member").merge(found, on=_RUN, how="outer")
        table = table.merge(final_ratios(runs), on=_RUN, how="left")
        table = fit.with_fit(table, runs.fit.drop(columns="member"))
        return table.fillna({"radius": runs.sizes.radius})[list(COLUMNS)]

    def draw(self, table: pd.DataFrame, context: Context) -> Figure:
        """Draws accuracy, CSR and critical radius, randX to the left and randY to the right."""
        figure, axes = new_figure(columns=2, rows=4, width=4.6, height=2.8)
        for column, (kind, words) in enumerate(kinds.NOISE.items()):
            rows = of_kind(table, kind)
            for level in sorted(rows["level"].unique()):
                _draw_level(axes[:, column], rows[rows["level"] == level], level)
            _draw_ends(axes[3, column], rows)
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
            "distance. Last row: at the end of training, by the level, of three kinds of images. "
            f"Mean (line) and range (band) over {seeds_phrase(table)}."
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
            "Eight panels: accuracy, critical sample ratio and critical radius over epochs, and "
            f"the ratio at the end over the level. At the end, {words}."
        )


def _draw_level(panels: list[Axes], rows: pd.DataFrame, level: float) -> None:
    look = share_style(level)
    for value, dashes in (("train_accuracy", "-"), ("validation_accuracy", ":")):
        style = look | {"linestyle": dashes, "marker": ""}
        draw_mean_and_range(panels[0], rows, "epoch", value, style)
    draw_mean_and_range(panels[1], rows, "epoch", "csr_lower", look, percent(level))
    found = rows.assign(median_radius=255 * rows["median_radius"].where(np.isfinite))
    draw_mean_and_range(panels[2], found, "epoch", "median_radius", look)


def _draw_ends(ax: Axes, rows: pd.DataFrame) -> None:
    ends = rows[rows["train_csr"].notna()]
    drawn = {
        "csr_lower": "validation images",
        "csr_lass": "the same, LASS alone",
        "train_csr": "training images",
        "noise_csr": "held-out noise images",
    }
    for place, (column, words) in enumerate(drawn.items()):
        if ends[column].notna().any():
            look = series_style(place) | {"markevery": 1}
            draw_mean_and_range(ax, ends, "level", column, look, words)
    ax.set(xlabel="share of noise", ylabel="critical sample ratio\nat the end", ylim=(-0.02, 1.02))
    add_legend(ax)


def _in_255(radius: float) -> str:
    return f"{255 * radius:.3g}/255"


FIGURE07 = NoiseLevels(
    "figure07",
    "Figure 7: does complexity grow with noise? (MLP on MNIST)",
    ("mnist_noise",),
    noise_claims.claims("figure07", "MLP on MNIST"),
    (),
)
FIGURE08 = NoiseLevels(
    "figure08",
    "Figure 8: does complexity grow with noise? (CNN on CIFAR-10)",
    ("cifar_noise",),
    noise_claims.claims("figure08", "CNN on CIFAR-10"),
    (0.0, 1.0),
)
