"""Do the verdicts depend on what the paper does not say? The page docs/robustness.md.

    python -m benchmarks.robustness --data_dir=~/tensorflow_datasets --workdir=robustness
    python -m benchmarks.robustness --workdir=robustness --redraw        # the page again

The primary claims of figures 1, 3 and 7, measured again where one thing at a time is chosen
otherwise: the learning rate, the batch size, the initialisation, the standardisation, the noise;
and where the same networks are measured otherwise: by another norm or without an example's own loss
term, at other radii, by LASS alone. Sizes are smaller than workstation scale, the same for all
rows. Interrupted, the same command goes on.
"""

import argparse
import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from memjax.experiments import figure01, figure03, fit, noise_levels
from memjax.experiments.registry import CLAIMS
from memjax.experiments.scales import SCALES
from memjax.experiments.studies import STUDIES
from memjax.experiments.study_runs import StudyRuns
from memjax.passes.base import Options
from memjax.reporting.claims import judge_all
from memjax.sweeps.plan import make_plan, use_every_core
from memjax.sweeps.points import Sweep, check_points
from memjax.sweeps.run import run_sweep

ROOT = pathlib.Path(__file__).parent.parent
PAGE, PICTURE = ROOT / "docs" / "robustness.md", ROOT / "docs" / "robustness.png"
RADII = (0.005, 0.01, 0.02, 0.05)
SIZES = {
    "consistency": dataclasses.replace(
        SCALES["workstation"]["consistency"], num_train=5000, num_runs=40
    ),
    "influence": dataclasses.replace(
        SCALES["workstation"]["influence"], num_epochs=100, num_seeds=5, num_probes=20
    ),
    "mnist_noise": dataclasses.replace(
        SCALES["workstation"]["mnist_noise"], num_train=1000, width=256, num_seeds=5, levels=(0.8,),
        num_validation=1000, num_searched=100, checkpoint_epochs=200,
    ),
}  # fmt: skip
Change = Callable[[Any], None]


def _set(path: str, value: Any) -> Change:
    """Returns what sets a field of a config; a function is called with the value that is there."""

    def change(config: Any) -> None:
        section, field = path.split(".")
        there = config[section].get(field)
        config[section][field] = value(there) if callable(value) else value

    return change


def _momentum(config: Any) -> None:
    _set("optimizer.momentum", 0.9)(config)
    _set("optimizer.learning_rate", lambda rate: rate / 10)(config)


def _shuffled(config: Any) -> None:
    kinds = config.corruption.kind.split("+")
    wanted = ["shuffled_pixels_each" if kind == "random_inputs" else kind for kind in kinds]
    config.corruption.kind = "+".join(wanted)


def _by_pixel(config: Any) -> None:
    if "random_inputs" in config.corruption.kind:
        config.corruption.noise_moments = "pixel"


AS_IT_IS = "as the report has it"
TRAINED: dict[str, tuple[str, Change]] = {
    "base": (AS_IT_IS, lambda config: None),
    "rate_third": ("learning rate / 3", _set("optimizer.learning_rate", lambda rate: rate / 3)),
    "rate_three": ("learning rate x 3", _set("optimizer.learning_rate", lambda rate: rate * 3)),
    "batch_half": ("batch size / 2", _set("train.batch_size", lambda size: size // 2)),
    "batch_double": ("batch size x 2", _set("train.batch_size", lambda size: size * 2)),
    "momentum": ("momentum .9, learning rate / 10", _momentum),
    "he": ("initialisation he_normal", _set("model.initialization", "he_normal")),
    "glorot": ("initialisation glorot_uniform", _set("model.initialization", "glorot_uniform")),
    "raw": ("pixels not standardised", _set("dataset.standardize", "none")),
    "by_pixel": ("randX: mean and variance of each pixel", _by_pixel),
    "shuffled": ("randX: each image's own pixels, shuffled", _shuffled),
}


def studied(study: str, name: str, given: argparse.Namespace) -> StudyRuns:
    """Trains a study with one thing changed, or what of it is open."""
    sizes, points = SIZES[study], []
    for point in STUDIES[study](sizes):
        if point.factors.get("labels") == "unique":
            continue
        TRAINED[name][1](point.config)
        if given.data_dir:
            point.config.dataset.data_dir = given.data_dir
        points.append(point)
    configs = check_points(tuple(points), study)
    folder = pathlib.Path(given.workdir) / study / name
    outcome = run_sweep(make_plan(Sweep(tuple(points), configs, None)), folder)
    for failed, reason in outcome.failures.items():
        print(f"{study}, {name}: {failed} failed: {reason}", flush=True)
    return StudyRuns(folder, tuple(points), configs, sizes, given.data_dir)


def of_figure01(runs: StudyRuns) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yields (how it was measured, table)."""
    yield "", figure01.tabulate({"consistency": runs})


def of_figure03(runs: StudyRuns) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yields (how it was measured, table): by other norms too, and without the direct term."""
    ways = {"": {}, "l2 norm": {"norm_order": 2}, "largest component": {"norm_order": math.inf}}
    ways["without an example's own loss term"] = {"include_direct": False}
    for place, (words, chosen) in enumerate(ways.items()):
        options = figure03.sensitivity_options(runs, **chosen)
        found = runs.analysis("sensitivity", options, f"sensitivity_{place}")
        yield words, figure03.table_of(runs, found)


def of_figure07(runs: StudyRuns) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yields (how it was measured, table): by the CSR at other radii too, and by LASS alone."""
    by = ["kind", "level", "seed", "epoch"]
    searches = noise_levels.searches(runs.sizes) | {"radii": RADII}
    options = Options(steps=(-1,), splits=("validation",), lass=True, **searches)
    ratios = noise_levels.ratios(runs.analysis("critical", options))
    results = runs.results.drop(columns="member")
    for radius in RADII:
        at = ratios[ratios["radius"] == radius].drop(columns=["split", "radius"])
        table = results.merge(at, on=by, how="left")
        table = fit.with_fit(table, runs.fit.drop(columns="member")).assign(radius=radius)
        yield f"{255 * radius:.3g}/255", table


FIGURES: dict[str, tuple[str, Callable[[StudyRuns], Iterator[tuple[str, pd.DataFrame]]]]] = {
    "figure01": ("consistency", of_figure01),
    "figure03": ("influence", of_figure03),
    "figure07": ("mnist_noise", of_figure07),
}
# Beside the primary claims, whose statistic has no radius: those that have one.
WITH_RADIUS = ("figure07_csr_randx", "figure07_csr_lass_randx")


def measured(given: argparse.Namespace) -> pd.DataFrame:
    """Returns a row for each claim, what was changed and how it was measured."""
    rows = []
    for figure, (study, tables) in FIGURES.items():
        primary = [c for c in CLAIMS if c.figure == figure and c.primary]
        for name, (words, _) in TRAINED.items():
            runs = studied(study, name, given)
            for place, (how, table) in enumerate(tables(runs)):
                claims = primary if place == 0 or figure == "figure03" else []
                if name == "base":
                    claims = claims + [
                        c for c in CLAIMS if c.name in WITH_RADIUS and c.figure == figure
                    ]
                elif place and figure == "figure03":
                    break
                # Each row is asked about alone: no correction over the rows of a page.
                for claim in claims:
                    [verdict] = judge_all([claim], {figure: table})
                    rows.append({
                        "figure": figure, "claim": claim.name, "sentence": claim.sentence,
                        "changed": words, "measured": how if place or claim not in primary else "",
                        **{key: getattr(verdict, key) for key in
                           ("effect", "low", "high", "threshold", "verdict", "reason")},
                    })  # fmt: skip
            print(f"{figure}, {words}: done", flush=True)
    return pd.DataFrame(rows)


def write_page(rows: pd.DataFrame) -> None:
    """Writes the page, a table a claim."""
    lines = [
        "# Does it depend on what the paper does not say?", "", "```bash",
        "python -m benchmarks.robustness --data_dir=$HOME/tensorflow_datasets --workdir=robustness",
        "```", "",
        "Written by that command: the primary claims of figures 1, 3 and 7, one thing at a time "
        "chosen otherwise. Sizes are smaller than those of [the report](report/workstation/"
        "report.md), the same for every row: compare rows with each other. Verdicts are by "
        "[the protocol](protocol.md), each row alone, uncorrected.", "",
        "![Effect of each claim under each choice, its interval and the margin](robustness.png)",
    ]  # fmt: skip
    for claim, of_claim in rows.groupby("claim", sort=False):
        first = of_claim.iloc[0]
        lines += ["", f"## {first.sentence}", ""]
        lines += [f"`{claim}`, margin {first.threshold:g}", ""]
        lines += ["| changed | effect [95 % interval] | verdict |", "|---|---|---|"]
        for row in of_claim.itertuples():
            effect = (
                "none"
                if math.isnan(row.effect)
                else f"{row.effect:.3g} [{row.low:.3g}, {row.high:.3g}]"
            )
            why = f": {row.reason}" if row.reason and row.verdict.startswith("not") else ""
            lines.append(f"| {_words(row)} | {effect} | {row.verdict}{why} |")
    PAGE.write_text("\n".join(lines) + "\n")


def _words(row: Any) -> str:
    return ", ".join(filter(None, (row.changed if not row.measured else "", row.measured)))


def draw(rows: pd.DataFrame) -> None:
    """Draws a panel a claim: the effect and its interval in every row, the margin as a line."""
    from matplotlib.figure import Figure

    claims = list(rows["claim"].unique())
    columns = 3
    height = -(-len(claims) // columns)
    figure = Figure((4.6 * columns, 3.4 * height), layout="constrained")
    panels = figure.subplots(height, columns, squeeze=False).ravel()
    for ax, claim in zip(panels, claims, strict=False):
        of_claim = rows[rows["claim"] == claim].iloc[::-1]
        for place, row in enumerate(of_claim.itertuples()):
            decided = {"supported": "#0072B2", "contradicted": "#D55E00"}.get(row.verdict, "0.4")
            ends = [row.effect - row.low], [row.high - row.effect]
            if math.isfinite(row.low) and math.isfinite(row.high):
                ax.errorbar(row.effect, place, xerr=ends, fmt="o", ms=4, color=decided, capsize=2)
        ax.axvline(of_claim["threshold"].iloc[0], color="0.3", linewidth=0.8, linestyle="--")
        ax.set_yticks(
            range(len(of_claim)), [_words(row) for row in of_claim.itertuples()], fontsize=7
        )
        ax.set_ylim(-0.6, len(of_claim) - 0.4)
        ax.set_title(claim, fontsize=9)
        ax.grid(True, axis="x", color="0.9")
    for ax in panels[len(claims) :]:
        ax.set_axis_off()
    figure.suptitle(
        "dashed: the margin; blue: supported, orange: contradicted, grey: neither", fontsize=9
    )
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Measures what is open, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--data_dir", default="", help="where tfds keeps its data")
    parser.add_argument("--redraw", action="store_true", help="the page again, from its rows")
    given = parser.parse_args()
    path = pathlib.Path(given.workdir) / "rows.parquet"
    if not given.redraw:
        use_every_core()
        rows = measured(given)
        rows.to_parquet(path)
    rows = pd.read_parquet(path)
    write_page(rows)
    draw(rows)
    print(rows[["claim", "changed", "measured", "effect", "low", "high", "verdict"]].to_string())


if __name__ == "__main__":
    main()
