"""Normalisation layers that know of padding and keep running statistics constant in inference."""

import math

import jax
from flax import linen as nn

NORMS = ("batch", "group")

# Flax counts the share kept of the old running statistics. Its default of .99 takes hundreds of
# steps to forget the initial ones, longer than a small run has. [not in the paper]
BATCH_NORM_MOMENTUM = 0.9


def batch_norm(
    module: nn.Module, activations: jax.Array, train: bool, mask: jax.Array | None, name: str
) -> jax.Array:
    """BatchNorm over the real examples in training; by constant running statistics otherwise.

    Args:
        module: the flax linen module that the layer belongs to.
        activations: [n ... channels].
        train: True normalises by the batch (collection 'batch_stats' is to be mutable); False by
            the running statistics, which get no gradient.
        mask: bool [n], False for padding, which the statistics of the batch leave out; or None.
        name: of the layer, 'BatchNorm_0' in flax's own numbering.

    Returns:
        Activations like `activations`.
    """
    if train:
        layer = nn.BatchNorm(momentum=BATCH_NORM_MOMENTUM, name=name)
        if mask is not None:
            mask = mask.reshape(-1, *(1,) * (activations.ndim - 1))
        return layer(activations, use_running_average=False, mask=mask)
    constant = nn.map_variables(
        nn.BatchNorm,
        "batch_stats",
        trans_in_fn=lambda statistics: jax.tree.map(jax.lax.stop_gradient, statistics),
        init=module.is_initializing(),
        mutable=module.is_initializing(),
    )
    return constant(name=name)(activations, use_running_average=True)


def normalize(
    module: nn.Module,
    norm: str,
    activations: jax.Array,
    train: bool,
    mask: jax.Array | None,
    index: int,
) -> jax.Array:
    """BatchNorm or GroupNorm, whichever a network was asked for.

    GroupNorm (Wu and He 2018) never mixes examples, in training neither: what is derived through
    the updates of training, and per-example gradients of the training mode, need it.

    Args:
        module: the flax linen module that the layer belongs to.
        norm: one of `NORMS`.
        activations: [n height width channels].
        train: see `batch_norm`; without effect on GroupNorm.
        mask: likewise.
        index: of the layer in its module, for its name.

    Returns:
        Activations like `activations`.
    """
    if norm == "batch":
        return batch_norm(module, activations, train, mask, f"BatchNorm_{index}")
    groups = num_groups(activations.shape[-1])
    return nn.GroupNorm(num_groups=groups, epsilon=1e-5, name=f"GroupNorm_{index}")(activations)


def num_groups(channels: int) -> int:
    """Groups of GroupNorm: 32 where the channels allow it, and two channels at least in each.

    A group of one channel and one pixel would be normalised to 0.

    Example:
        >>> [num_groups(channels) for channels in (512, 64, 8, 12, 5)]
        [32, 32, 4, 6, 1]
    """
    return math.gcd(channels, min(32, max(1, channels // 2)))
