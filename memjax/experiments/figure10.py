"""Figure 10: can regularisers stop memorization, and nothing else?

The CNN is trained with six regularisers, each over a range of strengths, on random labels (randY)
and on real data. Plotted: for each technique and strength, the final TRAINING accuracy on randY
(how much is memorized) against the best VALIDATION accuracy on real data. A curve that stays up as
it runs to the left stops memorization at no cost.
"""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memjax.experiments import fit
from memjax.experiments.context import Context
from memjax.experiments.rows import select
from memjax.experiments.scales import DROPOUT_AND_ADVERSARIAL, DROPOUT_JUDGED_AT, TECHNIQUES
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Claim
from memjax.reporting.figures import add_legend_below, seeds_phrase
from memjax.reporting.measurement import Measurement, NotMeasurable, least_of, over_seeds
from memjax.reporting.style import new_figure, series_style

NAME = "figure10"
TITLE = "Figure 10: can regularisers stop memorization, and nothing else?"
# "At no cost": one point of validation accuracy on real data costs as much as ten points of
# training accuracy on randY are worth.
PRICE = 10.0
COLUMNS = {
    "technique": f"none (strength 0), {', '.join(TECHNIQUES)}",
    "strength": "share dropped (0 to 1), standard deviation of the noise, or weight decay",
    "adversarial_weight": "weight of the adversarial loss; 0 without adversarial training",
    "data": "real or randY (every label is random)",
    "seed": "seed of the network and the order",
    "train_accuracy": "share of the training examples right at the end, by the labels trained on",
    "best_validation_accuracy": "highest validation accuracy over training (true labels)",
    **fit.COLUMNS,
}
SETTING = ["technique", "strength", "adversarial_weight"]

STUDIES = ("regularizers",)


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the figure's table: the end of every run."""
    runs = studies["regularizers"]
    return fit.with_fit(runs.last_rows(), runs.fit)[list(COLUMNS)]


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws validation accuracy on real data against training accuracy on randY."""
    figure, axes = new_figure(width=6.6, height=4.6)
    ax = axes[0, 0]
    runs = _by_setting(table).groupby(SETTING)[["memorized", "validation"]]
    means = runs.mean().join(runs.std().fillna(0.0).add_suffix("_spread")).reset_index()
    plain = means[means["technique"] == "none"]
    for place, technique in enumerate(TECHNIQUES):
        rows = means[means["technique"] == technique]
        if rows.empty:
            continue
        look = series_style(place) | {"linewidth": 1.4, "markersize": 5.5, "alpha": 0.9}
        if technique == DROPOUT_AND_ADVERSARIAL:
            look["linestyle"] = "none"
        else:
            rows = pd.concat([plain, rows.sort_values("strength")])
        ax.plot(rows["memorized"], rows["validation"], label=technique, **look)
        spread = {"xerr": rows["memorized_spread"], "yerr": rows["validation_spread"]}
        bars = {"fmt": "none", "ecolor": look["color"], "elinewidth": 0.8, "alpha": 0.6}
        ax.errorbar(rows["memorized"], rows["validation"], **spread, **bars)
        for _, row in rows[rows["technique"] == technique].iterrows():
            ax.annotate(
                f"{row['strength']:g}",
                (row["memorized"], row["validation"]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
                color=look["color"],
            )
    star = {"marker": "*", "markersize": 14, "color": "black", "linestyle": "none"}
    ax.plot(plain["memorized"], plain["validation"], label="no regulariser", **star)
    ax.set(xlabel="final training accuracy on random labels (randY): memorized")
    ax.set_ylabel("best validation accuracy on real data")
    add_legend_below(figure, *ax.get_legend_handles_labels())
    return figure


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with ranges and seeds."""
    ranges = table[table["technique"] != "none"].groupby("technique")["strength"]
    words = ", ".join(
        f"{technique} {low:g} to {high:g}"
        for technique, low, high in zip(ranges.min().index, ranges.min(), ranges.max(), strict=True)
    )
    return (
        f"{context.setup}. Each marker is one strength ({words}), joined in order of "
        "strength from no regulariser (star), the strength beside it; mean and standard deviation "
        f"over {seeds_phrase(table)}. Upper left is best."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    rows = _by_setting(table).groupby(SETTING)[["memorized", "validation"]].mean()
    lowest = rows.groupby("technique")["memorized"].min()
    best = rows.groupby("technique")["validation"].max()
    words = "; ".join(
        f"{technique}: memorized down to {lowest[technique]:.2f}, validation up to "
        f"{best[technique]:.2f}"
        for technique in lowest.index
    )
    return f"Curves of validation accuracy on real data over training accuracy on randY. {words}."


def measure_capped(table: pd.DataFrame, technique: str, strength: float) -> Measurement:
    """Score at one strength: training accuracy on randY that it takes away, minus its price."""
    rows = _by_setting(table)
    plain, chosen = (
        part.groupby("seed")[["memorized", "validation"]].mean()
        for part in (
            select(rows, technique="none"),
            select(rows, technique=technique, strength=strength),
        )
    )
    lost = (plain["validation"] - chosen["validation"]).clip(lower=0)
    return over_seeds(plain["memorized"] - chosen["memorized"] - PRICE * lost)


def measure_beyond_others(table: pd.DataFrame, technique: str, rivals: str) -> Measurement:
    """Hypervolume of a technique minus that of the rival that comes nearest.

    Args:
      table: the figure's table.
      technique: the one that is claimed to be best.
      rivals: 'single' (dropout + adversarial not counted) or 'all'.
    """
    rows = _by_setting(table)
    others = [name for name in TECHNIQUES if name != technique and name in set(rows["technique"])]
    if rivals == "single":
        others = [name for name in others if name != DROPOUT_AND_ADVERSARIAL]
    volume = hypervolumes(rows, technique)
    return least_of([over_seeds(volume - hypervolumes(rows, other)) for other in others])


def measure_flatness(table: pd.DataFrame, technique: str) -> Measurement:
    """Validation accuracy lost for each unit of memorization taken away, over all strengths."""
    rows = _by_setting(table)
    plain = select(rows, technique="none").set_index("seed")[["memorized", "validation"]]
    chosen = select(rows, technique=technique)
    away = plain.loc[chosen["seed"]].to_numpy() - chosen[["memorized", "validation"]].to_numpy()
    sums = pd.DataFrame({"product": away[:, 0] * away[:, 1], "square": away[:, 0] ** 2})
    sums = sums.groupby(chosen["seed"].to_numpy()).sum()
    return over_seeds(sums["product"] / sums["square"].replace(0, np.nan))


def hypervolumes(rows: pd.DataFrame, technique: str) -> pd.Series:
    """Returns for each seed the share of the plane that a technique's settings are better than.

    That is the area between the settings (no regulariser among them) and the worst corner: all of
    randY memorized, no validation example right. Every strength counts, and none is chosen.

    Args:
      rows: memorized and validation of each setting and seed.
      technique: one of them.
    """
    names = set(rows["technique"])
    if technique not in names or "none" not in names:
        raise NotMeasurable(f"the table lacks none, or {technique}")
    rows = rows[rows["technique"].isin(["none", technique])]
    return pd.Series({seed: _hypervolume(part) for seed, part in rows.groupby("seed")})


def _hypervolume(rows: pd.DataFrame) -> float:
    rows = rows.sort_values("memorized")
    steps = np.diff(np.append(rows["memorized"].to_numpy(), 1.0))
    return float(steps @ np.maximum.accumulate(rows["validation"].to_numpy()))


def _by_setting(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a row per technique, strength and seed: memorized (randY) and validation (real)."""
    index = [*SETTING, "seed"]
    memorized = select(table, data="randY").set_index(index)["train_accuracy"]
    validation = select(table, data="real").set_index(index)["best_validation_accuracy"]
    columns = {"memorized": memorized, "validation": validation}
    return pd.concat(columns, axis=1, join="inner").reset_index()


_CAPPED = "training accuracy on randY taken away, minus 10 times what real validation loses"
_VOLUME = "share of the plane (memorized, validation) that its strengths are better than"
CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="figure10_dropout_caps",
        figure=NAME,
        sentence="Dropout caps memorization at no cost for real data.",
        statistic=f"{_CAPPED}, dropout {DROPOUT_JUDGED_AT}",
        test=partial(measure_capped, technique="dropout", strength=DROPOUT_JUDGED_AT),
        threshold=0.2,
        opposite=0.05,
        why="a fifth of the examples is a cap; one in twenty is none",
        primary=True,
        gate=fit.gate(technique="none"),
    ),
    Claim(
        name="figure10_dropout_best",
        figure=NAME,
        sentence="Of the single techniques dropout is best.",
        statistic=f"{_VOLUME}, dropout minus each other single technique, the least",
        test=partial(measure_beyond_others, technique="dropout", rivals="single"),
        threshold=0.01,
        why="one hundredth of the plane: two points less memorized at half of validation right",
        gate=fit.gate(technique="none"),
    ),
    Claim(
        name="figure10_adversarial_best",
        figure=NAME,
        sentence="Dropout with adversarial training is best of all.",
        statistic=f"{_VOLUME}, dropout + adversarial minus each other technique, the least",
        test=partial(measure_beyond_others, technique=DROPOUT_AND_ADVERSARIAL, rivals="all"),
        threshold=0.01,
        why="one hundredth of the plane: two points less memorized at half of validation right",
        gate=fit.gate(technique="none"),
    ),
    *(
        Claim(
            name=f"figure10_flat_{technique.replace(' + ', '_').replace(' ', '_')}",
            figure=NAME,
            sentence=f"Memorization is capped at no cost: {technique}.",
            statistic="validation accuracy lost for each unit of randY training accuracy taken "
            "away, least squares over all strengths",
            test=partial(measure_flatness, technique=technique),
            direction="below",
            threshold=0.1,
            opposite=0.1,
            why="a point of validation accuracy for ten of memorization",
            gate=fit.gate(technique="none"),
        )
        for technique in TECHNIQUES
    ),
)
