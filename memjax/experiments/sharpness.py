"""Sharpness: does the loss surface grow sharper with noise?

From the earlier workshop version of the paper. Networks are trained with a share of noise inputs
(randX) or noise labels (randY). Plotted: the largest-magnitude eigenvalue of the Hessian of the
training loss at the end of training, against the noise level.
"""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memjax.experiments import fit, kinds
from memjax.experiments.context import Context
from memjax.experiments.rows import final, of_kind, rise_over_levels
from memjax.experiments.study_runs import StudyRuns
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
    "epoch": "epochs trained",
    "eigenvalue": "largest-magnitude eigenvalue of the Hessian of the mean training loss",
    **fit.COLUMNS,
}

STUDIES = ("mnist_noise",)


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the table: the sharpness of every run at the end of its training."""
    runs = studies["mnist_noise"]
    options = Options(steps=(-1,), splits=("train",), num_examples=runs.sizes.num_hessian)
    return fit.with_fit(runs.analysis("sharpness", options), runs.fit)[list(COLUMNS)]


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws the magnitude of the eigenvalue over the noise level."""
    figure, axes = new_figure(width=6.0, height=4.0)
    ax = axes[0, 0]
    for place, (kind, words) in enumerate(KINDS.items()):
        rows = _sharpness(table, kind).rename("sharpness").reset_index()
        style = series_style(place) | {"markevery": 1}
        draw_mean_and_range(ax, rows, "level", "sharpness", style, words)
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
        "the mean training loss, averaged over the last tenth of training; mean (line) and range "
        f"(band) over {seeds_phrase(table)}."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    means = {kind: _sharpness(table, kind).groupby("level").mean() for kind in KINDS}
    words = "; ".join(
        f"{KINDS[kind]} from {mean.iloc[0]:.3g} to {mean.iloc[-1]:.3g}"
        for kind, mean in means.items()
    )
    return f"Curves of sharpness over the noise level: {words}."


def measure_rise(table: pd.DataFrame, kind: str) -> Measurement:
    """Doublings of the sharpness from noise level 0 to 1, by least squares."""
    return over_seeds(rise_over_levels(np.log2(_sharpness(table, kind))))


def _sharpness(table: pd.DataFrame, kind: str) -> pd.Series:
    rows = of_kind(table, kind)
    magnitudes = rows.assign(eigenvalue=rows["eigenvalue"].abs())
    return final(magnitudes, "eigenvalue", ["level", "seed"])


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            name=f"sharpness_{kind.lower()}",
            figure=NAME,
            sentence=f"Sharpness rises with noise: {KINDS[kind]}.",
            statistic="doublings of the largest |eigenvalue| of the Hessian, level 0 to 1",
            test=partial(measure_rise, kind=kind),
            threshold=1.0,
            why="from no noise to nothing but noise it at least doubles",
            source="workshop version",
        )
        for kind in KINDS
    ),
)
