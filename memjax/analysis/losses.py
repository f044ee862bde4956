"""The loss of one example, the default wherever an analysis needs a loss."""

import jax
import optax


def softmax_cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Returns the softmax cross-entropy of one example, in nats.

    Args:
      logits: [classes], float.
      label: integer scalar in [0, classes).

    Returns:
      A scalar of the dtype of `logits`.

    Example:
      >>> import jax.numpy as jnp
      >>> softmax_cross_entropy(jnp.zeros(10), jnp.int32(3)).round(4)
      Array(2.3026, dtype=float32)
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)
