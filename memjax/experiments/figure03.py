"""Figure 3: does the loss depend on few examples?

An MLP with two layers of 16 units is trained on 1000 MNIST digits of 14x14 pixels with SGD, on real
inputs and on randX (inputs replaced by noise); with the 10 classes as labels (left), and with every
example a class of its own (right). Plotted: the Gini coefficient over examples of the
loss-sensitivity, the l1 norm of the gradient of the average loss after t updates with respect to an
example, differentiated through all t updates, as training goes on; and that of its mean over the
updates so far.
"""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memjax.analysis.statistics import gini
from memjax.experiments import fit
from memjax.experiments.context import Context
from memjax.experiments.rows import select
from memjax.experiments.study_runs import StudyRuns
from memjax.passes.base import Options
from memjax.reporting.claims import Claim
from memjax.reporting.figures import add_legend, draw_mean_and_range, listed, seeds_phrase
from memjax.reporting.measurement import Measurement, over_seeds
from memjax.reporting.style import new_figure, series_style

NAME = "figure03"
TITLE = "Figure 3: does the loss depend on few examples?"
DATA = ("real", "randX")
LABELS = {"class": "10 classes as labels", "unique": "every example its own class"}
COLUMNS = {
    "data": "real or randX (every input is noise)",
    "labels": "class (those of the data) or unique (every example is a class of its own)",
    "seed": "seed of the network, of the order of the examples and of the noise",
    "step": "number of SGD updates before the loss was taken",
    "num_examples": "number of training examples",
    "gini": "Gini coefficient over the examples of the l1 norm of the loss-sensitivity",
    "gini_of_mean": "the same of every example's mean norm over the probed updates so far",
    **fit.COLUMNS,
}

STUDIES = ("influence",)


def sensitivity_options(runs: StudyRuns, **chosen: Any) -> Options:
    """Returns the options of the sensitivity passes at a study's sizes.

    What is measured is the training from a seed, not the checkpoint that another order of additions
    leads to: some networks on noise amplify rounding over 5000 updates, and both are of their kind.
    """
    sizes = runs.sizes
    return Options(
        num_probes=sizes.num_probes, num_class_probes=sizes.num_class_probes,
        max_trajectory_error=math.inf, **chosen,
    )  # fmt: skip


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the figure's table: a Gini coefficient per run and probed step."""
    runs = studies["influence"]
    return table_of(runs, runs.analysis("sensitivity", sensitivity_options(runs)))


def table_of(runs: StudyRuns, found: pd.DataFrame) -> pd.DataFrame:
    """Returns the figure's table from the rows of pass `sensitivity`."""
    by_step = found.groupby(["kind", "labels", "seed", "step"], sort=False)["gini"]
    table = by_step.agg(gini="first", num_examples="size").reset_index()
    run = ["kind", "labels", "seed"]
    means = pd.concat(
        {key: gini_of_running_mean(rows) for key, rows in found.groupby(run, sort=False)}, names=run
    )
    means = means.rename("gini_of_mean").reset_index()
    table = table.merge(means, on=[*run, "step"], validate="one_to_one")
    return fit.with_fit(table, runs.fit).rename(columns={"kind": "data"})[list(COLUMNS)]


def gini_of_running_mean(found: pd.DataFrame) -> pd.Series:
    """Returns the Gini coefficient of the examples' mean sensitivity up to each step.

    Args:
      found: of one run: rows of step, index (of the example) and sensitivity.

    Example:
      >>> rows = {"step": [1, 1, 2, 2], "index": [0, 1, 0, 1], "sensitivity": [1.0, 1, 1, 5]}
      >>> gini_of_running_mean(pd.DataFrame(rows)).round(3).tolist()  # of 1, 1 and of 1, 3
      [0.0, 0.25]
    """
    by_step = found.pivot(index="step", columns="index", values="sensitivity").sort_index()
    means = by_step.expanding().mean()
    found_of_step = gini(jnp.asarray(means.to_numpy(np.float32)), axis=1)
    return pd.Series(np.asarray(found_of_step, np.float64), means.index)


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws the Gini coefficients over steps, one panel for each kind of labels."""
    figure, axes = new_figure(columns=2, width=4.2)
    for ax, (labels, title) in zip(axes[0], LABELS.items(), strict=True):
        for place, data in enumerate(DATA):
            rows = select(table, labels=labels, data=data)
            style = series_style(place)
            draw_mean_and_range(ax, rows, "step", "gini", style, data)
            dotted = style | {"linestyle": ":", "marker": ""}
            words = f"{data}, mean over the updates so far"
            draw_mean_and_range(ax, rows, "step", "gini_of_mean", dotted, words)
        ax.set(title=title, xlabel="SGD updates", ylim=(0, 1))
        ax.set_ylabel("Gini coefficient of the\nloss-sensitivity over examples")
        add_legend(ax)
    return figure


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with seeds and number of examples."""
    return (
        f"{context.setup}. Gini coefficient of the l1 loss-sensitivity over "
        f"{listed(sorted(table['num_examples'].unique()))} examples: 0 if all matter equally, near "
        "1 if the loss depends on few; dotted: of each example's mean over the updates so far. "
        f"Mean (line) and range (band) over {seeds_phrase(table)}."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    means = table.groupby(["labels", "data"])["gini"].mean()
    words = "; ".join(
        f"{LABELS[labels]}: " + ", ".join(f"{data} {means[labels, data]:.2f}" for data in DATA)
        for labels in LABELS
    )
    return f"Two panels of Gini coefficients over training. Mean over training, {words}."


def mean_gini(table: pd.DataFrame, **values: str) -> pd.Series:
    """Returns for each seed the Gini coefficient averaged over the measured steps."""
    return select(table, **values).groupby("seed")["gini"].mean()


def measure_gini(table: pd.DataFrame, data: str, labels: str) -> Measurement:
    """Gini coefficient averaged over the measured steps."""
    return over_seeds(mean_gini(table, data=data, labels=labels))


def measure_gini_difference(table: pd.DataFrame, labels: str) -> Measurement:
    """Gini coefficient of real data minus that of randX, averaged over the measured steps."""
    real = mean_gini(table, data="real", labels=labels)
    return over_seeds(real - mean_gini(table, data="randX", labels=labels))


def measure_mean_difference(table: pd.DataFrame) -> Measurement:
    """Gini coefficient of the mean over all updates, real data minus randX, class labels."""
    rows = select(table, labels="class")
    ends = rows[rows["step"] == rows.groupby(["data", "seed"])["step"].transform("max")]
    real, noise = (select(ends, data=data).set_index("seed")["gini_of_mean"] for data in DATA)
    return over_seeds(real - noise)


_EXPONENTIAL = "0.5 is the Gini coefficient of exponential values, 1/3 of uniform ones (0 to max)"
CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="figure03_class_labels",
        figure=NAME,
        sentence="Loss depends on a subset of the examples on real data, on nearly all on noise.",
        statistic="Gini coefficient of real data minus randX, class labels, mean over training",
        test=partial(measure_gini_difference, labels="class"),
        threshold=0.1,
        primary=True,
        why="a tenth of the coefficient's range can be seen in a plot",
    ),
    Claim(
        name="figure03_unique_labels",
        figure=NAME,
        sentence="The same holds if every example is a class of its own.",
        statistic="Gini coefficient of real data minus randX, unique labels, mean over training",
        test=partial(measure_gini_difference, labels="unique"),
        threshold=0.1,
        why="a tenth of the coefficient's range can be seen in a plot",
    ),
    Claim(
        name="figure03_mean_over_training",
        figure=NAME,
        sentence="The same holds of each example's sensitivity averaged over training.",
        statistic="Gini coefficient of the mean over training, real data minus randX, class labels",
        test=measure_mean_difference,
        threshold=0.1,
        why="a tenth of the coefficient's range can be seen in a plot",
    ),
    Claim(
        name="figure03_real_high",
        figure=NAME,
        sentence="On real data only a subset of the examples matters (high Gini coefficient).",
        statistic="Gini coefficient of real data, class labels, mean over training",
        test=partial(measure_gini, data="real", labels="class"),
        threshold=0.5,
        opposite=1 / 3,
        why=_EXPONENTIAL,
    ),
    Claim(
        name="figure03_noise_low",
        figure=NAME,
        sentence="On noise nearly all examples matter (low Gini coefficient).",
        statistic="Gini coefficient of randX, class labels, mean over training",
        test=partial(measure_gini, data="randX", labels="class"),
        direction="below",
        threshold=1 / 3,
        opposite=0.5,
        why=_EXPONENTIAL,
    ),
)
