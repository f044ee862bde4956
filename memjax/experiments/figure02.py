"""Figure 2: does training on noise still find patterns?

The CNN is trained on CIFAR-10 and on CIFAR-10 with random labels (randY). Plotted: the filters of
its first layer, and beside them the filters that it started from.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memjax.analysis.statistics import cliffs_delta
from memjax.experiments import fit
from memjax.experiments.context import Context
from memjax.experiments.rows import select
from memjax.experiments.study_runs import StudyRuns
from memjax.passes.base import Options
from memjax.reporting.claims import Claim
from memjax.reporting.figures import counted, seeds_phrase
from memjax.reporting.measurement import Measurement, NotMeasurable, over_seeds
from memjax.reporting.style import new_figure

NAME = "figure02"
TITLE = "Figure 2: does training on noise still find patterns?"
PANELS = {
    "real": "trained on real data",
    "randY": "trained on random labels",
    "initial": "before training",
}
MOST_SHOWN = 64
LEARNED = 0.33  # Cliff's delta, a medium effect (Romano et al. 2006)
COLUMNS = {
    "data": "real, randY (every label is random), or initial (the filters before training)",
    "seed": "seed of the network",
    "filter": "number of the filter in the first layer",
    "height": "height of the filter, pixels",
    "width": "width of the filter, pixels",
    "channels": "colour channels of the filter",
    "pixels": "the filter's weights, height by width by channels, flattened in that order",
    "roughness": "mean difference of neighbouring weights over their root mean square",
    "low_frequency_share": "share of the filter's power at up to 0.25 cycles per pixel",
    "spectral_entropy": "entropy of the power over frequencies, over its maximum",
    "kurtosis": "excess kurtosis of the weights",
    **fit.COLUMNS,
}

STUDIES = ("cifar_noise",)


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the figure's table: the filters of the first and the last checkpoint."""
    runs = studies["cifar_noise"]
    filters = runs.analysis("filters", Options(), kind=("real", "randY"), level=(0.0, 1.0))
    filters = filters.rename(columns={"weights": "pixels"})
    is_first, is_last = (
        filters["step"] == filters.groupby("kind")["step"].transform(end) for end in ("min", "max")
    )
    trained = filters[is_last].assign(data=filters["kind"])
    initial = filters[is_first & (filters["kind"] == "real")].assign(data="initial")
    table = pd.concat([trained, initial], ignore_index=True)
    return fit.with_fit(table.drop(columns="member"), runs.fit)[list(COLUMNS)]


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws the first filters of every network as grids of pictures."""
    figure, axes = new_figure(columns=len(PANELS), width=3.1, height=3.4)
    figure.set_layout_engine("constrained", wspace=0.1)  # else one grid seems to go on in the next
    for ax, (data, words) in zip(axes[0], PANELS.items(), strict=True):
        rows = select(table, data=data).sort_values(["seed", "filter"]).head(MOST_SHOWN)
        ax.imshow(_grid(rows), vmin=0, vmax=1, cmap="gray", interpolation="nearest")
        ax.set_title(f"{words}\nmedian roughness {rows['roughness'].median():.2f}", fontsize=9)
        ax.set_axis_off()
    return figure


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with the number of filters and their size."""
    first = table.iloc[0]
    shown = min(MOST_SHOWN, len(select(table, data="real")))
    return (
        f"{context.setup}. The first {counted(shown, 'filter')} of the first layer, "
        f"{first['height']} by {first['width']} pixels, each scaled to its own largest weight "
        f"(grey is 0); {seeds_phrase(table)}. Roughness: mean difference of neighbouring weights "
        "over their root mean square, about 1.1 for white noise."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    medians = table.groupby("data")["roughness"].median()
    words = ", ".join(f"{PANELS[data]} {medians[data]:.2f}" for data in PANELS)
    return f"Three grids of small pictures of filters. Median roughness: {words}."


def measure_smoother(table: pd.DataFrame, data: str) -> Measurement:
    """Cliff's delta of roughness, initial filters against trained ones: 1 if all are smoother."""
    return over_seeds(_smoother(table, data))


def measure_as_useful(table: pd.DataFrame) -> Measurement:
    """Cliff's delta against the initial filters: that of randY minus that of real data."""
    return over_seeds(_smoother(table, "randY") - _smoother(table, "real"))


def real_is_learned(table: pd.DataFrame) -> str:
    """The gate: on real data at least, the filters have become another."""
    mean = float(_smoother(table, "real").mean())
    if mean >= LEARNED:
        return ""
    return (
        f"on real data the filters are hardly smoother than before training (Cliff's delta "
        f"{mean:.2f}, {LEARNED:g} is needed): nothing was learned that random labels could keep"
    )


def _smoother(table: pd.DataFrame, data: str) -> pd.Series:
    """Returns Cliff's delta for each network, against its own filters before training."""
    rows = {
        name: {
            seed: part["roughness"].dropna()
            for seed, part in select(table, data=name).groupby("seed")
        }
        for name in ("initial", data)
    }
    shared = [seed for seed in rows["initial"] if seed in rows[data]]
    if not shared:
        raise NotMeasurable(f"no network has filters in both initial and {data}")
    return pd.Series(
        {
            seed: float(
                cliffs_delta(*(jnp.asarray(rows[n][seed].to_numpy(np.float32)) for n in rows))
            )
            for seed in shared
        }
    )


def _grid(rows: pd.DataFrame) -> np.ndarray:
    """Returns one picture in [0, 1] of all filters, one white pixel between them."""
    height, width, channels = (int(rows.iloc[0][name]) for name in ("height", "width", "channels"))
    shown = 3 if channels == 3 else 1
    side = int(np.ceil(np.sqrt(len(rows))))
    picture = np.ones((side * (height + 1) - 1, side * (width + 1) - 1, shown))
    for place, pixels in enumerate(rows["pixels"]):
        weights = np.asarray(pixels, float).reshape(height, width, channels)
        if shown != channels:
            weights = weights.mean(axis=2, keepdims=True)
        largest = np.abs(weights).max() or 1.0
        top, left = place // side * (height + 1), place % side * (width + 1)
        picture[top : top + height, left : left + width] = 0.5 + weights / (2 * largest)
    return picture


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="figure02_real_useful",
        figure=NAME,
        sentence="Training on real data gives filters that look useful.",
        statistic="Cliff's delta of roughness, initial over trained filters, real data",
        test=partial(measure_smoother, data="real"),
        threshold=LEARNED,
        why="0.33 is a medium effect by the usual convention (Romano et al. 2006)",
    ),
    Claim(
        name="figure02_randy_useful",
        figure=NAME,
        sentence="Filters learned on random labels still look useful.",
        statistic="Cliff's delta of roughness, initial over trained filters, randY",
        test=partial(measure_smoother, data="randY"),
        threshold=LEARNED,
        opposite=0.147,
        why="0.33 is a medium effect by the usual convention, below 0.147 it is negligible",
        primary=True,
        gate=real_is_learned,
    ),
    Claim(
        name="figure02_randy_as_useful",
        figure=NAME,
        sentence="Filters learned on random labels are as useful as those of real data.",
        statistic="Cliff's delta against the initial filters, randY minus real data",
        test=measure_as_useful,
        direction="within",
        threshold=0.147,
        opposite=-0.147,
        why="a difference below 0.147 is negligible by the usual convention",
        gate=real_is_learned,
    ),
)
