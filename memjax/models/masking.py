"""BatchNorm over the real examples of a padded batch."""

from typing import Any

import jax


def masked_batch_norm(
    layer: Any, activations: jax.Array, mask: jax.Array | None = None, **arguments: Any
) -> jax.Array:
    """Calls a BatchNorm layer of flax so that padding is left out of its statistics.

    The last batch of an epoch is filled up; `mask` tells the real examples.

    Args:
        layer: `flax.linen.BatchNorm` or `flax.nnx.BatchNorm`.
        activations: [n ... channels].
        mask: bool [n], as `__call__` was given it; None where no row is padding.
        **arguments: further ones of the layer's call, such as `use_running_average`.

    Returns:
        Activations like `activations`.

    Example:
        >>> from flax import linen as nn
        >>> class Net(nn.Module):
        ...     num_classes: int
        ...
        ...     @nn.compact
        ...     def __call__(self, images, train, mask=None):
        ...         hidden = nn.Dense(16)(images.reshape(images.shape[0], -1))
        ...         norm = nn.BatchNorm(use_running_average=not train)
        ...         return nn.Dense(self.num_classes)(masked_batch_norm(norm, hidden, mask))
    """
    if mask is not None:
        mask = over_examples(mask, activations)
    return layer(activations, mask=mask, **arguments)


def over_examples(mask: jax.Array, activations: jax.Array) -> jax.Array:
    """Returns a mask [n] as [n 1 ...], which broadcasts over the other axes of activations."""
    return mask.reshape(-1, *(1,) * (activations.ndim - 1))
