"""What figures 7 and 8 share: accuracy and critical sample ratio over training, by noise level."""

from functools import partial

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from memjax.experiments.rows import (
    chosen_by_others,
    final,
    highest,
    of_kind,
    rise_over_levels,
    select,
    values_at,
)
from memjax.experiments.study_runs import StudyRuns
from memjax.passes.base import Options
from memjax.reporting.claims import Claim
from memjax.reporting.figures import (
    add_legend_below,
    draw_bounds,
    draw_mean_and_range,
    percent,
    seeds_phrase,
)
from memjax.reporting.measurement import Measurement, NotMeasurable, over_seeds
from memjax.reporting.style import level_style, new_figure

KINDS = {"randX": "random inputs (randX)", "randY": "random labels (randY)"}
COLUMNS = {
    "kind": "real (level 0, shared by both kinds), randX or randY",
    "level": "share of the training examples that are noise, 0 to 1",
    "seed": "seed of the network, the order and the noise",
    "epoch": "epochs trained",
    "train_accuracy": "share of the training examples right, by the labels trained on",
    "validation_accuracy": "share of the validation examples right, by their true labels",
    "radius": "radius of the critical sample search, max-norm, in units of [0, 1] pixels",
    "csr_lower": "share of validation examples found critical; nan where it was not measured",
    "csr_upper": "share of validation examples not certified safe; nan where not measured",
}


def critical_ratios(runs: StudyRuns) -> pd.DataFrame:
    """Returns the CSR of both splits at every checkpoint, at the study's radius."""
    sizes = runs.sizes
    options = Options(num_examples=sizes.num_searched, radii=(sizes.radius,))
    return ratios(runs.analysis("critical", options))


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Returns critical sample ratios from the rows of single examples."""
    by = ["kind", "level", "seed", "epoch", "split", "radius"]
    means = table.groupby(by, sort=False)[["critical_lower", "critical_upper"]].mean().reset_index()
    return means.rename(columns={"critical_lower": "csr_lower", "critical_upper": "csr_upper"})


def tabulate_levels(runs: StudyRuns) -> pd.DataFrame:
    """Returns the figure's table: accuracy at every logged epoch, CSR at every checkpoint."""
    by = ["kind", "level", "seed", "epoch"]
    found = critical_ratios(runs)
    found = found[found["split"] == "validation"][[*by, "radius", "csr_lower", "csr_upper"]]
    accuracy = runs.results[[*by, "train_accuracy", "validation_accuracy"]]
    table = accuracy.merge(found, on=by, how="left")
    return table.fillna({"radius": runs.sizes.radius})[list(COLUMNS)]


def draw_levels(table: pd.DataFrame) -> Figure:
    """Draws accuracy above and CSR below, randX to the left and randY to the right."""
    figure, axes = new_figure(columns=2, rows=2, width=4.6, height=3.2)
    for column, (kind, words) in enumerate(KINDS.items()):
        rows = of_kind(table, kind)
        levels = sorted(rows["level"].unique())
        accuracy, ratio = axes[:, column]
        for place, level in enumerate(levels):
            at_level = rows[rows["level"] == level]
            look = level_style(place, len(levels))
            solid, dotted = look | {"linestyle": "-"}, look | {"linestyle": ":"}
            draw_mean_and_range(accuracy, at_level, "epoch", "train_accuracy", solid)
            draw_mean_and_range(
                accuracy, at_level, "epoch", "validation_accuracy", dotted, percent(level)
            )
            draw_bounds(ratio, at_level, "epoch", "csr_lower", "csr_upper", look, percent(level))
        accuracy.set(title=words, xlabel="epochs", ylabel="accuracy", ylim=(-0.02, 1.02))
        ratio.set(xlabel="epochs", ylabel="critical sample ratio\n(validation)", ylim=(-0.02, 1.02))
    lines, labels = axes[1, 0].get_legend_handles_labels()
    solid_line = Line2D([], [], color="0.2", linestyle="-")
    dotted_line = Line2D([], [], color="0.2", linestyle=":")
    names = ["training accuracy", "validation accuracy", *(f"{label} noise" for label in labels)]
    add_legend_below(figure, [solid_line, dotted_line, *lines], names)
    return figure


def caption_levels(table: pd.DataFrame, setup: str) -> str:
    """Returns what is drawn, with seeds and radius."""
    return (
        f"{setup}. Above: training (solid) and validation (dotted) accuracy, mean and "
        "range. Below: share of validation examples with another predicted class within "
        f"{_radius_words(table)}, found by search (line, a lower bound) up to what is not "
        f"certified safe (thin dots, an upper bound); means over {seeds_phrase(table)}."
    )


def alt_text_levels(table: pd.DataFrame) -> str:
    """Returns the picture in words."""
    ends = final(table, "validation_accuracy", ["kind", "level"])
    ratios = final(table, "csr_lower", ["kind", "level"])
    words = "; ".join(
        f"{kind} {percent(level)}: validation accuracy {ends[kind, level]:.2f}, critical sample "
        f"ratio {ratios[kind, level]:.2f}"
        for kind, level in ends.index.intersection(ratios.index)
    )
    return f"Four panels of accuracy and critical sample ratio over epochs. At the end, {words}."


def measure_csr_rise(table: pd.DataFrame, kind: str) -> Measurement:
    """Rise of the CSR at the end of training from noise level 0 to 1, by least squares."""
    ratios = final(of_kind(table, kind), "csr_lower", ["level", "seed"])
    return over_seeds(rise_over_levels(ratios))


def measure_final_accuracy_rise(table: pd.DataFrame, kind: str) -> Measurement:
    """Rise of the final validation accuracy from noise level 0 to 1, by least squares."""
    accuracy = final(of_kind(table, kind), "validation_accuracy", ["level", "seed"])
    return over_seeds(rise_over_levels(accuracy))


def measure_best_accuracy_rise(table: pd.DataFrame, kind: str) -> Measurement:
    """Rise of the best validation accuracy from noise level 0 to 1, by least squares."""
    rows = of_kind(table, kind)
    return over_seeds(
        rise_over_levels(rows.groupby(["level", "seed"])["validation_accuracy"].max())
    )


def measure_peak_time(table: pd.DataFrame) -> Measurement:
    """Share of training at which validation accuracy peaks, highest randY level below 1."""
    rows = _noisiest_labels(table)
    curves = _curves(rows, "validation_accuracy")
    return over_seeds(curves.idxmax() / curves.index.max())


def measure_fall_after_peak(table: pd.DataFrame) -> Measurement:
    """Validation accuracy at its peak minus at the end, highest randY level below 1."""
    rows = _noisiest_labels(table)
    curves = _curves(rows, "validation_accuracy")
    return over_seeds(values_at(curves, chosen_by_others(curves)) - curves.iloc[-1])


def measure_csr_rise_after_peak(table: pd.DataFrame) -> Measurement:
    """CSR at the end minus at the accuracy's peak, highest randY level below 1."""
    rows = _noisiest_labels(table)
    peaks = chosen_by_others(_curves(rows, "validation_accuracy"))
    ratios = _curves(rows, "csr_lower")
    return over_seeds(ratios.iloc[-1] - values_at(ratios, peaks))


def _curves(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Returns [epochs seeds], only epochs at which every seed was measured."""
    curves = rows.pivot(index="epoch", columns="seed", values=value).dropna()
    if len(curves) < 2:
        raise NotMeasurable(f"{value} was measured at fewer than two epochs")
    return curves


def _noisiest_labels(table: pd.DataFrame) -> pd.DataFrame:
    rows = select(table, kind="randY")
    return select(rows, level=highest(rows["level"], below=1.0))


def _radius_words(table: pd.DataFrame) -> str:
    radii = sorted(table["radius"].unique())
    return "max-norm distance " + ", ".join(f"{radius:.3g}" for radius in radii) + " of [0, 1]"


def _complexity_claims(figure: str, network: str) -> tuple[Claim, ...]:
    """Returns the claims of figure 7 or 8, the same for both networks."""
    by_kind = (
        claim
        for kind, words in KINDS.items()
        for claim in (
            Claim(
                name=f"{figure}_csr_{kind.lower()}",
                figure=figure,
                sentence=f"{network}: the critical sample ratio is higher with more {words}.",
                statistic="rise of the final validation CSR (found by search), level 0 to 1",
                test=partial(measure_csr_rise, kind=kind),
                threshold=0.05,
                why="one example in twenty more is critical",
            ),
            Claim(
                name=f"{figure}_final_accuracy_{kind.lower()}",
                figure=figure,
                sentence=f"{network}: final validation accuracy is lower with more {words}.",
                statistic="rise of the final validation accuracy, level 0 to 1",
                test=partial(measure_final_accuracy_rise, kind=kind),
                direction="below",
                threshold=-0.02,
                why="two points of accuracy are more than the spread between seeds",
            ),
            Claim(
                name=f"{figure}_best_accuracy_{kind.lower()}",
                figure=figure,
                sentence=f"{network}: best validation accuracy is lower with more {words}.",
                statistic="rise of the best validation accuracy, level 0 to 1",
                test=partial(measure_best_accuracy_rise, kind=kind),
                direction="below",
                threshold=-0.02,
                why="two points of accuracy are more than the spread between seeds",
            ),
        )
    )
    return (
        *by_kind,
        Claim(
            name=f"{figure}_randy_peaks_early",
            figure=figure,
            sentence=f"{network}: with random labels validation accuracy peaks early.",
            statistic="share of training at which it peaks, highest randY level below 1",
            test=measure_peak_time,
            direction="below",
            threshold=0.5,
            opposite=0.5,
            why="early is in the first half of training",
        ),
        Claim(
            name=f"{figure}_randy_falls",
            figure=figure,
            sentence=f"{network}: with random labels validation accuracy falls after its peak.",
            statistic="validation accuracy at its peak (as the other seeds place it) minus at the "
            "end, highest randY level below 1",
            test=measure_fall_after_peak,
            threshold=0.02,
            opposite=0.01,
            why="two points are more than the spread between seeds; below one there is no fall",
        ),
        Claim(
            name=f"{figure}_randy_csr_rises_meanwhile",
            figure=figure,
            sentence=f"{network}: with random labels CSR rises while validation accuracy falls.",
            statistic="validation CSR at the end minus at the peak of validation accuracy",
            test=measure_csr_rise_after_peak,
            threshold=0.05,
            why="one example in twenty more is critical",
        ),
    )
