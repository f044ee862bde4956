"""What is measured of a query, and the queries themselves, checked."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from memjax.analysis._leaves import merge_params
from memjax.analysis.attribution_run import Problem, check_precision
from memjax.analysis.inputs import (
    LogitsFn,
    as_array,
    check_labels,
    check_scalar,
    logits_of_example,
)
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.scores import margin
from memjax.errors import InputError

Measure = Callable[[jax.Array, jax.Array], jax.Array]


def make_measure(measure: str | Measure, example_loss: Measure) -> Measure:
    """Returns `measure(logits [classes], label) -> scalar` by its name, or what is given.

    Example:
      >>> from memjax.analysis.losses import softmax_cross_entropy
      >>> make_measure("margin", softmax_cross_entropy)(jnp.array([1.0, 3.0]), 1)
      Array(2., dtype=float32)
    """
    if measure == "loss":
        return example_loss
    if measure == "margin":
        return margin
    if not callable(measure):
        raise InputError(
            f"measure is {measure!r}, must be 'loss', 'margin' or a function (logits, label) -> "
            "scalar"
        )
    return measure


def check_queries(
    problem: Problem, images: Any, labels: Any, measure: Measure
) -> tuple[jax.Array, jax.Array]:
    """Returns the queries as arrays, or raises InputError where they are not like the examples.

    Args:
      problem: the training.
      images: [queries ...].
      labels: [queries ...].
      measure: what is measured of them.
    """
    run, logits_fn = problem.run, problem.training.program.logits_fn
    images, labels = check_query_shapes(run.images, run.labels, images, labels)
    params = merge_params(problem.start.params, run.fixed)
    return images, check_measured(logits_fn, params, images, labels, measure)


def check_measured(
    logits_fn: LogitsFn, params: Any, images: jax.Array, labels: jax.Array, measure: Measure
) -> jax.Array:
    """Returns the labels of queries; raises InputError for what the measure is not defined for."""
    logits = logits_of_example(logits_fn, params, images)
    num_classes = logits.shape[0] if measure in (softmax_cross_entropy, margin) else None
    labels = check_labels(
        labels, len(images), num_classes, num_classes is None, name="query_labels",
        of="query_images",
    )  # fmt: skip
    check_scalar("measure", measure, logits, labels)
    return labels


def check_query_shapes(
    images: Any, labels: Any, query_images: Any, query_labels: Any
) -> tuple[jax.Array, jax.Array]:
    """Returns the queries as arrays of the images' dtype, or raises InputError."""
    query_images = as_array("query_images", query_images)
    query_labels = as_array("query_labels", query_labels)
    check_precision({}, query_images, "query_images")
    example_shape, label_shape = jnp.shape(images)[1:], jnp.shape(labels)[1:]
    if (
        not query_images.ndim
        or query_images.shape[1:] != example_shape
        or not query_images.shape[0]
    ):
        wanted = " ".join(["queries", *map(str, example_shape)])
        raise InputError(
            f"query_images have shape {query_images.shape}, must be [{wanted}] like images, with "
            "queries at least 1"
        )
    if query_labels.shape != (query_images.shape[0], *label_shape):
        wanted = " ".join(map(str, (query_images.shape[0], *label_shape)))
        raise InputError(f"query_labels have shape {query_labels.shape}, must be [{wanted}]")
    return query_images.astype(jnp.asarray(images).dtype), query_labels
