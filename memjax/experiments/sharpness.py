"""Sharpness: does the loss surface grow sharper with noise?

From the earlier workshop version of the paper. Networks are trained with a share of noise inputs
(randX) or noise labels (randY). Plotted: the largest-magnitude eigenvalue of the Hessian of the
training loss against the noise level, when the network has just fitted its training examples, where
networks are alike in what they have learned, and at the end of training.
"""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memjax.experiments import fit, kinds
from memjax.experiments.context import Context
from memjax.experiments.rows import of_kind, rise_over_levels, select
from memjax.experiments.study_runs import StudyRuns
from memjax.loading import Run
from memjax.passes.base import Options
from memjax.reporting.claims import Claim
from memjax.reporting.figures import add_legend, draw_mean_and_range, number_log_axis, seeds_phrase
from memjax.reporting.measurement import Measurement, over_seeds
from memjax.reporting.style import new_figure, series_style

NAME = "sharpness"
TITLE = "Sharpness: does the loss surface grow sharper with noise? (workshop version)"
KINDS = kinds.NOISE
COLUMNS = {
    "kind": "real (level 0, shared by both kinds), randX or randY",
    "level": "share of the training examples that are noise, 0 to 1",
    "seed": "seed of the network, the order and the noise",
    "when": "'first fit' (the first checkpoint with 99 % of the training examples right) or 'end'",
    "epoch": "epochs trained",
    "eigenvalue": "largest-magnitude eigenvalue of the Hessian of the mean training loss",
    **fit.COLUMNS,
}

STUDIES = ("mnist_noise",)
FIRST_FIT, END = "first fit", "end"
_RUN = ["kind", "level", "seed"]


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the table: the sharpness of every run when it has just fitted, and at its end."""
    runs = studies["mnist_noise"]
    options = Options(splits=("train",), num_examples=runs.sizes.num_hessian)
    found = runs.analysis("sharpness", options, steps_of=first_fit_and_end)
    last = found.groupby(_RUN)["epoch"].transform("max")
    found = found.assign(when=np.where(found["epoch"] < last, FIRST_FIT, END))
    return fit.with_fit(found, runs.fit)[list(COLUMNS)]


def first_fit_and_end(run: Run) -> list[int]:
    """Returns the first checkpoint at which a run has fitted, if it has, and its last."""
    rows = run.metrics
    fitted = rows.loc[rows["train_accuracy"] >= fit.FITTED, "step"]
    first = [step for step in run.steps if not fitted.empty and step >= fitted.iloc[0]][:1]
    return sorted({*first, run.steps[-1]})


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws the magnitude of the eigenvalue over the noise level."""
    figure, axes = new_figure(width=6.0, height=4.0)
    ax = axes[0, 0]
    for place, (kind, words) in enumerate(KINDS.items()):
        for when, dashes in ((END, "-"), (FIRST_FIT, ":")):
            if (of_kind(table, kind)["when"] == when).any():
                rows = _sharpness(table, kind, when).rename("sharpness").reset_index()
                style = series_style(place) | {"markevery": 1, "linestyle": dashes}
                draw_mean_and_range(ax, rows, "level", "sharpness", style, f"{words}, {when}")
    ax.set_yscale("log")
    number_log_axis(ax.yaxis)
    ax.set(xlabel="noise level (share of the training examples)")
    ax.set_ylabel("largest |eigenvalue| of the\nHessian (nats, log scale)")
    add_legend(ax)
    return figure


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with seeds."""
    return (
        f"{context.setup}. Magnitude of the largest-magnitude eigenvalue of the Hessian of "
        "the mean training loss, at the end of training (solid) and at the first checkpoint at "
        f"which {fit.FITTED:.0%} of the training examples are right (dotted); mean (line) and "
        f"range (band) over {seeds_phrase(table)}."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    means = {kind: _sharpness(table, kind, END).groupby("level").mean() for kind in KINDS}
    words = "; ".join(
        f"{KINDS[kind]} from {mean.iloc[0]:.3g} to {mean.iloc[-1]:.3g}"
        for kind, mean in means.items()
    )
    return f"Curves of sharpness over the noise level, at the end of training: {words}."


def measure_rise(table: pd.DataFrame, kind: str, when: str) -> Measurement:
    """Doublings of the sharpness from noise level 0 to 1, by least squares."""
    return over_seeds(rise_over_levels(np.log2(_sharpness(table, kind, when))))


def _sharpness(table: pd.DataFrame, kind: str, when: str) -> pd.Series:
    rows = select(of_kind(table, kind), when=when)
    return rows.set_index(["level", "seed"])["eigenvalue"].abs()


def _all_have_fitted(table: pd.DataFrame, kind: str) -> str:
    """The gate of claims about networks that have just fitted."""
    rows = of_kind(table, kind)
    if closed := fit.gate()(rows):
        return closed
    unfitted = rows.groupby(_RUN)["when"].agg(lambda when: FIRST_FIT not in set(when)).sum()
    return f"{unfitted} networks do not fit before their last checkpoint" if unfitted else ""


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            name=f"sharpness_{kind.lower()}{'_first_fit' if when == FIRST_FIT else ''}",
            figure=NAME,
            sentence=f"Sharpness rises with noise: {KINDS[kind]}, {words}.",
            statistic="doublings of the largest |eigenvalue| of the Hessian, level 0 to 1",
            test=partial(measure_rise, kind=kind, when=when),
            gate=partial(_all_have_fitted, kind=kind) if when == FIRST_FIT else None,
            threshold=1.0,
            why="from no noise to nothing but noise it at least doubles",
            source="workshop version",
        )
        for when, words in (
            (END, "at the end of training"),
            (FIRST_FIT, "when the network has just fitted"),
        )
        for kind in KINDS
    ),
)
