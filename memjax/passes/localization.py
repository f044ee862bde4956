"""Passes `rewinding` and `localization`: which layers, and how few units, hold an example.

Maini et al. 2023, "Can neural network memorization be localized?".
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from memjax.analysis.localization import (
    Layer,
    check_units,
    network_layers,
    rewound_params,
    units_to_forget,
)
from memjax.analysis.microbatch import over_devices
from memjax.errors import InputError
from memjax.passes.base import CHECKPOINT_COLUMNS, EXAMPLE_COLUMNS, Context, Pass
from memjax.passes.localization_picture import draw_rewinding, draw_units
from memjax.split_arrays import SplitArrays

_MAX_UNITS = 100
_OTHERS = 64

REWINDING_COLUMNS = {
    **CHECKPOINT_COLUMNS,
    "step": "checkpoint that the layer's parameters are taken from; all others are those of the "
    "last checkpoint looked at",
    "layer": "place of the layer in the network, from 0",
    "layer_name": "path of its kernel",
    "group": "'corrupted' or 'clean' training examples of the member, or 'validation'",
    "num_examples": "in the group",
    "accuracy": "share of the group that is predicted as its label (corrupted: as trained on)",
}
LOCALIZATION_COLUMNS = {
    **EXAMPLE_COLUMNS,
    "num_units": "neurons or channels that were set to zero, one by one, until the label was no "
    f"longer predicted; 0 if it was not to begin with, inf if {_MAX_UNITS} did not do",
    "layers": "names of the hidden layers",
    "units_by_layer": "of the units set to zero, how many are in each",
    "layer_widths": "how many units each has",
    "others_accuracy": "share of other, clean training examples that are still right without "
    "these units",
    "others_accuracy_before": "the same with all units",
}


def _network(context: Context, step: int, member: int) -> Any:
    return context.member(context.run.member_params(step), member)


def _layers(context: Context) -> tuple[Layer, ...]:
    params = _network(context, context.steps[0], context.members[0])
    return network_layers(context.run.logits_fn, params, context.run.train.images)


def _check_rewinding(context: Context) -> None:
    context.check_steps_so_far("rewinding")


def _groups(context: Context, member: int) -> dict[str, tuple[str, np.ndarray]]:
    """Returns split and mask of the examples looked at by group, empty groups left out."""
    train, validation = context.split("train"), context.split("validation")
    own = context.run.is_member[member, : len(train.labels)]
    groups = {
        "corrupted": ("train", own & train.is_corrupted),
        "clean": ("train", own & ~train.is_corrupted),
        "validation": ("validation", np.ones(len(validation.labels), bool)),
    }
    return {name: group for name, group in groups.items() if group[1].any()}


def _is_right(context: Context, params: Any) -> dict[str, np.ndarray]:
    """Returns split -> whether each example is predicted as its label; one program serves all."""
    found = {}
    for name in ("train", "validation"):
        arrays = context.split(name)
        if len(arrays.labels):
            logits = np.asarray(context.logits(params, arrays.images))
            found[name] = logits.argmax(axis=-1) == arrays.labels
    return found


def _rewinding(context: Context, part: str) -> pd.DataFrame:
    step, layers = int(part), context.shared(_layers)
    now, then = (context.run.member_params(each) for each in (context.steps[-1], step))
    rows = []
    for member in context.members:
        params, earlier = context.member(now, member), context.member(then, member)
        groups = _groups(context, member)
        for place, layer in enumerate(layers):
            is_right = _is_right(context, rewound_params(params, earlier, layer))
            for group, (split, mask) in groups.items():
                rows.append(
                    {
                        **context.checkpoint_columns(step, member),
                        "layer": place,
                        "layer_name": layer.name,
                        "group": group,
                        "num_examples": int(mask.sum()),
                        "accuracy": float(is_right[split][mask].mean()),
                    }
                )
    return pd.DataFrame(rows)


def _check_localization(context: Context) -> None:
    params = _network(context, context.steps[0], context.members[0])
    try:
        check_units(context.run.logits_fn, params, context.run.train.images)
    except InputError as error:
        raise InputError(f"pass localization: {error}") from None
    for member in context.members:
        if not len(_clean(context, member)):
            raise InputError(
                f"pass localization: all training examples of member {member} are corrupted "
                "(config.corruption.fraction); it keeps the loss of clean ones as it is"
            )


def _clean(context: Context, member: int) -> np.ndarray:
    """Returns the rows of the member's clean training examples."""
    train = context.split("train")
    own = context.run.is_member[member, : len(train.labels)]
    return np.flatnonzero(own & ~train.is_corrupted)


def _chosen(context: Context, member: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows asked about, and those of the other, clean examples.

    The latter are as many for every member, so that one program serves all.
    """
    train, count = context.split("train"), context.options.unit_examples
    fewest = min(len(_clean(context, each)) for each in context.members)
    num_asked = min(count, fewest // 2)
    num_others = min(_OTHERS, fewest - num_asked)
    clean = _clean(context, member)
    own = context.run.is_member[member, : len(train.labels)]
    corrupted = np.flatnonzero(own & train.is_corrupted)[:count]
    rng = np.random.default_rng([context.options.seed, member])
    others = rng.permutation(clean[num_asked:])[:num_others]
    return np.sort(np.concatenate([corrupted, clean[:num_asked]])), np.sort(others)


def _units(context: Context) -> Callable[..., Any]:
    logits_fn, size = context.run.logits_fn, context.microbatch_size

    def forget(given: Any, images: jax.Array, labels: jax.Array) -> Any:
        params, other_images, other_labels = given
        return units_to_forget(
            logits_fn, params, images, labels, other_images, other_labels,
            max_units=_MAX_UNITS, microbatch_size=size,
        )  # fmt: skip

    return over_devices(forget, context.mesh)


def _forgotten(context: Context, given: Any, asked: SplitArrays) -> Any:
    """Returns the units of the examples, filled up to one number for all members."""
    most = max(len(_chosen(context, member)[0]) for member in context.members)
    size = -(-most // context.mesh.size) * context.mesh.size
    filled = asked.at(np.minimum(np.arange(size), len(asked.labels) - 1))
    found = context.shared(_units)(given, filled.images, jnp.asarray(filled.labels))
    return jax.tree.map(lambda values: np.asarray(values)[: len(asked.labels)], found)


def _localization(context: Context, step: int) -> pd.DataFrame:
    hidden = [layer for layer in context.shared(_layers) if layer.num_units]
    train, tables = context.split("train"), []
    for member in context.members:
        asked, others = (train.at(rows) for rows in _chosen(context, member))
        params = _network(context, step, member)
        found = _forgotten(context, (params, others.images, jnp.asarray(others.labels)), asked)
        before = np.asarray(context.logits(params, others.images)).argmax(-1) == others.labels
        values = {
            "num_units": found.num_units,
            "layers": [[layer.name for layer in hidden]] * len(asked.labels),
            "units_by_layer": list(found.by_layer),
            "layer_widths": [[layer.num_units for layer in hidden]] * len(asked.labels),
            "others_accuracy": found.others_accuracy,
            "others_accuracy_before": before.mean(),
        }
        columns = context.example_columns(step, member, "train", asked)
        tables.append(pd.DataFrame(columns | values))
    return pd.concat(tables, ignore_index=True)


REWINDING = Pass(
    name="rewinding",
    summary="accuracy with one layer's parameters of an earlier checkpoint, layer by layer",
    columns=REWINDING_COLUMNS,
    options=("steps", "num_examples", "members"),
    compute=_rewinding,
    per_checkpoint=False,
    check=_check_rewinding,
    parts=lambda context: [f"{step:012d}" for step in context.steps_so_far],
    draw=draw_rewinding,
)
LOCALIZATION = Pass(
    name="localization",
    summary="the fewest units without which a training example is no longer predicted, by layer",
    columns=LOCALIZATION_COLUMNS,
    options=("num_examples", "members", "unit_examples", "seed"),
    compute=_localization,
    check=_check_localization,
    draw=draw_units,
)
