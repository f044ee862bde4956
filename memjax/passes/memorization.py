"""Passes `memorization` and `influence`: members trained on random subsets tell what was memorized.

Feldman and Zhang 2020, "What neural networks memorize and why".
"""

import jax.numpy as jnp
import numpy as np
import pandas as pd

from memjax import memory
from memjax.analysis.memorization import cross_influence, memorization_scores, top_influence_pairs
from memjax.errors import InputError
from memjax.passes.base import CHECKPOINT_COLUMNS, EXAMPLE_COLUMNS, Context, Pass
from memjax.split_arrays import SplitArrays

NUM_PAIRS = 1000

MEMORIZATION_COLUMNS = {
    **{k: v for k, v in EXAMPLE_COLUMNS.items() if k != "member"},
    "memorization": "P(correct | in the training subset) - P(correct | out of it)",
    "standard_error": "of the memorization, over the members",
    "num_in": "members trained with the example",
    "num_out": "members trained without it",
    "probability_in": "P(correct | in)",
    "probability_out": "P(correct | out)",
}
INFLUENCE_COLUMNS = {
    **{k: v for k, v in CHECKPOINT_COLUMNS.items() if k != "member"},
    "train_index": "training example: position in the source's split",
    "validation_index": "validation example: position in the source's split",
    "influence": "P(validation example correct | training example in) - P(... | out)",
    "standard_error": "of the influence, over the members",
}


def _correct(context: Context, step: int, arrays: SplitArrays) -> np.ndarray:
    """bool [members n]."""
    all_params = context.run.member_params(step)
    found = []
    for member in context.members:
        logits = context.logits(context.member(all_params, member), arrays.images)
        found.append(np.asarray(logits).argmax(axis=-1) == arrays.labels)
    return np.stack(found)


def check_subsets(context: Context, passes: str, size: int, fraction: float) -> None:
    """Raises InputError unless examples are in some members' training and out of others'.

    Args:
      context: of the run.
      passes: that need it, and in the next two what does for them.
      size: of the ensemble.
      fraction: of the examples, for each member.
    """
    if context.run.config.ensemble.subset_fraction >= 1 or len(context.members) < 4:
        raise InputError(
            f"passes {passes} need at least 4 members trained on random subsets: "
            f"config.ensemble.size={size}, config.ensemble.subset_fraction={fraction}"
        )


def _check(context: Context) -> None:
    check_subsets(context, "memorization and influence", 100, 0.7)


def _check_influence(context: Context) -> None:
    _check(context)
    if not len(context.run.validation.labels):
        raise InputError("pass influence needs validation examples; this run has none")


def memorized(correct: np.ndarray, is_member: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the columns memorization, standard_error, num_in and num_out, each [n].

    Args:
      correct: bool [members n].
      is_member: bool [members n].
    """
    found = memorization_scores(jnp.asarray(correct), jnp.asarray(is_member))
    return {
        "memorization": np.asarray(found.scores),
        "standard_error": np.asarray(found.standard_error),
        "num_in": np.asarray(found.num_in),
        "num_out": np.asarray(found.num_out),
    }


def _memorization(context: Context, step: int) -> pd.DataFrame:
    arrays = context.split("train")
    correct = _correct(context, step, arrays)
    is_member = context.run.is_member[: len(correct), : len(arrays.labels)]
    found = memorized(correct, is_member)
    count_in, count_out = found["num_in"], found["num_out"]
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0: no member on that side
        probability_in = (correct & is_member).sum(axis=0) / count_in
        probability_out = (correct & ~is_member).sum(axis=0) / count_out
    columns = context.example_columns(step, 0, "train", arrays)
    del columns["member"]
    values = {
        **found,
        "probability_in": probability_in,
        "probability_out": probability_out,
    }
    return pd.DataFrame(columns | values)


def _influence(context: Context, step: int) -> pd.DataFrame:
    train, validation = context.split("train"), context.split("validation")
    correct = _correct(context, step, validation)
    is_member = context.run.is_member[: len(correct), : len(train.labels)]
    block = max(1, memory.working_bytes() // 4 // len(train.labels))
    tables = []
    for start in range(0, len(validation.labels), block):
        found = cross_influence(
            jnp.asarray(correct[:, start : start + block]), jnp.asarray(is_member)
        )
        pairs = top_influence_pairs(found.influence, min(NUM_PAIRS, found.influence.size))
        rows, columns = np.asarray(pairs.train_index), np.asarray(pairs.validation_index)
        values = {
            "step": step,
            "epoch": context.run.epoch(step),
            "train_index": train.source_index[rows],
            "validation_index": validation.source_index[start + columns],
            "influence": np.asarray(pairs.influence),
            "standard_error": np.asarray(found.standard_error)[rows, columns],
        }
        tables.append(pd.DataFrame(values).dropna(subset="influence"))
    strongest = pd.concat(tables).sort_values("influence", ascending=False, kind="stable")
    return strongest.head(NUM_PAIRS).reset_index(drop=True)


MEMORIZATION = Pass(
    name="memorization",
    summary="P(correct | in) - P(correct | out) of every training example",
    columns=MEMORIZATION_COLUMNS,
    options=("num_examples", "members"),
    compute=_memorization,
    check=_check,
)
INFLUENCE = Pass(
    name="influence",
    summary=f"the {NUM_PAIRS} strongest influences of training on validation examples",
    columns=INFLUENCE_COLUMNS,
    options=("num_examples", "members"),
    compute=_influence,
    check=_check_influence,
)
