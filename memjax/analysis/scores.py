"""Scores of single examples that need nothing but their logits."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from memjax.analysis.losses import softmax_cross_entropy
from memjax.errors import InputError


class Scores(NamedTuple):
    """Scores of n examples.

    Attributes:
      loss: [n], of `example_loss` (nats, for the cross-entropy).
      el2n: [n] in [0, sqrt 2], distance of the predicted probabilities from the one-hot label.
      margin: [n], the label's logit minus the largest other one; positive where correct.
      entropy: [n] in [0, log classes], of the predicted probabilities, in nats.
      is_correct: [n] bool, the largest logit (the first of equals) is the label's.
    """

    loss: jax.Array
    el2n: jax.Array
    margin: jax.Array
    entropy: jax.Array
    is_correct: jax.Array


def example_scores(
    logits: jax.Array,
    labels: jax.Array,
    *,
    example_loss: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
) -> Scores:
    """Returns loss, EL2N, margin, entropy and correctness of every example.

    Args:
      logits: [n classes], float.
      labels: [n], integers in [0, classes).
      example_loss: `example_loss(logits [classes], label) -> scalar`.

    Returns:
      The scores, each [n].

    Raises:
      InputError: the shapes do not fit, or there is only one class.

    Example:
      >>> scores = example_scores(jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1]))
      >>> scores.margin
      Array([ 2., -2.], dtype=float32)
      >>> scores.is_correct
      Array([ True, False], dtype=bool)
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.shape[1] < 2:
        raise InputError(
            "logits and labels: must be [n classes], of 2 classes or more, and [n], not "
            f"{list(logits.shape)} and {list(labels.shape)}"
        )

    return _example_scores(logits, labels, example_loss)


@functools.partial(jax.jit, static_argnums=2)
def _example_scores(logits, labels, example_loss):
    def scores(logits: jax.Array, label: jax.Array) -> Scores:
        return Scores(
            loss=example_loss(logits, label),
            el2n=el2n(logits, label),
            margin=margin(logits, label),
            entropy=entropy(logits),
            is_correct=jnp.argmax(logits) == label,
        )

    return jax.vmap(scores)(logits, labels)


def el2n(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Returns the distance of one example's probabilities from its one-hot label.

    Paul et al. 2021, "Deep learning on a data diet", definition 3.2. They average it over ten
    networks early in training.

    Args:
      logits: [classes], float.
      label: integer scalar.

    Returns:
      A scalar in [0, sqrt 2].

    Example:
      >>> el2n(jnp.zeros(2), jnp.int32(0)).round(3)
      Array(0.707, dtype=float32)
    """
    one_hot = jax.nn.one_hot(label, len(logits), dtype=logits.dtype)
    return jnp.sqrt(jnp.sum(jnp.square(jax.nn.softmax(logits) - one_hot)))


def margin(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Returns the logit of one example's label minus the largest other logit.

    Its mean over training is AUM (Pleiss et al. 2020, "Identifying mislabeled data using the area
    under the margin ranking").

    Args:
      logits: [classes], float.
      label: integer scalar.

    Returns:
      A scalar, positive where the example is classified correctly.

    Example:
      >>> margin(jnp.array([1.0, 4.0, 2.0]), jnp.int32(1))
      Array(2., dtype=float32)
    """
    is_label = jnp.arange(len(logits)) == label
    return logits[label] - jnp.max(jnp.where(is_label, -jnp.inf, logits))


def entropy(logits: jax.Array) -> jax.Array:
    """Returns the entropy of one example's predicted probabilities, in nats.

    Args:
      logits: [classes], float.

    Returns:
      A scalar in [0, log classes].

    Example:
      >>> entropy(jnp.zeros(2)).round(4)
      Array(0.6931, dtype=float32)
    """
    return jnp.sum(jax.scipy.special.entr(jax.nn.softmax(logits)))
