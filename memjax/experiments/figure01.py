"""Figure 1: are some examples consistently easy?

An MLP is trained for one epoch, many times, from random initial parameters and in random order, on
real data, on randX (every input replaced by Gaussian noise) and on randY (every label drawn at
random). Plotted: how often each example is classified correctly over the runs, sorted, and what
would be seen if all examples were equally hard: draws from a binomial with randX's mean P(correct).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memjax.analysis.microbatch import over_microbatches
from memjax.analysis.statistics import binomial_null, overdispersion
from memjax.experiments.context import Context
from memjax.experiments.rows import select
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Claim
from memjax.reporting.figures import add_legend, counted
from memjax.reporting.measurement import Measurement, NotMeasurable, over_examples
from memjax.reporting.style import new_figure, series_style

NAME = "figure01"
TITLE = "Figure 1: are some examples consistently easy?"
DATA = ("real", "randX", "randY")
COLUMNS = {
    "data": "real, randX (every input is noise) or randY (every label is random)",
    "run": "number of the training run: its own initial parameters and order of examples",
    "index": "number of the example in the training set, the same example for all data",
    "correct": "whether the run, after one epoch, classified the example as labelled",
}


def correct_by_run(table: pd.DataFrame, data: str) -> jax.Array:
    """Returns [runs n], bool: was the example classified correctly?

    Raises:
      NotMeasurable: if there are fewer than two runs.
    """
    wide = select(table, data=data).pivot(index="run", columns="index", values="correct")
    if len(wide) < 2:
        raise NotMeasurable(f"{len(wide)} run on {data}, at least 2 are needed")
    return jnp.asarray(wide.to_numpy(bool))


STUDIES = ("consistency",)


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the figure's table: every training example in every run, at the end."""
    parts = []
    for factors, run in studies["consistency"].runs():
        all_params, images = run.member_params(run.steps[-1]), run.train.images
        labels = jnp.asarray(run.train.labels)
        for member in range(run.num_members):
            params = jax.tree.map(lambda leaf, m=member: leaf[m], all_params)
            correct = _is_correct(run.logits_fn, params, images, labels)
            columns = {"data": factors["kind"], "run": member, "index": run.train.source_index}
            parts.append(pd.DataFrame(columns | {"correct": np.asarray(correct)}))
    return pd.concat(parts, ignore_index=True)


@functools.partial(jax.jit, static_argnums=0)
def _is_correct(logits_fn: Any, params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    logits = over_microbatches(lambda batch: logits_fn(params, batch), images, microbatch_size=1000)
    return jnp.argmax(logits, axis=-1) == labels


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws sorted P(correct) for each data set, and the binomial null as a band."""
    figure, axes = new_figure(width=6.0, height=4.0)
    ax = axes[0, 0]
    noise = correct_by_run(table, "randX")
    runs, n = noise.shape
    null = binomial_null(jax.random.key(0), runs, noise.mean(), n)
    rank = range(1, n + 1)
    ax.fill_between(
        rank,
        null.lower,
        null.upper,
        color="0.75",
        hatch="////",
        edgecolor="0.4",
        linewidth=0.8,
        label="equally hard examples\n(binomial, 95 % of draws)",
    )
    for place, data in enumerate(DATA):
        probability = jnp.sort(correct_by_run(table, data).mean(0))
        every = max(1, len(probability) // 8)
        look = series_style(place) | {"markevery": every, "markersize": 4.5, "linewidth": 1.4}
        ax.plot(range(1, len(probability) + 1), probability, label=data, **look)
    ax.set(
        xlabel="examples, sorted (rank)",
        ylabel=f"P(correct): share of {counted(runs, 'run')}",
        ylim=(-0.02, 1.02),
    )
    add_legend(ax, loc="best")
    return figure


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with the numbers of runs and examples."""
    runs, n = correct_by_run(table, "randX").shape
    return (
        f"{context.setup}. How often each of {counted(n, 'example')} is classified "
        f"correctly after one epoch, over {counted(runs, 'run')} of random initial parameters and "
        "order, sorted. Band: equally hard examples, binomial with the mean P(correct) of randX, "
        "95 % of 1000 draws at each rank."
    )


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    means = ", ".join(
        f"{data} {float(correct_by_run(table, data).mean()):.2f} on average, overdispersion "
        f"{float(overdispersion(correct_by_run(table, data))):.1f}"
        for data in DATA
    )
    return f"Three rising curves of sorted P(correct) over examples, and a grey band: {means}."


def measure_overdispersion(table: pd.DataFrame, data: str) -> Measurement:
    """Variance of P(correct) over examples, over what equally hard examples would give."""
    return over_examples(overdispersion, correct_by_run(table, data), axis=1)


def measure_overdispersion_ratio(table: pd.DataFrame, first: str, second: str) -> Measurement:
    """Doublings from the overdispersion of `second` to that of `first`, examples paired."""
    pair = {"first": correct_by_run(table, first), "second": correct_by_run(table, second)}
    if pair["first"].shape[1] != pair["second"].shape[1]:
        raise NotMeasurable(f"{first} and {second} are not of the same examples")
    return over_examples(_log_ratio, pair, axis=1)


def measure_always_same(table: pd.DataFrame, data: str) -> Measurement:
    """Share of examples always right or always wrong, above that of equally hard examples."""
    return over_examples(_excess_always_same, correct_by_run(table, data), axis=1)


def _log_ratio(pair: dict[str, jax.Array]) -> jax.Array:
    return jnp.log2(overdispersion(pair["first"]) / overdispersion(pair["second"]))


def _excess_always_same(correct: jax.Array) -> jax.Array:
    runs = correct.shape[0]
    mean = correct.mean()
    always = correct.all(0) | ~correct.any(0)
    # Not mean**runs: XLA raises the mean's sum and divisor apart, and they over- and underflow.
    by_chance = jnp.exp(runs * jnp.log(mean)) + jnp.exp(runs * jnp.log(1 - mean))
    return always.mean() - by_chance


CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="figure01_real_not_binomial",
        figure=NAME,
        sentence="On real data, examples differ in difficulty far more than chance explains.",
        statistic="overdispersion of P(correct) on real data (1 if all are equally hard)",
        test=functools.partial(measure_overdispersion, data="real"),
        threshold=4.0,
        opposite=2.0,
        why="four times the variance of chance is twice its spread: 'far more'",
    ),
    Claim(
        name="figure01_real_beyond_randx",
        figure=NAME,
        sentence="P(correct) is far more variable on real data than on random inputs.",
        statistic="doublings from the overdispersion of randX to that of real data",
        test=functools.partial(measure_overdispersion_ratio, first="real", second="randX"),
        threshold=1.0,
        why="'far more' is at least twice",
    ),
    Claim(
        name="figure01_real_beyond_randy",
        figure=NAME,
        sentence="P(correct) is more variable on real data than on random labels.",
        statistic="doublings from the overdispersion of randY to that of real data",
        test=functools.partial(measure_overdispersion_ratio, first="real", second="randY"),
        threshold=0.32,
        why="0.32 doublings are a quarter more",
    ),
    Claim(
        name="figure01_randy_beyond_randx",
        figure=NAME,
        sentence="P(correct) is more variable on random labels than on random inputs.",
        statistic="doublings from the overdispersion of randX to that of randY",
        test=functools.partial(measure_overdispersion_ratio, first="randY", second="randX"),
        threshold=0.32,
        why="0.32 doublings are a quarter more",
    ),
    Claim(
        name="figure01_always_same",
        figure=NAME,
        sentence="On real data many examples are always classified correctly, or always wrongly.",
        statistic="share of real examples always right or always wrong, above that of chance",
        test=functools.partial(measure_always_same, data="real"),
        threshold=0.1,
        opposite=0.01,
        why="'many' is at least one in ten beyond chance; fewer than one in a hundred is not",
    ),
    Claim(
        name="figure01_randx_binomial",
        figure=NAME,
        sentence="On random inputs P(correct) is close to binomial.",
        statistic="overdispersion of P(correct) on randX (1 if all are equally hard)",
        test=functools.partial(measure_overdispersion, data="randX"),
        direction="below",
        threshold=1.5,
        opposite=2.0,
        why="less than half again the variance of chance is close; twice is not",
    ),
    Claim(
        name="figure01_randy_not_binomial",
        figure=NAME,
        sentence="On random labels P(correct) is not binomial: some patterns are shared.",
        statistic="overdispersion of P(correct) on randY (1 if all are equally hard)",
        test=functools.partial(measure_overdispersion, data="randY"),
        threshold=2.0,
        opposite=1.5,
        why="the counterpart of 'close to binomial' on random inputs",
    ),
)
