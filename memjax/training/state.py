"""What a network is between two steps, and the keys that everything random comes from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from memjax.keys import tagged
from memjax.models.adapters import Model, adapted


class TrainState(NamedTuple):
    """The state of one network, or of several where every leaf has a leading member axis.

    Attributes:
      params: collections: {"params": ..., "batch_stats": ...}; what `logits_fn` takes.
      opt_state: the optimiser's state, for the "params" part.
    """

    params: Any
    opt_state: optax.OptState


class Keys(NamedTuple):
    """One key for each use of a seed; a step's own key is fold_in(noise, step)."""

    init: jax.Array
    order: jax.Array
    noise: jax.Array
    subset: jax.Array


def member_keys(seed: jax.Array | int) -> Keys:
    """Returns the keys of the member with this seed: a run with the same seed has the same."""
    root = jax.random.key(seed)
    return Keys(*(tagged(root, use) for use in ("init", "order", "step", "subset")))


def init_state(
    seed: jax.Array | int,
    model: nn.Module | Model,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
) -> TrainState:
    """Returns a network before training.

    Args:
      seed: the member's seed.
      model: a flax linen module, or a `Model` of another framework.
      optimizer: whose state is made for the "params" part.
      image_shape: (height, width, channels).
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    params = adapted(model).init(member_keys(seed).init, images)
    return TrainState(params, optimizer.init(params["params"]))


def member_subset(seed: jax.Array | int, num_examples: int, subset_size: int) -> jax.Array:
    """Returns the examples a member trains on.

    Args:
      seed: the member's seed.
      num_examples: examples there are.
      subset_size: examples it gets.

    Returns:
      int32 [subset_size], ascending; every example when the sizes are equal.
    """
    if subset_size == num_examples:
        return jnp.arange(num_examples, dtype=jnp.int32)
    chosen = jax.random.permutation(member_keys(seed).subset, num_examples)[:subset_size]
    return jnp.sort(chosen.astype(jnp.int32))
