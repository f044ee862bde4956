"""Figure 9: how does the critical sample ratio (CSR) develop on real data and on noise?

The CNN is trained on CIFAR-10, on randX and on randY. Plotted over epochs: the CSR of the
validation set and, as the paper's footnote tells, of the training set, at radius 0.3/255.
"""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memjax.experiments import fit, kinds, noise_levels
from memjax.experiments.context import Context
from memjax.experiments.rows import chosen_by_others, final, select, values_at
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Claim
from memjax.reporting.figures import add_legend_below, draw_mean_and_range, seeds_phrase
from memjax.reporting.measurement import Measurement, NotMeasurable, over_seeds
from memjax.reporting.style import new_figure, series_style

NAME = "figure09"
TITLE = "Figure 9: how does the critical sample ratio develop on real data and on noise?"
DATA = kinds.DATA
SPLITS = {"validation": "validation set", "train": "training set"}
COLUMNS = {
    "data": "real, randX (every input is noise) or randY (every label is random)",
    "seed": "seed of the network, the order and the noise",
    "epoch": "epochs trained",
    "split": "validation or train: whose examples are searched",
    "radius": "radius of the search, max-norm, in units of [0, 1] pixels",
    "csr_lower": "share of the examples found critical",
    "median_radius": "median critical radius found of the examples, in [0, 1] pixels",
    **fit.COLUMNS,
}

STUDIES = ("cifar_noise",)


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the figure's table: CSR of both splits at every checkpoint, all data noise."""
    runs = studies["cifar_noise"]
    found = noise_levels.critical_ratios(runs, ("train", "validation"), level=(0.0, 1.0))
    return fit.with_fit(found, runs.fit).rename(columns={"kind": "data"})[list(COLUMNS)]


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws the CSR over epochs of the validation and the training set."""
    figure, axes = new_figure(columns=2, width=4.6, height=3.6)
    for ax, (split, words) in zip(axes[0], SPLITS.items(), strict=True):
        for place, data in enumerate(DATA):
            rows = select(table, split=split, data=data)
            draw_mean_and_range(ax, rows, "epoch", "csr_lower", series_style(place), data)
        ax.set(title=words, xlabel="epochs", ylabel="critical sample ratio", ylim=(-0.02, 1.02))
    add_legend_below(figure, *axes[0, 0].get_legend_handles_labels())
    return figure


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with seeds and radius."""
    radii = ", ".join(f"{255 * radius:.3g}/255" for radius in sorted(table["radius"].unique()))
    return (
        f"{context.setup}. Share of examples with another predicted class within max-norm "
        f"distance {radii}, found by searches; mean (line) and range (band) over "
        f"{seeds_phrase(table)}."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    ends = final(table, "csr_lower", ["split", "data"])
    words = "; ".join(
        f"{SPLITS[split]}: " + ", ".join(f"{data} {ends[split, data]:.2f}" for data in DATA)
        for split in SPLITS
    )
    return f"Two panels of critical sample ratios over epochs. At the end, {words}."


def measure_beyond_real(table: pd.DataFrame, data: str) -> Measurement:
    """Validation CSR at the end of training, on noise minus on real data."""
    ratios = final(select(table, split="validation"), "csr_lower", ["data", "seed"])
    if not {data, "real"} <= set(ratios.index.unique("data")):
        raise NotMeasurable(f"the table has no {data}, or no real data")
    return over_seeds(ratios[data] - ratios["real"])


def measure_nearer(table: pd.DataFrame, data: str) -> Measurement:
    """Doublings of the median critical radius of validation images, real data to noise."""
    rows = select(table, split="validation")
    logs = rows.assign(median_radius=np.log2(rows["median_radius"]))
    ends = final(logs, "median_radius", ["data", "seed"])
    if not {data, "real"} <= set(ends.index.unique("data")):
        raise NotMeasurable(f"the table has no {data}, or no real data")
    if np.isinf(ends).any():
        raise NotMeasurable("for half of the images no other class was found at any distance")
    return over_seeds(ends[data] - ends["real"])


def measure_rise(table: pd.DataFrame) -> Measurement:
    """Validation CSR at the end minus at the first measurement, mean over the data sets."""
    curves = _mean_curves(table, "validation")
    return over_seeds(curves.iloc[-1] - curves.iloc[0])


def measure_levelling(table: pd.DataFrame) -> Measurement:
    """Rise of validation CSR in the second half minus in the first, mean over the data sets."""
    curves = _mean_curves(table, "validation")
    middle = (curves.index[0] + curves.index[-1]) / 2
    halfway = values_at(curves, pd.Series(middle, index=curves.columns), tolerance=0.25)
    return over_seeds(curves.iloc[-1] + curves.iloc[0] - 2 * halfway)


def measure_training_rise(table: pd.DataFrame) -> Measurement:
    """Training-set CSR at its peak minus at the first measurement, mean over the data sets."""
    curves = _mean_curves(table, "train")
    return over_seeds(values_at(curves, chosen_by_others(curves), tolerance=0.0) - curves.iloc[0])


def measure_training_fall(table: pd.DataFrame) -> Measurement:
    """Training-set CSR at its peak minus at the end, mean over the data sets."""
    curves = _mean_curves(table, "train")
    return over_seeds(values_at(curves, chosen_by_others(curves), tolerance=0.0) - curves.iloc[-1])


def _mean_curves(table: pd.DataFrame, split: str) -> pd.DataFrame:
    """Returns [epochs seeds], the mean over the data sets, where all were measured."""
    rows = select(table, split=split)
    wide = rows.pivot(index="epoch", columns=["seed", "data"], values="csr_lower").dropna()
    if len(wide) < 3:
        raise NotMeasurable(f"{split} CSR was measured at fewer than three epochs")
    return wide.T.groupby("seed").mean().T


CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            name=f"figure09_radius_{data.lower()}",
            figure=NAME,
            sentence=f"Decision boundaries are far nearer after {data} than after real data.",
            statistic=f"doublings of the median critical radius of validation images at the end, "
            f"real data to {data}",
            test=partial(measure_nearer, data=data),
            direction="below",
            threshold=-0.5,
            why="'far': nearly a third nearer",
            primary=data == kinds.RANDX,
            gate=fit.gate_beside_real(data),
        )
        for data in ("randX", "randY")
    ),
    *(
        Claim(
            name=f"figure09_{data.lower()}_beyond_real",
            figure=NAME,
            sentence=f"The critical sample ratio is far higher on {data} than on real data.",
            statistic=f"final validation CSR of {data} minus that of real data",
            test=partial(measure_beyond_real, data=data),
            threshold=0.1,
            why="'far higher': one example in ten more is critical",
            gate=fit.gate_beside_real(data),
        )
        for data in ("randX", "randY")
    ),
    Claim(
        name="figure09_rises",
        figure=NAME,
        sentence="Validation CSR rises in training.",
        statistic="validation CSR at the end minus at the first measurement, mean over data sets",
        test=measure_rise,
        threshold=0.05,
        why="one example in twenty more is critical",
    ),
    Claim(
        name="figure09_levels_off",
        figure=NAME,
        sentence="The rise of validation CSR levels off.",
        statistic="rise in the second half of training minus that in the first",
        test=measure_levelling,
        direction="below",
        threshold=-0.05,
        why="one example in twenty fewer becomes critical",
    ),
    Claim(
        name="figure09_training_rises",
        figure=NAME,
        sentence="Training-set CSR rises at first (footnote).",
        statistic="training CSR at its peak (as the other seeds place it) minus at first",
        test=measure_training_rise,
        threshold=0.02,
        opposite=0.01,
        why="one example in fifty; below one in a hundred there is no rise",
    ),
    Claim(
        name="figure09_training_falls",
        figure=NAME,
        sentence="Training-set CSR falls afterwards (footnote).",
        statistic="training CSR at its peak (as the other seeds place it) minus at the end",
        test=measure_training_fall,
        threshold=0.02,
        opposite=0.01,
        why="one example in fifty; below one in a hundred there is no fall",
    ),
)
