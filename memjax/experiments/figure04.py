"""Figure 4: how does the loss on one class depend on the examples of another?

The networks and data of figure 3. Plotted on a log scale, for real data and for randX: the matrix
of the mean loss-sensitivity of class i's loss to the examples of class j, averaged over training.
"""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from memjax.experiments import fit, kinds
from memjax.experiments.context import Context
from memjax.experiments.figure03 import sensitivity_options
from memjax.experiments.rows import select
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Claim
from memjax.reporting.figures import number_log_axis, seeds_phrase
from memjax.reporting.measurement import Measurement, NotMeasurable, over_seeds
from memjax.reporting.style import new_figure

NAME = "figure04"
TITLE = "Figure 4: how does the loss on one class depend on the examples of another?"
DATA = {kind: kinds.WORDS[kind] for kind in (kinds.REAL, kinds.RANDX)}
COLUMNS = {
    "data": "real or randX (every input is noise)",
    "seed": "seed of the network, of the order of the examples and of the noise",
    "label_class": "class of the training examples that the gradient is with respect to",
    "loss_class": "class of the examples whose loss it is",
    "sensitivity": "l1 norm of the gradient, mean over the class's examples and over the steps, "
    "nats per unit of pixel intensity",
    **fit.COLUMNS,
}

STUDIES = ("influence",)


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the figure's table: a matrix of classes for every run with class labels."""
    runs = studies["influence"]
    found = runs.analysis("class_sensitivity", sensitivity_options(runs), labels="class")
    names = {"kind": "data", "image_class": "label_class"}
    return fit.with_fit(found, runs.fit).rename(columns=names)[list(COLUMNS)]


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws both matrices beside each other, with one colour bar."""
    figure, axes = new_figure(columns=2, width=4.0, height=3.7)
    matrices = {data: _matrix(table, data) for data in DATA}
    seen = np.concatenate([matrix.to_numpy().ravel() for matrix in matrices.values()])
    seen = seen[seen > 0]
    scale = LogNorm(seen.min(), seen.max())
    for ax, (data, words) in zip(axes[0], DATA.items(), strict=True):
        matrix = matrices[data]
        values = np.ma.masked_less_equal(matrix.to_numpy(), 0)
        ax.grid(False)
        image = ax.imshow(values, norm=scale, cmap="cividis")
        ax.set(title=words, xlabel="class j of the examples", ylabel="class i of the loss")
        ax.set_xticks(range(matrix.shape[1]), matrix.columns)
        ax.set_yticks(range(matrix.shape[0]), matrix.index)
    bar = figure.colorbar(image, ax=list(axes[0]), shrink=0.85)
    number_log_axis(bar.ax.yaxis)
    bar.set_label("l1 loss-sensitivity (nats per unit\nof pixel intensity, log scale)")
    return figure


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with seeds."""
    return (
        f"{context.setup}. Cell (i, j): l1 norm of the gradient of class i's loss with "
        "respect to an example of class j, through all updates, averaged over the examples of the "
        f"class and over training; median over {seeds_phrase(table)}. One log scale for both; a "
        "white cell is 0."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    words = "; ".join(
        f"{DATA[data]}: diagonal {diagonal.median():.2g}, other cells {others.median():.2g}"
        for data in DATA
        for diagonal, others in [_parts(table, data)]
    )
    return f"Two square matrices of colours, class by class. {words}."


def measure_diagonal(table: pd.DataFrame, data: str) -> Measurement:
    """Doublings from the mean off-diagonal sensitivity to the mean diagonal one."""
    diagonal, others = _parts(table, data)
    return over_seeds(np.log2(diagonal / others))


def measure_shared(table: pd.DataFrame) -> Measurement:
    """Doublings of off-diagonal over diagonal sensitivity, real data minus randX."""
    real, noise = ([*_parts(table, data)] for data in DATA)
    return over_seeds(np.log2(real[1] / real[0]) - np.log2(noise[1] / noise[0]))


def measure_off_diagonal(table: pd.DataFrame) -> Measurement:
    """Doublings from the mean off-diagonal sensitivity of randX to that of real data."""
    real, noise = (_parts(table, data)[1] for data in DATA)
    return over_seeds(np.log2(real / noise))


def _matrix(table: pd.DataFrame, data: str) -> pd.DataFrame:
    rows = select(table, data=data)
    # A network whose training amplifies every change is hundreds of times above the others.
    return rows.pivot_table(
        index="loss_class", columns="label_class", values="sensitivity", aggfunc="median"
    )


def _parts(table: pd.DataFrame, data: str) -> tuple[pd.Series, pd.Series]:
    """Returns for each seed the mean diagonal and the mean off-diagonal sensitivity."""
    rows = select(table, data=data)
    is_diagonal = rows["label_class"] == rows["loss_class"]
    diagonal, others = (
        part.groupby("seed")["sensitivity"].mean()
        for part in (rows[is_diagonal], rows[~is_diagonal])
    )
    if diagonal.empty or others.empty or min(diagonal.min(), others.min()) <= 0:
        raise NotMeasurable(f"the matrix of {data} has no positive diagonal and off-diagonal means")
    return diagonal, others


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            name=f"figure04_diagonal_{data.lower()}",
            figure=NAME,
            sentence=f"Class by class, the diagonal dominates ({DATA[data]}).",
            statistic="doublings from the mean off-diagonal to the mean diagonal sensitivity",
            test=partial(measure_diagonal, data=data),
            threshold=0.58,
            why="0.58 doublings are half as much again",
        )
        for data in DATA
    ),
    Claim(
        name="figure04_shared_patterns",
        figure=NAME,
        sentence="Relative to the diagonal, off-diagonal cells are larger for real data: patterns "
        "are shared across classes.",
        statistic="doublings of off-diagonal over diagonal sensitivity, real data minus randX",
        test=measure_shared,
        primary=True,
        threshold=0.32,
        why="0.32 doublings are a quarter more",
    ),
    Claim(
        name="figure04_off_diagonal",
        figure=NAME,
        sentence="Off-diagonal cells are larger for real data than for random data.",
        statistic="doublings from the mean off-diagonal sensitivity of randX to that of real data",
        test=measure_off_diagonal,
        threshold=0.32,
        why="0.32 doublings are a quarter more",
    ),
)
