"""Figure 2: does training on noise still find patterns?

The CNN is trained on CIFAR-10 and on CIFAR-10 with random labels (randY). Plotted: the filters of
its first layer, and beside them the filters that it started from.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memjax.analysis.statistics import cliffs_delta
from memjax.experiments.context import Context
from memjax.experiments.rows import select
from memjax.experiments.study_runs import StudyRuns
from memjax.passes.base import Options
from memjax.reporting.claims import Claim
from memjax.reporting.figures import counted, seeds_phrase
from memjax.reporting.measurement import Measurement, NotMeasurable, over_examples
from memjax.reporting.style import new_figure

NAME = "figure02"
TITLE = "Figure 2: does training on noise still find patterns?"
PANELS = {
    "real": "trained on real data",
    "randY": "trained on random labels",
    "initial": "before training",
}
MOST_SHOWN = 64
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
    return pd.concat([trained, initial], ignore_index=True)[list(COLUMNS)]


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws the first filters of every network as grids of pictures."""
    figure, axes = new_figure(columns=len(PANELS), width=3.1, height=3.4)
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
    roughness = _roughness_by_filter(table, ("initial", data))
    return over_examples(_delta_of_first_two, roughness)


def measure_smoothness_kept(table: pd.DataFrame) -> Measurement:
    """Cliff's delta against the initial filters: that of randY minus half of that of real data."""
    roughness = _roughness_by_filter(table, ("initial", "randY", "real"))
    return over_examples(_delta_beyond_half, roughness)


def _roughness_by_filter(table: pd.DataFrame, data: tuple[str, ...]) -> jax.Array:
    """Returns [filters data]; filters of one number are resampled together."""
    columns = [select(table, data=name).set_index(["seed", "filter"])["roughness"] for name in data]
    wide = pd.concat(columns, axis=1, join="inner").dropna()
    if wide.empty:
        raise NotMeasurable(f"no filter has a roughness in all of {', '.join(data)}")
    return jnp.asarray(wide.to_numpy(np.float32))


def _delta_of_first_two(roughness: jax.Array) -> jax.Array:
    return cliffs_delta(roughness[:, 0], roughness[:, 1])


def _delta_beyond_half(roughness: jax.Array) -> jax.Array:
    initial, random, real = roughness.T
    return cliffs_delta(initial, random) - 0.5 * cliffs_delta(initial, real)


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
        threshold=0.33,
        why="0.33 is a medium effect by the usual convention (Romano et al. 2006)",
    ),
    Claim(
        name="figure02_randy_useful",
        figure=NAME,
        sentence="Filters learned on random labels still look useful.",
        statistic="Cliff's delta of roughness, initial over trained filters, randY",
        test=partial(measure_smoother, data="randY"),
        threshold=0.33,
        why="0.33 is a medium effect by the usual convention (Romano et al. 2006)",
    ),
    Claim(
        name="figure02_randy_keeps_half",
        figure=NAME,
        sentence="Filters learned on random labels are about as useful as those of real data.",
        statistic="Cliff's delta against the initial filters, randY minus half that of real data",
        test=measure_smoothness_kept,
        threshold=0.0,
        why="the margin is in the statistic: at least half of the effect is kept",
    ),
)
