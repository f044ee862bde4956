"""Pass `difficulty`: over all members and all of training, how hard each example was.

Times are the evaluations whose dynamics were recorded; where there are none, where members saw only
some of the examples, or where --steps asks for some of them, the checkpoints.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import memjax.analysis.difficulty as difficulty
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.statistics import binomial_null, overdispersion
from memjax.keys import tagged
from memjax.loading import SplitArrays
from memjax.passes.base import EXAMPLE_COLUMNS, OF_EXAMPLES, Context, Pass

COLUMNS = {
    "split": "'train' or 'validation'",
    **{name: meaning for name, meaning in EXAMPLE_COLUMNS.items() if name in OF_EXAMPLES},
    "probability_correct": "share of members that are right at the end",
    "first_epoch_correct": "first epoch looked at in which it is right, mean over the members "
    "that ever are; nan if none is",
    "epoch_learned_for_good": "epoch from which it stays right, mean over the members that end "
    "right; nan if none does",
    "forgetting_events": "times it went from right to wrong, mean of members",
    "share_never_learned": "share of members that are right at no time",
    "aum": "mean over times and members of label logit - largest other logit",
    "mean_loss": "mean cross-entropy over times and members (nats)",
    "loss_variance": "variance of the loss over times, mean of members (nats^2)",
    "confidence": "mean probability of the label over times and members",
    "variability": "its standard deviation over times, mean of members",
    "agreement": "share of pairs of members that predict the same class at the end; "
    "nan for one member",
    "overdispersion": "of the whole split: variance of probability_correct over its binomial "
    "null (1: no example is harder than another); nan for one member",
    "null_low": "2.5 % quantile of the binomial null of probability_correct at this "
    "example's rank in its split; nan for one member",
    "null_high": "its 97.5 % quantile",
}


class _Trajectory(NamedTuple):
    """One member's examples over training, up to where it ended.

    Attributes:
      epochs: [times], of the evaluations or checkpoints.
      correct: bool [times n].
      losses: [times n].
      margins: [times n].
      predictions: [n], the last ones.
    """

    epochs: np.ndarray
    correct: np.ndarray
    losses: np.ndarray
    margins: np.ndarray
    predictions: np.ndarray


@jax.jit
def _scores(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
    losses = jax.vmap(softmax_cross_entropy)(logits, labels)
    predictions = jnp.argmax(logits, axis=-1)
    return losses, difficulty.aum(logits[None], labels), predictions


def reads_dynamics(context: Context) -> bool:
    """Whether what is asked for was recorded at every evaluation: all times, all examples."""
    config = context.run.config
    return (
        context.run.has_dynamics
        and not context.options.steps
        and config.ensemble.subset_fraction == 1.0
    )


def _from_dynamics(context: Context, split: str, arrays: SplitArrays) -> list[_Trajectory]:
    """Returns each member's trajectory of a split, a time an evaluation."""
    frame = context.run.dynamics
    frame = frame[frame["split"] == split]
    found = []
    for member in context.members:
        own = frame[frame["member"] == member]
        epochs = own["epoch"].unique()
        index = own["index"].to_numpy()[: len(own) // len(epochs)]
        order = np.argsort(index)
        wanted = order[np.searchsorted(index, arrays.source_index, sorter=order)]

        def values(name: str) -> np.ndarray:
            return own[name].to_numpy().reshape(len(epochs), -1)[:, wanted]  # noqa: B023

        correct = values("prediction") == arrays.labels
        last = values("prediction")[-1]
        found.append(_Trajectory(epochs, correct, values("loss"), values("margin"), last))
    return found


def _from_checkpoints(context: Context) -> list[_Trajectory]:
    """Returns each member's trajectory of all examples looked at, a time a checkpoint."""
    labels = jnp.asarray(context.examples.labels)
    ends = [context.run.last_step(member) for member in context.members]
    scores: list[list[Any]] = [[] for _ in context.members]
    before = -1
    for step in context.steps:
        all_params = context.run.member_params(step)
        for place, member in enumerate(context.members):
            if before >= ends[place]:
                continue  # it had ended, and is what it was
            logits = context.logits(context.member(all_params, member), context.examples.images)
            values = [np.asarray(value) for value in _scores(logits, labels)]
            scores[place].append([context.run.epoch(min(step, ends[place])), *values])
        before = step
    found = []
    for of_member in scores:
        epochs, losses, margins, predictions = (np.stack(v) for v in zip(*of_member, strict=True))
        correct = predictions == np.asarray(labels)
        found.append(
            _Trajectory(epochs.astype(np.float32), correct, losses, margins, predictions[-1])
        )
    return found


def _mean_where(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    count = mask.sum(axis=0)
    total = np.where(mask, values, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _table(name: str, arrays: SplitArrays, members: list[_Trajectory], key: jax.Array):
    num_members, num_examples = len(members), len(arrays.labels)
    learned = [
        difficulty.first_epoch_learned(jnp.asarray(m.correct), jnp.asarray(m.epochs))
        for m in members
    ]
    forgotten = [difficulty.forgetting_events(jnp.asarray(m.correct)) for m in members]
    trajectory = [difficulty.loss_trajectory(jnp.asarray(m.losses)) for m in members]
    last = jnp.asarray(np.stack([m.correct[-1] for m in members]))
    predictions = jnp.asarray(np.stack([m.predictions for m in members]))
    probability = np.asarray(difficulty.probability_correct(last))
    first, for_good = np.stack([x.first for x in learned]), np.stack([x.for_good for x in learned])

    def mean(found: Any) -> np.ndarray:
        return np.mean([np.asarray(values) for values in found], axis=0)

    nothing = np.full(num_examples, np.nan)
    agreement, dispersion, low, high = nothing, np.nan, nothing, nothing
    if num_members > 1:
        agreement = np.asarray(difficulty.agreement(predictions))
        dispersion = float(overdispersion(last))
        draws = int(np.clip(5_000_000 // num_examples, 100, 1000))
        null = binomial_null(
            key, num_members, float(probability.mean()), num_examples, num_draws=draws
        )
        rank = np.argsort(np.argsort(probability, kind="stable"))
        low, high = np.asarray(null.lower)[rank], np.asarray(null.upper)[rank]
    return pd.DataFrame(
        {
            "split": name,
            **arrays.columns(),
            "probability_correct": probability,
            "first_epoch_correct": _mean_where(first, first >= 0),
            "epoch_learned_for_good": _mean_where(for_good, for_good >= 0),
            "forgetting_events": mean(x.num_events for x in forgotten),
            "share_never_learned": mean(x.never_learned for x in forgotten),
            "aum": mean(m.margins.mean(axis=0) for m in members),
            "mean_loss": mean(x.mean_loss for x in trajectory),
            "loss_variance": mean(x.loss_variance for x in trajectory),
            "confidence": mean(x.confidence for x in trajectory),
            "variability": mean(x.variability for x in trajectory),
            "agreement": agreement,
            "overdispersion": dispersion,
            "null_low": low,
            "null_high": high,
        }
    )


def _compute(context: Context, step: None) -> pd.DataFrame:
    from_dynamics = reads_dynamics(context)
    found = [] if from_dynamics else _from_checkpoints(context)
    tables = []
    for name, rows in context.parts:
        arrays = context.examples.at(rows)
        if from_dynamics:
            members = _from_dynamics(context, name, arrays)
        else:
            members = [
                _Trajectory(m.epochs, *(values[..., rows] for values in m[1:])) for m in found
            ]
        tables.append(_table(name, arrays, members, tagged(context.key, "difficulty")))
    return pd.concat(tables, ignore_index=True)


DIFFICULTY = Pass(
    name="difficulty",
    summary="P(correct), first epoch learned, forgetting, AUM, loss trajectory, agreement",
    columns=COLUMNS,
    options=("steps", "splits", "num_examples", "members", "seed"),
    compute=_compute,
    per_checkpoint=False,
)
