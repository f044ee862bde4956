"""Pass `attribution`: which training examples made the network answer a query as it does."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from memjax.analysis.attribution import example_attribution
from memjax.analysis.attribution_retrain import retrain, retrained_measures
from memjax.analysis.trust import Trust, attribution_trust
from memjax.errors import InputError
from memjax.loading import Run
from memjax.passes.attribution_picture import draw
from memjax.passes.base import CHECKPOINT_COLUMNS, Context, Options, Pass
from memjax.passes.updates import (
    check_end,
    check_updates,
    last_step,
    member_end,
    member_examples,
    sgd_updates,
)
from memjax.split_arrays import SplitArrays
from memjax.training.optimizers import make_optimizer

_QUERIES_OF_PART = 100
_DIRECTIONS, _VALIDATED_DIRECTIONS = 8, 100

COLUMNS = {
    **CHECKPOINT_COLUMNS,
    "query": "position of the query in the validation source's split",
    "query_label": "its label",
    "query_prediction": "what the network answers",
    "train_index": "position of the training example in the source's split",
    "label": "the label trained on",
    "true_label": "the label before corruption",
    "attribution": "d (the query's measure after training) / d (the example's weight in its "
    "batches), through all updates; leaving the example out changes the measure by about minus it",
    "rank": "0 is the most helpful example: with the lowest attribution of the loss, or the "
    "highest of the margin",
    "trust": "'predictive', 'nonlinear' or 'chaotic': what retrainings without random sets say",
    "lds": "linear datamodeling score at 1 % of the examples left out, measured by retraining",
}


def _check(context: Context) -> None:
    check_updates(context, "attribution", any_optimizer=True)
    if context.options.queries != "misclassified":
        chosen_queries(context, 0)


def _positions(context: Context, queries: str) -> np.ndarray:
    """Returns the rows of the validation split that have these source positions."""
    known = context.run.validation.source_index
    rows = []
    for text in queries.split(","):
        is_number = text.strip().isdigit()
        found: Any = np.flatnonzero(known == int(text)) if is_number else []
        if not len(found):
            raise InputError(
                f"--queries={queries}: must be 'misclassified', 'random:COUNT' or positions of "
                f"validation examples ({len(known)} from {known.min()} to {known.max()}), not "
                f"{text!r}"
            )
        rows.append(found[0])
    return np.array(rows)


def chosen_queries(context: Context, member: int) -> np.ndarray:
    """Returns the rows of the validation split that are asked about."""
    queries, arrays = context.options.queries, context.run.validation
    if not len(arrays.labels):
        raise InputError("pass attribution: the run has no validation examples to ask about")
    if queries == "misclassified":
        params = member_end(context, member)
        predictions = np.argmax(np.asarray(context.logits(params, arrays.images)), axis=1)
        return np.flatnonzero(predictions != arrays.labels)
    if queries.startswith("random:"):
        count = queries.removeprefix("random:")
        if not count.isdigit() or not 1 <= int(count) <= len(arrays.labels):
            raise InputError(
                f"--queries={queries}: COUNT must be from 1 to {len(arrays.labels)} (validation "
                "examples)"
            )
        rng = np.random.default_rng(context.options.seed)
        return np.sort(rng.choice(len(arrays.labels), int(count), replace=False))
    return _positions(context, queries)


def training_updates(context: Context, member: int) -> dict[str, Any]:
    """Returns a member's training, as `example_attribution` takes it.

    Raises:
      InputError: if the updates run again do not end at the run's checkpoint.
    """
    known = context.shared(_no_updates)
    if member not in known:
        known[member] = _training_updates(context, member)
    return known[member]


def _no_updates(context: Context) -> dict[int, dict[str, Any]]:
    del context
    return {}


def _training_updates(context: Context, member: int) -> dict[str, Any]:
    run, config = context.run, context.run.config
    updates = {"logits_fn": run.trained_logits_fn, **sgd_updates(context, member)}
    if config.optimizer.name != "sgd" or config.optimizer.nesterov:
        optimizer = make_optimizer(
            config.optimizer, config.regularizer.weight_decay, run.setup.batches.steps_per_epoch,
            config.train.num_epochs,
        )  # fmt: skip
        updates |= {"optimizer": optimizer, "learning_rate": None}
        updates |= {"momentum": 0.0, "weight_decay": 0.0}
    if not context.options.freeze_statistics:
        ones = np.ones((1, len(updates["labels"])))
        again = jax.tree.map(lambda leaf: leaf[0], retrain(**updates, weights=ones))
        check_end(context, again, member_end(context, member), "attribution")
    return updates


def _parts(context: Context) -> list[str]:
    """Returns the names of the parts: queries of one member that are asked about together."""
    return [
        f"{member:04d}_{first:08d}"
        for member in context.members
        for first in range(0, max(1, len(chosen_queries(context, member))), _QUERIES_OF_PART)
    ]


def _compute(context: Context, part: str) -> pd.DataFrame:
    member, first = (int(number) for number in part.split("_"))
    rows = chosen_queries(context, member)[first : first + _QUERIES_OF_PART]
    if not len(rows):  # nothing is misclassified
        return pd.DataFrame(columns=list(COLUMNS))
    return attribution_table(context, member, rows)


def attribution_table(context: Context, member: int, rows: np.ndarray) -> pd.DataFrame:
    """Returns the table of these rows of the validation split, and prints how far to trust it."""
    updates, measure = training_updates(context, member), context.options.measure
    queries = context.run.validation.at(rows)
    asked = (queries.images, jnp.asarray(queries.labels))
    mesh = context.mesh if context.mesh.size > 1 else None
    found = np.asarray(
        example_attribution(
            **updates, query_images=asked[0], query_labels=asked[1], measure=measure, mesh=mesh
        )
    )
    trust = _trust(context, updates, asked, found, mesh)
    params = member_end(context, member)
    predictions = np.argmax(np.asarray(context.logits(params, queries.images)), axis=1)
    order = np.argsort(found if measure == "loss" else -found, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(found.shape[1])[None], axis=1)
    examples = member_examples(context, member)
    per_query = {
        "query": queries.source_index, "query_label": queries.labels,
        "query_prediction": predictions,
    }  # fmt: skip
    per_example = {
        "train_index": examples.source_index, "label": examples.labels,
        "true_label": examples.true_labels,
    }  # fmt: skip
    columns = {
        **context.checkpoint_columns(last_step(context), member),
        **{name: np.repeat(values, found.shape[1]) for name, values in per_query.items()},
        **{name: np.tile(values, len(rows)) for name, values in per_example.items()},
        "attribution": found.ravel(),
        "rank": ranks.ravel(),
        "trust": trust.verdict,
        "lds": trust.lds,
    }
    return pd.DataFrame(columns)


def _trust(context: Context, updates: dict, asked: tuple, found: np.ndarray, mesh: Any) -> Trust:
    """Returns and prints the trust; with --validate, from many retrainings."""
    trust = functools.partial(
        attribution_trust, **updates, query_images=asked[0], query_labels=asked[1],
        attribution=found, seed=context.options.seed, measure=context.options.measure, mesh=mesh,
    )  # fmt: skip
    validate = context.options.validate
    result = trust(num_directions=_VALIDATED_DIRECTIONS if validate else _DIRECTIONS)
    print(f"attribution        {result}", flush=True)
    if validate:
        single = trust(num_directions=_VALIDATED_DIRECTIONS, fraction=1e-9)
        low, high = single.lds_interval
        print(
            f"attribution        one example left out, {_VALIDATED_DIRECTIONS} times: rank "
            f"correlation {single.lds:.2f} ({low:.2f} to {high:.2f})",
            flush=True,
        )
    return result


def attribute(
    run: Run,
    query: Any,
    member: int | None = 0,
    measure: str = "loss",
    step: int | None = None,
) -> pd.DataFrame:
    """Returns the attribution of one or several validation examples; see `Run.attribution`."""
    positions = ",".join(str(int(each)) for each in np.atleast_1d(query))
    context = _context_of(run, step, queries=positions, measure=measure)
    _check(context)
    members = range(run.num_members) if member is None else (member,)
    tables = [attribution_table(context, each, chosen_queries(context, each)) for each in members]
    return tables[0] if member is not None else _mean_table(pd.concat(tables), measure)


def _mean_table(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Returns the mean over members, of every example over those that were trained on it."""
    keys = ["query", "query_label", "train_index", "label", "true_label"]
    found = table.groupby(keys, sort=False)
    mean = found.agg(attribution=("attribution", "mean"), num_members=("member", "size"))
    mean = mean.reset_index()
    by_query = mean.groupby("query")["attribution"]
    rank = by_query.rank(method="first", ascending=measure == "loss")
    return mean.assign(rank=rank.astype(np.int64) - 1)


def predict_removal(
    run: Run,
    indices: Any,
    queries: str = "misclassified",
    member: int = 0,
    measure: str = "loss",
    validate: bool = False,
    step: int | None = None,
) -> pd.DataFrame:
    """Returns what leaving training examples out would do; see `Run.predict_removal`."""
    context = _context_of(run, step, queries=queries, measure=measure)
    _check(context)
    updates, rows = training_updates(context, member), chosen_queries(context, member)
    if not len(rows):
        raise InputError(f"queries={queries!r}: there are none")
    examples, asked = member_examples(context, member), run.validation.at(rows)
    weights = np.ones((2, len(examples.labels)))
    weights[1, _rows_of(examples, indices)] = 0
    given = updates | {"measure": measure}
    given |= {"query_images": asked.images, "query_labels": jnp.asarray(asked.labels)}
    found = np.asarray(example_attribution(**given))
    now = retrained_measures(**given, weights=weights if validate else weights[:1])
    change = found @ (weights[1] - 1)
    columns = {
        "query": asked.source_index, "label": asked.labels, measure: np.asarray(now[0]),
        "predicted": np.asarray(now[0]) + change, "predicted_change": change,
    }  # fmt: skip
    if validate:
        columns |= {"retrained": np.asarray(now[1]), "change": np.asarray(now[1] - now[0])}
    return pd.DataFrame(columns)


def _rows_of(examples: SplitArrays, indices: Any) -> np.ndarray:
    """Returns the rows of training examples by their positions in the source."""
    wanted = np.atleast_1d(np.asarray(indices))
    place = {index: row for row, index in enumerate(examples.source_index.tolist())}
    unknown = [index for index in wanted.tolist() if index not in place]
    if unknown or not len(wanted):
        raise InputError(
            f"indices hold {unknown[0] if unknown else 'nothing'}, must be positions of training "
            "examples in the source's split (column train_index)"
        )
    return np.array([place[index] for index in wanted.tolist()])


def _context_of(run: Run, step: int | None, **options: Any) -> Context:
    steps = run.steps[-1:] if step is None else [step]
    return Context(run, Options(steps=tuple(steps), **options))


ATTRIBUTION = Pass(
    name="attribution",
    summary="d a query's loss / d weight of every training example, through all updates",
    columns=COLUMNS,
    options=("steps", "members", "queries", "measure", "validate", "freeze_statistics", "seed"),
    compute=_compute,
    per_checkpoint=False,
    check=_check,
    parts=_parts,
    draw=draw,
)
