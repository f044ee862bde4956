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
from memjax.experiments import fit, kinds
from memjax.experiments.context import Context
from memjax.experiments.rows import select
from memjax.experiments.study_runs import StudyRuns
from memjax.reporting.claims import Claim
from memjax.reporting.figures import add_legend, counted
from memjax.reporting.measurement import Measurement, NotMeasurable, over_examples
from memjax.reporting.style import new_figure, series_style

NAME = "figure01"
TITLE = "Figure 1: are some examples consistently easy?"
DATA = kinds.DATA
COLUMNS = {
    "data": "real, randX (every input is noise) or randY (every label is random)",
    "run": "number of the training run: its own initial parameters and order of examples",
    "index": "number of the example in the training set, the same example for all data",
    "label": "label that it is trained on",
    "correct": "whether the run, after one epoch, classified the example as labelled",
    **fit.COLUMNS,
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
        all_params = run.member_params(run.steps[-1])
        measured = slice(studies["consistency"].sizes.num_measured)
        images, labels = run.train.images[measured], jnp.asarray(run.train.labels[measured])
        index = run.train.source_index[measured]
        for member in range(run.num_members):
            params = jax.tree.map(lambda leaf, m=member: leaf[m], all_params)
            correct = _is_correct(run.logits_fn, params, images, labels)
            columns = {"data": factors["kind"], "run": member, "index": index}
            columns |= {"label": np.asarray(labels), "correct": np.asarray(correct)}
            parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True)
    return fit.with_fit(
        table, studies["consistency"].fit.drop(columns="seed"), kind="data", member="run"
    )


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
        f"{data} {float(correct_by_run(table, data).mean()):.2f} on average, intraclass "
        f"correlation {float(_intraclass(correct_by_run(table, data).T)):.3f}"
        for data in DATA
    )
    return f"Three rising curves of sorted P(correct) over examples, and a grey band: {means}."


def measure_intraclass(table: pd.DataFrame, data: str) -> Measurement:
    """Intraclass correlation: the share of the variance of single outcomes between examples.

    It is (overdispersion - 1) / (runs - 1): unlike the overdispersion it does not grow with the
    number of runs.
    """
    return over_examples(_intraclass, correct_by_run(table, data).T)


def measure_intraclass_difference(table: pd.DataFrame, first: str, second: str) -> Measurement:
    """Intraclass correlation of `first` minus that of `second`, examples paired."""
    pair = {"first": correct_by_run(table, first).T, "second": correct_by_run(table, second).T}
    if len(pair["first"]) != len(pair["second"]):
        raise NotMeasurable(f"{first} and {second} are not of the same examples")
    return over_examples(_difference, pair)


def measure_intraclass_within(table: pd.DataFrame, data: str) -> Measurement:
    """Intraclass correlation within classes: what is left if classes alone differ in difficulty."""
    rows = select(table, data=data)
    labels = rows.drop_duplicates("index").sort_values("index")["label"]
    one_hot = jax.nn.one_hot(labels.to_numpy(int), int(labels.max()) + 1)
    return over_examples(
        _intraclass_within, {"correct": correct_by_run(table, data).T, "label": one_hot}
    )


def measure_always_same(table: pd.DataFrame, data: str) -> Measurement:
    """Share of examples always right or always wrong, above that of equally hard examples."""
    return over_examples(_excess_always_same, correct_by_run(table, data), axis=1)


def _intraclass(correct: jax.Array) -> jax.Array:
    """correct: [n runs]."""
    return (overdispersion(correct.T) - 1) / (correct.shape[1] - 1)


def _difference(pair: dict[str, jax.Array]) -> jax.Array:
    return _intraclass(pair["first"]) - _intraclass(pair["second"])


def _intraclass_within(values: dict[str, jax.Array]) -> jax.Array:
    correct, label = values["correct"].astype(jnp.float32), values["label"]
    n, runs = correct.shape
    sizes = jnp.maximum(label.sum(0), 1)
    of_class = label @ (label.T @ correct.mean(1) / sizes)
    num_classes = (label.sum(0) > 0).sum()
    between = jnp.square(correct.mean(1) - of_class).sum() / (n - num_classes)
    by_chance = (of_class * (1 - of_class)).mean() / runs
    return (between / by_chance - 1) / (runs - 1)


def _excess_always_same(correct: jax.Array) -> jax.Array:
    runs = correct.shape[0]
    mean = correct.mean()
    always = correct.all(0) | ~correct.any(0)
    # Not mean**runs: XLA raises the mean's sum and divisor apart, and they over- and underflow.
    by_chance = jnp.exp(runs * jnp.log(mean)) + jnp.exp(runs * jnp.log(1 - mean))
    return always.mean() - by_chance


_CORRELATION = "intraclass correlation of being right, over examples"
CLAIMS: tuple[Claim, ...] = (
    Claim(
        name="figure01_real_not_binomial",
        figure=NAME,
        sentence="On real data, examples differ in difficulty far more than chance explains.",
        statistic=f"{_CORRELATION}, real data (0 if all are equally hard)",
        test=functools.partial(measure_intraclass, data="real"),
        threshold=0.2,
        opposite=0.05,
        why="a fifth of all variance lies between examples; a twentieth is not 'far more'",
        primary=True,
    ),
    Claim(
        name="figure01_randx_binomial",
        figure=NAME,
        sentence="On random inputs P(correct) is close to binomial.",
        statistic=f"{_CORRELATION}, randX (0 if all are equally hard)",
        test=functools.partial(measure_intraclass, data="randX"),
        direction="within",
        threshold=0.05,
        opposite=-0.05,
        why="a twentieth of the variance is what contradicts the claim on real data",
        primary=True,
    ),
    Claim(
        name="figure01_randx_binomial_within_classes",
        figure=NAME,
        sentence="On random inputs what is not binomial is the difference between classes.",
        statistic=f"{_CORRELATION}, randX, within classes",
        test=functools.partial(measure_intraclass_within, data="randX"),
        direction="within",
        threshold=0.01,
        opposite=-0.01,
        why="a hundredth of the variance is nothing to be seen",
        source="this reproduction",
    ),
    *(
        Claim(
            name=f"figure01_{first.lower()}_beyond_{second.lower()}",
            figure=NAME,
            sentence=f"P(correct) is more variable on {kinds.WORDS[first]} than on "
            f"{kinds.WORDS[second]}.",
            statistic=f"{_CORRELATION}, {first} minus {second}",
            test=functools.partial(measure_intraclass_difference, first=first, second=second),
            threshold=threshold,
            why=why,
        )
        for first, second, threshold, why in (
            ("real", "randX", 0.1, "a tenth of all variance can be seen in a plot"),
            ("real", "randY", 0.1, "a tenth of all variance can be seen in a plot"),
            ("randY", "randX", 0.02, "a fiftieth: of 100 runs three times the variance of chance"),
        )
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
        name="figure01_randy_not_binomial",
        figure=NAME,
        sentence="On random labels P(correct) is not binomial: some patterns are shared.",
        statistic=f"{_CORRELATION}, randY (0 if all are equally hard)",
        test=functools.partial(measure_intraclass, data="randY"),
        threshold=0.03,
        opposite=0.03,
        why="of 100 runs 0.03 are four times the variance of chance, twice its spread",
    ),
)
