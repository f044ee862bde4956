"""Normalisation layers that know of padding and keep running statistics constant in inference."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from memjax.models.fusion import gradient_apart

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


class PooledBatchNorm(nn.Module):
    """BatchNorm in training, then max pooling: the same numbers, normalised after the pooling.

    Normalising keeps the order of the values of a channel, or turns it round where the scale is
    negative. So the pooling may come first, and the normalisation acts on what is left; with it a
    large part of its backward pass goes as well. Variables are those of `nn.BatchNorm`.

    Attributes:
        epsilon: added to the variance, as flax does.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        activations: jax.Array,
        pool: Callable[[jax.Array], jax.Array],
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the pooled, normalised activations.

        Args:
            activations: [n height width channels].
            pool: the maximum over windows, channel by channel.
            mask: bool [n], False for padding, which the statistics leave out.

        Returns:
            [n ... channels], as `pool` leaves them.
        """
        channels, dtype = activations.shape[-1:], activations.dtype
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        wide = activations.astype(jnp.promote_types(dtype, jnp.float32))
        where = None if mask is None else mask.reshape(-1, 1, 1, 1)
        # Not `jnp.mean`: with a mask, it counts in an array as large as the activations.
        num_images = len(wide) if mask is None else jnp.sum(mask)
        count = num_images * wide.shape[1] * wide.shape[2]
        mean = jnp.sum(wide, axis=(0, 1, 2), where=where) / count
        square = jnp.sum(jnp.square(wide), axis=(0, 1, 2), where=where) / count
        mean, square = gradient_apart((mean, square), scale[0] > 0)
        variance = jnp.maximum(square - jnp.square(mean), 0)
        if not self.is_initializing():
            keep = BATCH_NORM_MOMENTUM
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * variance
        factor = scale * jax.lax.rsqrt(variance + self.epsilon)
        shift = bias - mean * factor
        sign = jnp.where(scale < 0, -1, 1)
        pooled = pool(activations * _last(sign.astype(dtype))).astype(wide.dtype)
        return (pooled * _last(sign * factor) + _last(shift)).astype(dtype)


def _last(values: jax.Array) -> jax.Array:
    return values.reshape(1, 1, 1, -1)


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
