"""The order in which examples are seen: a pure function of (key, epoch).

Nothing is carried from step to step, so a resumed run needs only the step to go on exactly.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Batches(NamedTuple):
    """How an epoch is cut into steps.

    Attributes:
      num_examples: examples of one member's epoch.
      batch_size: real examples of a full batch.
      padded_size: rows of every batch: batch_size, up to a multiple of the devices that share it.
    """

    num_examples: int
    batch_size: int
    padded_size: int

    @property
    def steps_per_epoch(self) -> int:
        """Every example is seen once an epoch: the last batch may be short."""
        return -(-self.num_examples // self.batch_size)

    @property
    def has_padding(self) -> bool:
        """Whether some batch has rows that are no examples."""
        return self.num_examples % self.batch_size != 0 or self.padded_size != self.batch_size


def make_batches(num_examples: int, batch_size: int, num_devices: int = 1) -> Batches:
    """Returns the cut of an epoch, batches padded to a multiple of `num_devices` rows."""
    padded = -(-batch_size // num_devices) * num_devices
    return Batches(num_examples, batch_size, padded)


def epoch_order(key: jax.Array, epoch: jax.Array | int, num_examples: int) -> jax.Array:
    """Returns the shuffle of one epoch.

    Args:
      key: the member's key for its data order.
      epoch: the epoch's number, from 0.
      num_examples: how many there are.

    Returns:
      int32 [num_examples], a permutation.
    """
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_examples)


def batch_rows(
    order: jax.Array, position: jax.Array | int, batches: Batches
) -> tuple[jax.Array, jax.Array]:
    """Returns the rows of one step within its epoch.

    Args:
      order: int32 [num_examples], from `epoch_order`.
      position: the step within the epoch, from 0.
      batches: the cut of the epoch.

    Returns:
      rows: int32 [padded_size], positions among the member's examples; padding repeats row 0.
      mask: bool [padded_size], False where a row is padding.

    Example:
      >>> batches = make_batches(num_examples=5, batch_size=3)
      >>> rows, mask = batch_rows(jnp.array([4, 2, 0, 1, 3]), 1, batches)
      >>> rows[mask].tolist(), mask.tolist()
      ([1, 3], [True, True, False])
    """
    offset = jnp.arange(batches.padded_size, dtype=jnp.int32)
    place = position * batches.batch_size + offset
    mask = (offset < batches.batch_size) & (place < batches.num_examples)
    return jnp.where(mask, order[jnp.where(mask, place, 0)], order[0]), mask
