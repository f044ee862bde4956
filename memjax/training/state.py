"""What a network is between two steps, and the keys that everything random comes from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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


def balanced_subsets(
    seed: int, num_members: int, num_examples: int, subset_size: int
) -> np.ndarray:
    """Returns the examples of every member, each left out by as many members as any other, to one.

    Random orders of all examples follow one another, and each member leaves out the next piece.
    Where a piece reaches from one order into the next, the next begins with examples that are not
    in the piece yet.

    Args:
      seed: of the ensemble.
      num_members: members there are.
      num_examples: examples there are.
      subset_size: examples each member gets.

    Returns:
      int32 [members subset_size], ascending.

    Example:
      >>> subsets = balanced_subsets(0, num_members=4, num_examples=8, subset_size=6)
      >>> np.bincount(subsets.ravel()).tolist()
      [3, 3, 3, 3, 3, 3, 3, 3]
    """
    key = member_keys(seed).subset
    left_out = num_examples - subset_size
    waiting, piece_number, pieces = np.zeros(0, int), 0, []
    for _ in range(num_members):
        if len(waiting) < left_out:
            order_key = jax.random.fold_in(key, piece_number)
            order = np.asarray(jax.random.permutation(order_key, num_examples))
            is_new = ~np.isin(order, waiting)
            waiting = np.concatenate([waiting, order[is_new], order[~is_new]])
            piece_number += 1
        pieces.append(waiting[:left_out])
        waiting = waiting[left_out:]
    everyone = np.arange(num_examples, dtype=np.int32)
    return np.stack([np.setdiff1d(everyone, piece) for piece in pieces]).astype(np.int32)
