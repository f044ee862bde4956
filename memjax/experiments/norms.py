"""Figure 3 with other norms: does the picture depend on the l1 norm?

The paper says that the l2 and l-infinity norms of the loss-sensitivity give similar results.
Plotted: the Gini coefficient over examples, as in figure 3, for each norm.
"""

import math
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from memjax.experiments import fit
from memjax.experiments.context import Context
from memjax.experiments.figure03 import DATA, mean_gini, sensitivity_options
from memjax.experiments.rows import select
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Claim
from memjax.reporting.figures import add_legend, draw_mean_and_range, seeds_phrase
from memjax.reporting.measurement import Measurement, over_seeds
from memjax.reporting.style import new_figure, series_style

NAME = "norms"
TITLE = "Loss-sensitivity in other norms (stated in the paper, not plotted)"
NORMS = {"l1": "l1 norm", "l2": "l2 norm", "linf": "l-infinity norm"}
COLUMNS = {
    "data": "real or randX (every input is noise)",
    "norm": "l1, l2 or linf: norm of the gradient with respect to an example",
    "seed": "seed of the network, of the order of the examples and of the noise",
    "step": "number of SGD updates before the loss was taken",
    "gini": "Gini coefficient over the examples of that norm",
    **fit.COLUMNS,
}

STUDIES = ("influence",)
_ORDERS = {"l1": 1.0, "l2": 2.0, "linf": math.inf}


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the figure's table: figure 3's Gini coefficients, class labels, for every norm."""
    runs, parts = studies["influence"], []
    for norm, order in _ORDERS.items():
        table_name = "sensitivity" if norm == "l1" else f"sensitivity_{norm}"
        options = sensitivity_options(runs, norm_order=order)
        found = runs.analysis("sensitivity", options, table_name, labels="class")
        parts.append(found.drop_duplicates(["kind", "seed", "step"]).assign(norm=norm))
    table = fit.with_fit(pd.concat(parts, ignore_index=True), runs.fit)
    return table.rename(columns={"kind": "data"})[list(COLUMNS)]


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws the Gini coefficient over steps, one panel for each norm."""
    figure, axes = new_figure(columns=len(NORMS), width=3.6, height=3.3)
    for ax, (norm, words) in zip(axes[0], NORMS.items(), strict=True):
        for place, data in enumerate(DATA):
            rows = select(table, norm=norm, data=data)
            draw_mean_and_range(ax, rows, "step", "gini", series_style(place), data)
        ax.set(title=words, xlabel="SGD updates", ylim=(0, 1))
        ax.set_ylabel("Gini coefficient of the\nloss-sensitivity over examples")
        add_legend(ax)
    return figure


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with seeds."""
    return (
        f"{context.setup}. Gini coefficient of the loss-sensitivity over the examples; "
        f"mean (line) and range (band) over {seeds_phrase(table)}."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    means = table.groupby(["norm", "data"])["gini"].mean()
    words = "; ".join(
        f"{NORMS[norm]}: " + ", ".join(f"{data} {means[norm, data]:.2f}" for data in DATA)
        for norm in NORMS
    )
    return f"Three panels of Gini coefficients over training. Mean over training, {words}."


def measure_gini_difference(table: pd.DataFrame, norm: str) -> Measurement:
    """Gini coefficient of real data minus that of randX, averaged over the measured steps."""
    real, noise = (mean_gini(table, norm=norm, data=data) for data in DATA)
    return over_seeds(real - noise)


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            name=f"norms_{norm}",
            figure=NAME,
            sentence=f"The {NORMS[norm]} of the loss-sensitivity gives similar results.",
            statistic=f"Gini coefficient ({NORMS[norm]}) of real data minus randX",
            test=partial(measure_gini_difference, norm=norm),
            threshold=0.1,
            why="the threshold of the l1 norm",
        )
        for norm in ("l2", "linf")
    ),
)
