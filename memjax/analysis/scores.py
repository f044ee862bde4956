"""Scores of single examples that need nothing but their logits."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from memjax.analysis._precision import scaled_norm, widened
from memjax.analysis.inputs import ExampleLoss, check_logits, check_scalar
from memjax.analysis.losses import label_logit, label_mask, softmax_cross_entropy


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
    example_loss: ExampleLoss = softmax_cross_entropy,
) -> Scores:
    """Returns loss, EL2N, margin, entropy and correctness of every example.

    Args:
      logits: [n classes], float.
      labels: [n], integers in [0, classes).
      example_loss: `example_loss(logits [classes], label) -> scalar`.

    Returns:
      The scores, each [n], in float32 (float64 for float64 logits): of half precision too, and
      with their relative precision up to margins of 80 and more.

    Raises:
      InputError: the shapes do not fit, there is only one class, a label is no class, or the loss
        no scalar. (Labels that are traced cannot be looked at: the scores of one that is no class
        are nan.)

    Example:
      >>> scores = example_scores(jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1]))
      >>> scores.margin
      Array([ 2., -2.], dtype=float32)
      >>> scores.is_correct
      Array([ True, False], dtype=bool)
    """
    logits, labels = check_logits(logits, labels)
    check_scalar("example_loss", example_loss, logits[0], labels)
    return _example_scores(logits, labels, example_loss)


@functools.partial(jax.jit, static_argnums=2)
def _example_scores(logits, labels, example_loss):
    logits = widened(logits)

    def scores(logits: jax.Array, label: jax.Array) -> Scores:
        return Scores(
            loss=example_loss(logits, label),
            el2n=el2n(logits, label),
            margin=margin(logits, label),
            entropy=entropy(logits),
            is_correct=jnp.argmax(logits).astype(jnp.int32) == label.astype(jnp.int32),
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
    return scaled_norm(jax.grad(softmax_cross_entropy)(widened(logits), label))


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
    logits = widened(logits)
    is_label = label_mask(logits, label)
    return label_logit(logits, is_label) - jnp.max(jnp.where(is_label, -jnp.inf, logits))


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
    logits = widened(logits)
    is_largest = label_mask(logits, jnp.argmax(logits))
    below = logits - jnp.max(logits)
    # log of the sum of exp(below): log1p of the others keeps its digits where one class has it all.
    log_total = jnp.log1p(jnp.sum(jnp.where(is_largest, 0, jnp.exp(below))))
    probabilities = jnp.exp(below - log_total)
    surprises = jnp.where(probabilities > 0, log_total - below, 0)  # 0 times infinity is 0 here
    return jnp.sum(probabilities * surprises)
