"""Pass `difficulty`: over all members and checkpoints, how hard each example was."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from memjax.analysis import difficulty
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.statistics import binomial_null, overdispersion
from memjax.loading import SplitArrays
from memjax.passes.base import EXAMPLE_COLUMNS, OF_EXAMPLES, Context, Pass

COLUMNS = {
    "split": "'train' or 'validation'",
    **{name: meaning for name, meaning in EXAMPLE_COLUMNS.items() if name in OF_EXAMPLES},
    "probability_correct": "share of members that are right at the last checkpoint",
    "first_epoch_correct": "first checkpoint's epoch at which it is right, mean over the members "
    "that ever are; nan if none is",
    "epoch_learned_for_good": "epoch from which it stays right, mean over the members that end "
    "right; nan if none does",
    "forgetting_events": "times it went from right to wrong between checkpoints, mean of members",
    "share_never_learned": "share of members that are right at no checkpoint",
    "aum": "mean over checkpoints and members of label logit - largest other logit",
    "mean_loss": "mean cross-entropy over checkpoints and members (nats)",
    "loss_variance": "variance of the loss over checkpoints, mean of members (nats^2)",
    "confidence": "mean probability of the label over checkpoints and members",
    "variability": "its standard deviation over checkpoints, mean of members",
    "agreement": "share of pairs of members that predict the same class at the last checkpoint; "
    "nan for one member",
    "overdispersion": "of the whole split: variance of probability_correct over its binomial "
    "null (1: no example is harder than another); nan for one member",
    "null_low": "2.5 % quantile of the binomial null of probability_correct at this "
    "example's rank in its split; nan for one member",
    "null_high": "its 97.5 % quantile",
}


class _Trajectory(NamedTuple):
    correct: np.ndarray  # [checkpoints members n]
    losses: np.ndarray  # [checkpoints members n]
    margins: np.ndarray  # [checkpoints members n]
    predictions: np.ndarray  # [members n], at the last checkpoint


@jax.jit
def _scores(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
    losses = jax.vmap(softmax_cross_entropy)(logits, labels)
    predictions = jnp.argmax(logits, axis=-1)
    return predictions == labels, losses, difficulty.aum(logits[None], labels), predictions


def _trajectory(context: Context) -> _Trajectory:
    """Returns all examples' scores at every checkpoint."""
    labels = jnp.asarray(context.examples.labels)
    scores = []
    for step in context.steps:
        all_params = context.run.member_params(step)
        members = []
        for member in context.members:
            logits = context.logits(context.member(all_params, member), context.examples.images)
            members.append([np.asarray(value) for value in _scores(logits, labels)])
        scores.append([np.stack(values) for values in zip(*members, strict=True)])
    correct, losses, margins, predictions = zip(*scores, strict=True)
    return _Trajectory(np.stack(correct), np.stack(losses), np.stack(margins), predictions[-1])


def _mean_where(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    count = mask.sum(axis=0)
    total = np.where(mask, values, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _table(name: str, arrays: SplitArrays, found: _Trajectory, epochs: np.ndarray, key):
    num_members, num_examples = found.predictions.shape
    learned = difficulty.first_epoch_learned(jnp.asarray(found.correct), jnp.asarray(epochs))
    forgotten = difficulty.forgetting_events(jnp.asarray(found.correct))
    trajectory = difficulty.loss_trajectory(jnp.asarray(found.losses))
    probability = np.asarray(difficulty.probability_correct(jnp.asarray(found.correct[-1])))
    first, for_good = np.asarray(learned.first), np.asarray(learned.for_good)
    nothing = np.full(num_examples, np.nan)
    agreement, dispersion, low, high = nothing, np.nan, nothing, nothing
    if num_members > 1:
        agreement = np.asarray(difficulty.agreement(jnp.asarray(found.predictions)))
        dispersion = float(overdispersion(jnp.asarray(found.correct[-1])))
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
            "forgetting_events": np.asarray(forgotten.num_events).mean(axis=0),
            "share_never_learned": np.asarray(forgotten.never_learned).mean(axis=0),
            "aum": found.margins.mean(axis=(0, 1)),
            "mean_loss": np.asarray(trajectory.mean_loss).mean(axis=0),
            "loss_variance": np.asarray(trajectory.loss_variance).mean(axis=0),
            "confidence": np.asarray(trajectory.confidence).mean(axis=0),
            "variability": np.asarray(trajectory.variability).mean(axis=0),
            "agreement": agreement,
            "overdispersion": dispersion,
            "null_low": low,
            "null_high": high,
        }
    )


def _compute(context: Context, step: None) -> pd.DataFrame:
    epochs = np.array([context.run.epoch(step) for step in context.steps], np.float32)
    found = _trajectory(context)
    tables = []
    for name, rows in context.parts:
        of_split = _Trajectory(*(values[..., rows] for values in found))
        tables.append(_table(name, context.examples.at(rows), of_split, epochs, context.key))
    return pd.concat(tables, ignore_index=True)


DIFFICULTY = Pass(
    name="difficulty",
    summary="P(correct), first epoch learned, forgetting, AUM, loss trajectory, agreement",
    columns=COLUMNS,
    options=("steps", "splits", "num_examples", "members", "seed"),
    compute=_compute,
    per_checkpoint=False,
)
