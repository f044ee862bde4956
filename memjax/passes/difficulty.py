"""Pass `difficulty`: over all members and all of training, how hard each example was.

Times are the evaluations whose dynamics were recorded; where there are none, where members saw only
some of the examples, or where --steps asks for some of them, the checkpoints, of which the table of
pass `gradients` says all that is needed where it is there. What describes
learning (when, how often forgotten, margin, loss, confidence) is averaged over the members that
were trained on the example; what the members agree on at the end is over all.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

import memjax.analysis.difficulty as difficulty
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.statistics import binomial_null, overdispersion
from memjax.errors import InputError
from memjax.keys import tagged
from memjax.passes.base import EXAMPLE_COLUMNS, OF_EXAMPLES, Context, Pass
from memjax.passes.difficulty_moments import Moments
from memjax.passes.gradients import GRADIENTS
from memjax.passes.runner import check_table, identity, table_path
from memjax.runtime.tables import steps_of
from memjax.split_arrays import SplitArrays
from memjax.training.dynamics import parts_of, read_part

_RECORDED = "loss", "margin", "prediction"
Scores = tuple[np.ndarray, np.ndarray, np.ndarray]  # losses, margins, predictions, [n] each
ScoresAt = Callable[[int, int], Scores]  # (step, member)

COLUMNS = {
    "split": "'train' or 'validation'",
    **{name: meaning for name, meaning in EXAMPLE_COLUMNS.items() if name in OF_EXAMPLES},
    "probability_correct": "share of all members that are right at the end",
    "first_epoch_correct": "first epoch looked at in which it is right, mean over the members "
    "that ever are; nan if none is",
    "epoch_learned_for_good": "epoch from which it stays right, mean over the members that end "
    "right; nan if none does",
    "forgetting_events": "times it went from right to wrong, mean of members; as in all that "
    "follow but for the last four, those that were trained on it (nan if none was)",
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


def _from_dynamics(context: Context, moments: Moments) -> None:
    """Takes in every evaluation that was recorded, one after the other."""
    rows: dict[str, np.ndarray] = {}
    for path in parts_of(context.run.workdir).values():
        part = read_part(path, ("epoch", "member", "split", "index", *_RECORDED))
        for name, place in context.parts:
            own = part.filter(pc.equal(part["split"], name))
            labels = context.examples.labels[place]
            wanted = context.examples.source_index[place]
            members = own["member"].to_numpy()
            values = [own[column].to_numpy() for column in ("epoch", "index", *_RECORDED)]
            for member in np.intersect1d(members, context.members).tolist():
                epochs, index, *found = (column[members == member] for column in values)
                if name not in rows:  # who is recorded, and in which order, stays as it is
                    order = np.argsort(index)
                    rows[name] = order[np.searchsorted(index, wanted, sorter=order)]
                losses, margins, predictions = (column[rows[name]] for column in found)
                moments.at(place).add(member, epochs[0], losses, margins, predictions, labels)


def _computed(context: Context) -> ScoresAt:
    """Returns what computes the scores of one member at a checkpoint."""
    labels = jnp.asarray(context.examples.labels)

    def scores_at(step: int, member: int) -> Scores:
        params = context.member(context.run.member_params(step), member)
        found = _scores(context.logits(params, context.examples.images), labels)
        losses, margins, predictions = map(np.asarray, found)
        return losses, margins, predictions

    return scores_at


def _tabulated(context: Context) -> ScoresAt | None:
    """Returns what reads them from the table of pass `gradients`; None where it has not all."""
    path, there = table_path(context, GRADIENTS), identity(context, GRADIENTS)
    try:
        if not check_table(path, there) or set(context.steps) - steps_of(path):
            return None
    except InputError:  # of other examples, or of fewer members
        return None

    @functools.lru_cache(maxsize=1)
    def of_step(step: int) -> tuple[np.ndarray, ...]:
        wanted = [("step", "=", step)]
        with path.open("rb") as file:
            table = pq.read_table(file, columns=["member", *_RECORDED], filters=wanted)
        return tuple(table[name].to_numpy() for name in ("member", *_RECORDED))

    def scores_at(step: int, member: int) -> Scores:
        members, losses, margins, predictions = of_step(step)
        own = members == member
        return losses[own], margins[own], predictions[own]

    return scores_at


def _from_checkpoints(context: Context, moments: Moments, scores_at: ScoresAt) -> None:
    """Takes in every checkpoint, one after the other; an interrupted pass goes on after the last.

    Where the run is kept whole by a runner, what was seen so far is written after each.
    """
    labels = context.examples.labels
    ends = [context.run.last_step(member) for member in context.members]
    done, path = -1, context.progress and context.progress / "moments.npz"
    if path and path.exists():
        found, there = Moments.load(path)
        if there["identity"] == context.progress_identity:  # else of other options
            done = there["done"]
            for field in dataclasses.fields(Moments):
                setattr(moments, field.name, getattr(found, field.name))
    before = -1
    for step in context.steps:
        # One that had ended before is what it was.
        new = [place for place, end in enumerate(ends) if before < end and step > done]
        for place in new:
            epoch = context.run.epoch(min(step, ends[place]))
            moments.add(place, epoch, *scores_at(step, context.members[place]), labels)
        if path and step > done:
            moments.save(path, {"done": step, "identity": context.progress_identity})
        before = step


def _is_own(context: Context, split: str, rows: slice) -> np.ndarray:
    """Whether each member was trained on each example, [members n]; of validation: all."""
    examples = context.examples.at(rows)
    if split != "train" or context.run.config.ensemble.subset_fraction == 1.0:
        return np.ones((len(context.members), len(examples.labels)), bool)
    return context.run.is_member[: len(context.members), : len(examples.labels)]


def _mean_where(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    count = mask.sum(axis=0)
    total = np.where(mask, values, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _table(
    name: str, arrays: SplitArrays, found: Moments, is_own: np.ndarray, key: jax.Array
) -> pd.DataFrame:
    num_members, num_examples = found.loss.shape
    last = jnp.asarray(found.for_good >= 0)
    probability = np.asarray(difficulty.probability_correct(last))
    times = found.count
    nothing = np.full(num_examples, np.nan)
    agreement, dispersion, low, high = nothing, np.nan, nothing, nothing
    if num_members > 1:
        agreement = np.asarray(difficulty.agreement(jnp.asarray(found.prediction)))
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
            "first_epoch_correct": _mean_where(found.first, is_own & (found.first >= 0)),
            "epoch_learned_for_good": _mean_where(found.for_good, is_own & (found.for_good >= 0)),
            "forgetting_events": _mean_where(found.events, is_own),
            "share_never_learned": _mean_where(found.first < 0, is_own),
            "aum": _mean_where(found.margin, is_own).astype(np.float32),
            "mean_loss": _mean_where(found.loss, is_own).astype(np.float32),
            "loss_variance": _mean_where(found.loss_squares / times, is_own).astype(np.float32),
            "confidence": _mean_where(found.probability, is_own).astype(np.float32),
            "variability": _mean_where(np.sqrt(found.probability_squares / times), is_own).astype(
                np.float32
            ),
            "agreement": agreement,
            "overdispersion": dispersion,
            "null_low": low,
            "null_high": high,
        }
    )


def _compute(context: Context, step: None) -> pd.DataFrame:
    moments = Moments.empty(len(context.members), len(context.examples.labels))
    if reads_dynamics(context):
        _from_dynamics(context, moments)
    else:
        _from_checkpoints(context, moments, _tabulated(context) or _computed(context))
    key = tagged(context.key, "difficulty")
    tables = [
        _table(
            name,
            context.examples.at(rows),
            moments.at(rows),
            _is_own(context, name, rows),
            key,
        )
        for name, rows in context.parts
    ]
    return pd.concat(tables, ignore_index=True)


DIFFICULTY = Pass(
    name="difficulty",
    summary="P(correct), first epoch learned, forgetting, AUM, loss trajectory, agreement",
    columns=COLUMNS,
    options=("steps", "splits", "num_examples", "members", "seed"),
    compute=_compute,
    per_checkpoint=False,
)
