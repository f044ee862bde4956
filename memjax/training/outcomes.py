"""What a network says of each example, and what of it is logged."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis.losses import softmax_cross_entropy


class Outcomes(NamedTuple):
    """What a network says of each example.

    Attributes:
      loss: float32 [... n], cross-entropy with the label, nats.
      margin: float32 [... n], label logit - largest other logit.
      prediction: int32 [... n], the predicted class.
    """

    loss: Any
    margin: Any
    prediction: Any


def score(logits: jax.Array, labels: jax.Array) -> Outcomes:
    """Returns the outcomes of a batch.

    Example:
      >>> score(jnp.array([[2.0, 0.5, 1.0]]), jnp.array([2])).margin.tolist()
      [-1.0]
    """
    logits = logits.astype(jnp.float32)
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    other = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    label_logit = jnp.sum(jnp.where(is_label, logits, 0), axis=-1)
    losses = jax.vmap(softmax_cross_entropy)(logits, labels)
    return Outcomes(losses, label_logit - other, jnp.argmax(logits, -1).astype(jnp.int32))


def no_outcomes(num_members: int, num_examples: int) -> Outcomes:
    """Returns room for the outcomes of members, on the host."""
    shape = num_members, num_examples
    zeros = np.zeros(shape, np.float32)
    return Outcomes(zeros, zeros, np.zeros(shape, np.int32))


def summarize(
    outcomes: Outcomes,
    labels: jax.Array,
    true_labels: jax.Array,
    is_corrupted: jax.Array,
    is_class: bool,
) -> dict[str, jax.Array]:
    """Returns what is logged of a split, float32 [members] each; nan where there are no such.

    Args:
      outcomes: [members rows], of which the first n count.
      labels: [members n].
      true_labels: [members n].
      is_corrupted: bool [members n].
      is_class: whether labels are classes of the source, so that they can be wrong.

    Returns:
      loss, accuracy, clean_accuracy, corrupted_accuracy, and of the examples with a wrong label the
      shares predicted as that label, as the true one and as another: mislabeled_as_label,
      mislabeled_as_true, mislabeled_as_other.
    """
    loss, _, prediction = jax.tree.map(lambda leaf: leaf[:, : labels.shape[1]], outcomes)
    is_label, is_true = prediction == labels, prediction == true_labels
    is_wrong = (labels != true_labels) & is_class

    def share(what: jax.Array, where: jax.Array) -> jax.Array:
        return jnp.mean(what, axis=1, where=where)

    return {
        "loss": jnp.mean(loss, axis=1),
        "accuracy": jnp.mean(is_label, axis=1),
        "clean_accuracy": share(is_label, ~is_corrupted),
        "corrupted_accuracy": share(is_label, is_corrupted),
        "mislabeled_as_label": share(is_label, is_wrong),
        "mislabeled_as_true": share(is_true, is_wrong),
        "mislabeled_as_other": share(~is_label & ~is_true, is_wrong),
    }
