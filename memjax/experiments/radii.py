"""The critical sample ratio at other radii: is the order of figure 9 a matter of the radius?

Networks trained on real data, on randX and on randY, measured at the end of training. Plotted: the
critical sample ratio (CSR) of the validation set against the radius of the search.
"""

from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from memjax.experiments import fit, kinds, noise_levels
from memjax.experiments.context import Context
from memjax.experiments.rows import select
from memjax.experiments.study_runs import StudyRuns
from memjax.passes.base import Options
from memjax.reporting.claims import Claim
from memjax.reporting.figures import add_legend, draw_mean_and_range, listed, seeds_phrase
from memjax.reporting.measurement import Measurement, over_seeds
from memjax.reporting.style import new_figure, series_style

NAME = "radii"
TITLE = "The critical sample ratio at other radii"
DATA = kinds.DATA
COLUMNS = {
    "data": "real, randX (every input is noise) or randY (every label is random)",
    "seed": "seed of the network, the order and the noise",
    "radius": "radius of the search, max-norm, in units of [0, 1] pixels",
    "csr_lower": "share of the validation examples found critical at the end of training",
    **fit.COLUMNS,
}

STUDIES = ("cifar_noise",)


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the table: CSR of the validation set at the end, for every radius."""
    runs = studies["cifar_noise"]
    # As many examples as figure 9 has of both splits: its compiled programs serve again.
    chosen = {"num_examples": 2 * runs.sizes.num_searched, "radii": runs.sizes.radii}
    searches = noise_levels.searches(runs.sizes) | chosen
    options = Options(steps=(-1,), splits=("validation",), **searches)
    found = runs.analysis("critical", options, "critical_radii", level=(0.0, 1.0))
    table = noise_levels.ratios(found)
    return fit.with_fit(table, runs.fit).rename(columns={"kind": "data"})[list(COLUMNS)]


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws the CSR over the radius for each data set."""
    figure, axes = new_figure(width=6.0, height=4.0)
    ax = axes[0, 0]
    for place, data in enumerate(DATA):
        style = series_style(place) | {"markevery": 1}
        rows = select(table, data=data)
        rows = rows.assign(radius=255 * rows["radius"])
        draw_mean_and_range(ax, rows, "radius", "csr_lower", style, data)
    ax.set_xscale("log")
    ax.set(xlabel="radius (max-norm, n/255, log scale)", ylim=(-0.02, 1.02))
    ax.set_ylabel("critical sample ratio (validation)")
    add_legend(ax)
    return figure


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with seeds and radii."""
    radii = listed(f"{255 * radius:.3g}/255" for radius in sorted(table["radius"].unique()))
    return (
        f"{context.setup}. Share of validation examples with another predicted class "
        f"within radius {radii}, at the end of training, found by searches; mean (line) and range "
        f"(band) over {seeds_phrase(table)}."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    means = table.groupby(["data", "radius"])["csr_lower"].mean()
    words = "; ".join(
        f"{data} from {means[data].iloc[0]:.2f} to {means[data].iloc[-1]:.2f}" for data in DATA
    )
    return f"Rising curves of the critical sample ratio over the radius: {words}."


def measure_beyond_real(table: pd.DataFrame, data: str) -> Measurement:
    """CSR on noise minus on real data, mean over all radii."""
    noise, real = (
        select(table, data=name).groupby(["radius", "seed"])["csr_lower"].mean()
        for name in (data, "real")
    )
    return over_seeds((noise - real).groupby("seed").mean())


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            name=f"radii_{data.lower()}_beyond_real",
            figure=NAME,
            sentence=f"CSR is higher on {data} than on real data at other radii too.",
            statistic=f"final validation CSR of {data} minus real data, mean over radii",
            test=partial(measure_beyond_real, data=data),
            threshold=0.05,
            why="one example in twenty more; at the largest and smallest radii all are alike",
            gate=fit.gate_beside_real(data),
        )
        for data in ("randX", "randY")
    ),
)
