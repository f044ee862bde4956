"""TracIn and TRAK: attribution estimated from a few checkpoints."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis._arguments import check_key, check_number
from memjax.analysis.attribution_measures import check_measured, check_query_shapes
from memjax.analysis.inputs import check_model
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.microbatch import check_size
from memjax.analysis.products import gradient_products, projected_gradients
from memjax.errors import InputError


def tracin(
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    checkpoints: Sequence[Any],
    images: jax.Array,
    labels: jax.Array,
    step_weights: Sequence[float] | jax.Array,
    query_images: jax.Array,
    query_labels: jax.Array,
    *,
    block_size: int | None = None,
    example_loss: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
) -> jax.Array:
    """Returns TracIn: -sum_t step_weight_t <grad loss(query), grad loss(example)> at checkpoint t.

    What the steps on an example did to the query's loss, as if no later step had changed that.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, inference mode.
      checkpoints: the network at some steps of training.
      images: [n ...], the training examples.
      labels: [n ...].
      step_weights: [checkpoints], the learning rates of an example's updates near each checkpoint,
        summed, over the batch size: with them the result has the units of `example_attribution`.
      query_images: [queries ...].
      query_labels: [queries ...].
      block_size: examples of each side at once; changes rounding only.
      example_loss: `example_loss(logits [classes], label) -> scalar`.

    Returns:
      [queries n], as `example_attribution` with the measure 'loss'.

    Raises:
      InputError: the shapes do not fit, or there is no checkpoint.

    Example:
      >>> tracin(
      ...     lambda weights, images: images @ weights, [jnp.zeros((2, 2))], jnp.eye(2),
      ...     jnp.array([0, 1]), [1.0], jnp.eye(2), jnp.array([0, 0]))
      Array([[-0.5,  0. ],
             [ 0. ,  0.5]], dtype=float32)

    Reference: Pruthi et al. 2020, equation 1.
    """
    weights = np.asarray(step_weights, float)
    if not len(checkpoints) or weights.shape != (len(checkpoints),):
        raise InputError(
            f"checkpoints, step_weights: {len(checkpoints)} and shape {weights.shape}, must be "
            "equally many, at least one"
        )
    query_images, query_labels = check_query_shapes(images, labels, query_images, query_labels)
    check_measured(logits_fn, checkpoints[0], query_images, query_labels, example_loss)
    total: Any = 0.0
    for params, weight in zip(checkpoints, weights.tolist(), strict=True):
        products = gradient_products(
            logits_fn, params, query_images, query_labels, images, labels, block_size,
            example_loss=example_loss,
        )  # fmt: skip
        total = total - weight * products
    return total


def trak(
    key: jax.Array,
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    networks: Sequence[Any],
    images: jax.Array,
    labels: jax.Array,
    query_images: jax.Array,
    query_labels: jax.Array,
    *,
    dimension: int = 512,
    damping: float = 0.0,
    measure: str = "loss",
    microbatch_size: int | None = None,
) -> jax.Array:
    """Returns TRAK: the network as logistic regression on randomly projected gradients.

    Features are the gradients of the log odds of the label, log p / (1 - p), projected to
    `dimension` numbers; phi(query) (Phi' Phi + damping)^-1 Phi' and 1 - p are averaged over the
    networks each, then multiplied.

    Args:
      key: a typed key, for the projections; each network has its own.
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, inference mode.
      networks: TRAINED networks: of several seeds, or checkpoints of one.
      images: [n ...], the training examples.
      labels: [n], integers.
      query_images: [queries ...].
      query_labels: [queries].
      dimension: of the projections; well below n, or the inverse needs a damping.
      damping: added to the diagonal, in units of its mean.
      measure: 'margin': the log odds of the label; 'loss': the cross-entropy.
      microbatch_size: examples at once; changes rounding only.

    Returns:
      [queries n]: change of the measure per unit of weight, up to one factor for all of them.

    Raises:
      InputError: the shapes do not fit, or an option is out of range.

    Example:
      >>> trak(
      ...     jax.random.key(0), lambda weights, images: images @ weights, [jnp.zeros((2, 2))],
      ...     jnp.eye(2), jnp.array([0, 1]), jnp.eye(2), jnp.array([0, 1]), dimension=2).shape
      (2, 2)

    Reference: Park et al. 2023, algorithm 1 (without its soft threshold).
    """
    if not len(networks):
        raise InputError("networks: none given, must be at least one")
    if measure not in ("loss", "margin"):
        raise InputError(f"measure is {measure!r}, must be 'loss' or 'margin'")
    check_number("damping", damping, at_least=0)
    key, dimension = check_key(key), check_size("dimension", dimension)
    query_images, query_labels = check_query_shapes(images, labels, query_images, query_labels)
    scores, errors, query_errors = [], [], []
    for place, params in enumerate(networks):
        check_model(logits_fn, params, images, labels, by_params=True)
        check_measured(logits_fn, params, query_images, query_labels, softmax_cross_entropy)
        arguments = (jax.random.fold_in(key, place), logits_fn, params)
        features, query_features = (
            projected_gradients(
                *arguments, *examples, dimension, microbatch_size, example_loss=log_odds
            )
            for examples in ((images, labels), (query_images, query_labels))
        )
        scores.append(_regress(features, query_features, jnp.float32(damping)))
        errors.append(_error(logits_fn, params, images, labels))
        query_errors.append(_error(logits_fn, params, query_images, query_labels))
    found = _mean(scores) * _mean(errors)[None]
    return found if measure == "margin" else -found * _mean(query_errors)[:, None]


def log_odds(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Returns log p / (1 - p) of the label's probability p: TRAK's output function.

    Example:
      >>> log_odds(jnp.array([0.0, 2.0]), 1)
      Array(2., dtype=float32)
    """
    is_label = jnp.arange(len(logits)) == label
    others = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits))
    return jnp.sum(jnp.where(is_label, logits, 0)) - others


@jax.jit
def _regress(features: jax.Array, query_features: jax.Array, damping: jax.Array) -> jax.Array:
    gram = jnp.matmul(features.T, features, precision="highest")
    scale = jnp.trace(gram) / len(gram)
    solved = jnp.linalg.solve(gram + damping * scale * jnp.eye(len(gram)), features.T)
    return jnp.matmul(query_features, solved, precision="highest")


def _error(logits_fn: Any, params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns 1 - p of the label, [n]."""
    odds = jax.vmap(log_odds)(logits_fn(params, images), jnp.asarray(labels))
    return jax.nn.sigmoid(-odds)


def _mean(arrays: Sequence[jax.Array]) -> jax.Array:
    return jnp.mean(jnp.stack(arrays), axis=0)
