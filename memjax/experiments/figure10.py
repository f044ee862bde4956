"""Figure 10: can regularisers stop memorization, and nothing else?

The CNN is trained with six regularisers, each over a range of strengths, on random labels (randY)
and on real data. Plotted: for each technique and strength, the final TRAINING accuracy on randY
(how much is memorized) against the best VALIDATION accuracy on real data. A curve that stays up as
it runs to the left stops memorization at no cost.
"""

from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from memjax.experiments import fit
from memjax.experiments.context import Context
from memjax.experiments.rows import chosen_by_others, select, values_at
from memjax.experiments.scales import DROPOUT_AND_ADVERSARIAL, TECHNIQUES
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Claim
from memjax.reporting.figures import add_legend_below, seeds_phrase
from memjax.reporting.measurement import Measurement, NotMeasurable, over_seeds
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
    means = _by_setting(table).groupby(SETTING)[["memorized", "validation"]].mean().reset_index()
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
        f"strength from no regulariser (star); means over {seeds_phrase(table)}. Upper left is "
        "best."
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


def measure_capped(table: pd.DataFrame, technique: str) -> Measurement:
    """Score of a technique: training accuracy on randY that it takes away, minus its price."""
    return over_seeds(_scores(table, [technique]))


def measure_beyond_others(table: pd.DataFrame, technique: str, rivals: str) -> Measurement:
    """Score of a technique minus that of the best other one.

    Args:
      table: the figure's table.
      technique: the one that is claimed to be best.
      rivals: 'single' (dropout + adversarial not counted) or 'all'.
    """
    others = [name for name in TECHNIQUES if name != technique and name in set(table["technique"])]
    if rivals == "single":
        others = [name for name in others if name != DROPOUT_AND_ADVERSARIAL]
    if not others:
        raise NotMeasurable("no other technique in the table")
    return over_seeds(_scores(table, [technique]) - _scores(table, others))


def _by_setting(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a row per technique, strength and seed: memorized (randY) and validation (real)."""
    index = [*SETTING, "seed"]
    memorized = select(table, data="randY").set_index(index)["train_accuracy"]
    validation = select(table, data="real").set_index(index)["best_validation_accuracy"]
    columns = {"memorized": memorized, "validation": validation}
    return pd.concat(columns, axis=1, join="inner").reset_index()


def _scores(table: pd.DataFrame, techniques: list[str]) -> pd.Series:
    """Returns for each seed the score at the setting of these that is best for the other seeds.

    The score is the training accuracy on randY below that without regulariser, minus PRICE times
    the validation accuracy on real data below that without. Without regulariser it is 0.
    """
    rows = _by_setting(table)
    memorized, validation = (
        rows.pivot(index=SETTING, columns="seed", values=value).dropna(axis=1)
        for value in ("memorized", "validation")
    )
    if memorized.empty:
        raise NotMeasurable("no seed has every setting, on real data and on randY")
    plain = memorized.index.get_level_values("technique") == "none"
    if plain.sum() != 1 or set(techniques) - set(rows["technique"]):
        raise NotMeasurable(f"the table lacks none, or one of {', '.join(techniques)}")
    lost = (validation[plain].iloc[0] - validation).clip(lower=0)
    scores = memorized[plain].iloc[0] - memorized - PRICE * lost
    scores = scores[scores.index.get_level_values("technique").isin(["none", *techniques])]
    scores = scores.reset_index(drop=True)
    return values_at(scores, chosen_by_others(scores))


_CAPPED = "training accuracy on randY taken away, minus 10 times what real validation loses"
CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="figure10_dropout_caps",
        figure=NAME,
        sentence="Dropout caps memorization at no cost for real data.",
        statistic=f"{_CAPPED}, dropout",
        test=partial(measure_capped, technique="dropout"),
        threshold=0.2,
        opposite=0.05,
        why="a fifth of the examples is a cap; one in twenty is none",
    ),
    Claim(
        name="figure10_dropout_best",
        figure=NAME,
        sentence="Of the single techniques dropout is best.",
        statistic=f"{_CAPPED}, dropout minus the best other single technique",
        test=partial(measure_beyond_others, technique="dropout", rivals="single"),
        threshold=0.05,
        why="one example in twenty",
    ),
    Claim(
        name="figure10_adversarial_best",
        figure=NAME,
        sentence="Dropout with adversarial training is best of all.",
        statistic=f"{_CAPPED}, dropout + adversarial minus the best other technique",
        test=partial(measure_beyond_others, technique="dropout + adversarial", rivals="all"),
        threshold=0.05,
        why="one example in twenty",
    ),
)
