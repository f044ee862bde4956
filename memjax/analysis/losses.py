"""The loss of one example, the default wherever an analysis needs a loss."""

import jax
import jax.numpy as jnp

from memjax.analysis._precision import widened
from memjax.errors import InputError


def softmax_cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Returns the softmax cross-entropy of one example, in nats.

    Written in differences from the label's logit, log(1 + sum of exp(logits[j] - logits[label])),
    so that loss and derivatives keep their relative precision where the example is memorized:
    `softmax - one_hot` has no digit left in float32 from a margin of 17 on.

    Args:
      logits: [classes], float.
      label: integer scalar in [0, classes); of any other the loss and its derivative are nan.

    Returns:
      A scalar, float32 (float64 for float64 logits).

    Raises:
      InputError: the logits are not those of one example, or the label is no integer scalar.

    Example:
      >>> softmax_cross_entropy(jnp.zeros(10), jnp.int32(3)).round(4)
      Array(2.3026, dtype=float32)
      >>> softmax_cross_entropy(jnp.array([0.0, 40.0]), jnp.int32(1))
      Array(4.248354e-18, dtype=float32)
    """
    logits = widened(logits)
    is_label = label_mask(logits, label)
    differences = jnp.where(is_label, -jnp.inf, logits - label_logit(logits, is_label))
    # A shift by a constant, without a derivative; 0 where the label's logit is the largest.
    shift = jax.lax.stop_gradient(jnp.maximum(jnp.max(differences), 0))
    total = jnp.sum(jnp.exp(differences - shift))
    return shift + jnp.log1p(total + jnp.expm1(-shift))


def label_mask(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Returns bool [classes], true at the label alone; all false for a label that is no class."""
    if logits.ndim != 1:
        raise InputError(
            f"logits: must be [classes], of one example, not {list(logits.shape)}; jax.vmap takes "
            "many"
        )
    label = jnp.asarray(label)
    if label.ndim or not jnp.issubdtype(label.dtype, jnp.integer):
        raise InputError(
            f"labels: must be one integer an example, in [0, {len(logits)}), not "
            f"{label.dtype}{list(label.shape)}"
        )
    return jnp.arange(len(logits), dtype=jnp.int32) == label.astype(jnp.int32)


def label_logit(logits: jax.Array, is_label: jax.Array) -> jax.Array:
    """Returns the logit of the label; nan, with its derivatives, where there is no such class."""
    # A masked sum: under vmap the transpose of an index would be a scatter.
    logit = jnp.sum(jnp.where(is_label, logits, 0))
    return logit * jnp.where(jnp.any(is_label), 1, jnp.nan).astype(logit.dtype)
