"""Passes `vog` and `prediction_depth`: two more measures of how hard an example is.

How much the gradient by its image changes over training, and from which layer on the network's
answer stands.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from memjax.analysis.gradient_variance import (
    label_logit_gradients,
    variance_of_gradients,
    within_classes,
)
from memjax.analysis.microbatch import over_devices
from memjax.analysis.prediction_depth import depth_of, layer_embeddings, nearest_classes
from memjax.errors import InputError
from memjax.memory import memory_budget
from memjax.passes.base import EXAMPLE_COLUMNS, Context, Pass

_NEIGHBORS = 30
VOG_COLUMNS = {
    **EXAMPLE_COLUMNS,
    "variance_of_gradients": "standard deviation over all checkpoints up to `step` of d (the "
    "label's logit) / d image, mean over pixels (1 / unit of pixel)",
    "variance_in_class": "the same in standard deviations from the mean of the label's class, "
    "among the split's examples looked at",
}
DEPTH_COLUMNS = {
    **EXAMPLE_COLUMNS,
    "prediction_depth": "layers to go through until the predicted class is, from there on, that of "
    f"most of the {_NEIGHBORS} nearest training examples of the member; 0: already as an image, "
    "num_layers: not even by the logits",
    "num_layers": "the image, what each kernel but the first is given, and the logits",
    "prediction": "the predicted class",
}


def _check_vog(context: Context) -> None:
    context.check_steps_so_far("vog")


def _compute_vog(context: Context, part: str) -> pd.DataFrame:
    member = int(part)
    arrays = context.examples
    labels, images = jnp.asarray(arrays.labels), arrays.images
    gradients = context.shared(_gradients)
    # Gradients, their mean and their squares, and a copy of one on the way.
    row_bytes = 4 * 4 * math.prod(images.shape[1:])
    size = max(1, min(len(images), memory_budget() // 8 // row_bytes))

    def of_chunk(rows: slice) -> Iterator[jax.Array]:
        for step in context.steps_so_far:
            params = context.member(context.run.member_params(step), member)
            yield gradients(params, images[rows], labels[rows])

    chunks = [slice(first, first + size) for first in range(0, len(images), size)]
    found = np.concatenate([np.asarray(variance_of_gradients(of_chunk(rows))) for rows in chunks])
    in_class = np.concatenate(
        [within_classes(found[rows], arrays.labels[rows]) for _, rows in context.parts]
    )
    values = {"variance_of_gradients": found, "variance_in_class": in_class}
    return context.member_table(context.steps[-1], member, values)


def _gradients(context: Context) -> Any:
    return over_devices(
        lambda params, images, labels: label_logit_gradients(
            context.run.logits_fn, params, images, labels, context.microbatch_size
        ),
        context.mesh,
    )


def _check_depth(context: Context) -> None:
    if not len(context.split("train").labels):
        raise InputError("pass prediction_depth: no training examples are looked at")
    params = context.member(context.run.member_params(context.steps[-1]), context.members[0])
    try:
        layer_embeddings(context.run.logits_fn, params, context.split("train").images[:1])
    except InputError as error:
        raise InputError(f"pass prediction_depth: {error}") from None


def _compute_depth(context: Context, step: int) -> pd.DataFrame:
    all_params = context.run.member_params(step)
    train, examples = context.split("train"), context.examples
    own_part = next((part.rows for part in context.parts if part.split == "train"), None)
    embed, neighbors = context.shared(_on_devices)
    tables = []
    for member in context.members:
        params = context.member(all_params, member)
        is_own = context.run.is_member[member, : len(train.labels)]
        rows = np.full(len(examples.labels), -1)  # of each example in the support
        embedded = embed(params, examples.images)
        if own_part is None:  # the neighbours are not among the examples looked at
            support = embed(params, train.images[is_own])
        else:
            rows[own_part] = np.where(is_own, np.cumsum(is_own) - 1, -1)
            support = [layer[own_part][is_own] for layer in embedded]
        labels = jnp.asarray(train.labels[is_own])
        predictions = jnp.argmax(embedded[-1], axis=1)
        classes = [
            neighbors((known, labels), points, jnp.asarray(rows))
            for points, known in zip(embedded, support, strict=True)
        ]
        values = {
            "prediction_depth": np.asarray(depth_of(classes, predictions)),
            "num_layers": len(classes),
            "prediction": np.asarray(predictions),
        }
        tables.append(context.member_table(step, member, values))
    return pd.concat(tables, ignore_index=True)


def _on_devices(context: Context) -> tuple[Any, Any]:
    """Returns what embeds images, and what asks neighbours, over all devices."""
    size, num_classes = context.microbatch_size or 512, context.run.setup.examples.num_classes

    def embed(params: Any, images: jax.Array) -> list[jax.Array]:
        return layer_embeddings(context.run.logits_fn, params, images, size)

    def neighbors(support: Any, points: jax.Array, own_rows: jax.Array) -> jax.Array:
        known, labels = support
        return nearest_classes(points, known, labels, num_classes, _NEIGHBORS, own_rows)

    return over_devices(embed, context.mesh), over_devices(neighbors, context.mesh)


VOG = Pass(
    name="vog",
    summary="variance over checkpoints of the gradient of the label's logit by the image (VoG)",
    columns=VOG_COLUMNS,
    options=("steps", "splits", "num_examples", "members"),
    compute=_compute_vog,
    per_checkpoint=False,
    parts=lambda context: [f"{member:04d}" for member in context.members],
    check=_check_vog,
)
PREDICTION_DEPTH = Pass(
    name="prediction_depth",
    summary="layer from which on the nearest training examples have the predicted class",
    columns=DEPTH_COLUMNS,
    options=("splits", "num_examples", "members"),
    compute=_compute_depth,
    check=_check_depth,
)
