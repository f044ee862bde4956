"""Vision transformers for small images (Dosovitskiy et al. 2021; sizes of Touvron et al. 2021)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from memjax.errors import InputError
from memjax.models.convolution import Conv
from memjax.models.regularizers import Regularizers, apply_hidden_regularizers


class Size(NamedTuple):
    """Of a transformer: width of its tokens, blocks, and attention heads."""

    width: int
    depth: int
    num_heads: int


SIZES = {"tiny": Size(192, 12, 3), "small": Size(384, 12, 6)}
POOLS = ("class_token", "mean")
MLP_RATIO = 4


class Block(nn.Module):
    """Pre-norm attention and two-layer perceptron, each added to its input.

    Attributes:
        num_heads: of the attention.
        regularizers: after the attention, and after either layer of the perceptron.
    """

    num_heads: int
    regularizers: Regularizers

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def regularize(values: jax.Array) -> jax.Array:
            return apply_hidden_regularizers(self, values, self.regularizers, train)

        width = x.shape[-1]
        attention = nn.MultiHeadDotProductAttention(self.num_heads, deterministic=True)
        x = x + regularize(attention(nn.LayerNorm(name="LayerNorm_0")(x)))
        y = nn.Dense(MLP_RATIO * width, name="Dense_0")(nn.LayerNorm(name="LayerNorm_1")(x))
        y = nn.Dense(width, name="Dense_1")(regularize(nn.gelu(y)))
        return x + regularize(y)


class ViT(nn.Module):
    """Patches, learned positions, transformer blocks, LayerNorm, then a linear layer.

    The blocks are written out, not scanned: that takes longer to compile, but per-example norms are
    then ghost norms of every layer, and analyses see each layer by itself.

    Attributes:
        num_classes: width of the output.
        size: 'tiny' (192 wide, 12 blocks, 3 heads) or 'small' (384, 12, 6).
        patch_size: height and width of a patch, which must divide those of the images; 4 makes 64
            tokens of 32x32 pixels.
        pool: what the last layer sees: 'class_token', or the 'mean' over the patches.
        width: instead of the size's, if above 0.
        depth: likewise.
        num_heads: likewise; must divide the width.
        regularizers: hidden dropout and noise, after the positions are added, after the attention,
            and after either layer of the perceptron.

    Raises:
        InputError: a field out of its range, or images that the patches do not divide.

    Example:
        >>> from functools import partial
        >>> model, images = ViT(10, depth=2, patch_size=2), jnp.zeros((2, 8, 8, 1))
        >>> variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
        >>> jax.eval_shape(partial(model.apply, train=False), variables, images).shape
        (2, 10)
    """

    num_classes: int
    size: str = "tiny"
    patch_size: int = 4
    pool: str = "class_token"
    width: int = 0
    depth: int = 0
    num_heads: int = 0
    regularizers: Regularizers = Regularizers()

    def __post_init__(self):
        super().__post_init__()
        if self.size not in SIZES:
            raise InputError(f"ViT size={self.size!r}: must be one of {', '.join(SIZES)}")
        if self.pool not in POOLS:
            raise InputError(f"ViT pool={self.pool!r}: must be one of {', '.join(POOLS)}")
        if self.patch_size < 1:
            raise InputError(f"ViT patch_size={self.patch_size}: must be at least 1")
        for field in Size._fields:
            if getattr(self, field) < 0:
                raise InputError(f"ViT {field}={getattr(self, field)}: must be at least 0")
        width, _, num_heads = self.shape
        if width % num_heads:
            raise InputError(f"ViT num_heads={num_heads}: must divide the width, {width}")

    @property
    def shape(self) -> Size:
        """The size, with the fields that are set in place of its own."""
        named = SIZES[self.size]
        return Size(*(getattr(self, field) or getattr(named, field) for field in Size._fields))

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Returns the logits.

        Args:
            images: [n height width channels], standardised.
            train: whether the regularisers act, with the rngs 'dropout' and 'noise'.
            mask: bool [n], False for padding; without effect here, where examples do not mix.

        Returns:
            [n num_classes].
        """
        del mask
        patch = self.patch_size
        if images.ndim != 4 or images.shape[1] % patch or images.shape[2] % patch:
            raise InputError(
                f"ViT patch_size={patch}: must divide height and width of the images, whose shape "
                f"is {images.shape[1:]}"
            )
        width, depth, num_heads = self.shape
        x = Conv(width, (patch, patch), padding="VALID", stride=patch, name="Patches")(images)
        x = x.reshape(x.shape[0], -1, width)
        if self.pool == "class_token":
            token = self.param("class_token", nn.initializers.zeros, (1, 1, width))
            token = jnp.broadcast_to(token, (x.shape[0], 1, width)).astype(x.dtype)
            x = jnp.concatenate([token, x], axis=1)
        positions = self.param(
            "position_embedding", nn.initializers.normal(0.02), (1, x.shape[1], width)
        )
        x = x + positions.astype(x.dtype)
        x = apply_hidden_regularizers(self, x, self.regularizers, train)
        for _ in range(depth):
            x = Block(num_heads, self.regularizers)(x, train)
        x = nn.LayerNorm(name="LayerNorm_0")(x)
        x = x[:, 0] if self.pool == "class_token" else jnp.mean(x, axis=1)
        return nn.Dense(self.num_classes)(x)
