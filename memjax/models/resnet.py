"""Residual networks for small images: ResNet (He et al. 2016) and WideResNet (Zagoruyko 2016).

Both are the forms that the field uses on CIFAR: a 3x3 convolution without stride and without
pooling as the stem, three or four stages of 3x3 blocks, and the mean over all pixels at the end.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from memjax.errors import InputError
from memjax.models.convolution import METHODS, Conv
from memjax.models.mlp import kernel_initializer
from memjax.models.normalization import NORMS, normalize
from memjax.models.regularizers import Regularizers, apply_hidden_regularizers

BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)
WIDE_STEM, WIDE_WIDTHS = 16, (16, 32, 64)


class _Block(nn.Module):
    """The fields of a block.

    Attributes:
        channels: of both convolutions.
        stride: of the first.
        norm: see `ResNet`, as all that follow.
    """

    channels: int
    stride: int
    norm: str
    initialization: str
    method: str
    regularizers: Regularizers


class BasicBlock(_Block):
    """Conv, norm, ReLU, Conv, norm, plus the input (or its projection), ReLU."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        def norm(values: jax.Array, index: int) -> jax.Array:
            return normalize(self, self.norm, values, train, mask, index)

        y = nn.relu(norm(_convolve(self, x, self.channels, stride=self.stride), 0))
        y = apply_hidden_regularizers(self, y, self.regularizers, train)
        y = norm(_convolve(self, y, self.channels), 1)
        if x.shape != y.shape:
            x = norm(_convolve(self, x, self.channels, size=1, stride=self.stride), 2)
        return nn.relu(x + y)


class WideBlock(_Block):
    """Norm, ReLU, Conv, norm, ReLU, Conv, plus the input (or its projection)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        activated = nn.relu(normalize(self, self.norm, x, train, mask, 0))
        y = _convolve(self, activated, self.channels, stride=self.stride)
        y = nn.relu(normalize(self, self.norm, y, train, mask, 1))
        y = apply_hidden_regularizers(self, y, self.regularizers, train)
        y = _convolve(self, y, self.channels)
        if x.shape != y.shape:
            x = _convolve(self, activated, self.channels, size=1, stride=self.stride)
        return x + y


class _Residual(nn.Module):
    """The fields of both networks, and their checks."""

    num_classes: int
    depth: int = 18
    width_factor: float = 1.0
    norm: str = "batch"
    initialization: str = "he_normal"
    method: str = "auto"
    regularizers: Regularizers = Regularizers()

    def __post_init__(self):
        super().__post_init__()
        kind = type(self).__name__
        if not self.width_factor > 0:
            raise InputError(f"{kind} width_factor={self.width_factor}: must be positive")
        if self.norm not in NORMS:
            raise InputError(f"{kind} norm={self.norm!r}: must be one of {', '.join(NORMS)}")
        if self.method not in METHODS:
            raise InputError(f"{kind} method={self.method!r}: must be one of {', '.join(METHODS)}")
        kernel_initializer(self.initialization)

    def check_images(self, images: jax.Array) -> None:
        """Raises an InputError unless images have a height, a width and channels."""
        if images.ndim != 4:
            raise InputError(
                f"{type(self).__name__}: examples of shape {images.shape[1:]}, must be images "
                "[height width channels]"
            )

    def stage_blocks(
        self, block: type[_Block], widths: Sequence[int], counts: Sequence[int]
    ) -> list[nn.Module]:
        """Returns the blocks in their order; each stage after the first halves the image."""
        blocks: list[nn.Module] = []
        for stage, (width, count) in enumerate(zip(widths, counts, strict=True)):
            channels = max(1, round(width * self.width_factor))
            for index in range(count):
                stride = 2 if stage and not index else 1
                fields = self.norm, self.initialization, self.method, self.regularizers
                blocks.append(block(channels, stride, *fields))
        return blocks


class ResNet(_Residual):
    """ResNet-18 or -34 with the stem for CIFAR: 11,173,962 parameters at depth 18, 10 classes.

    Attributes:
        num_classes: width of the output.
        depth: 18 or 34; 10 has one block a stage.
        width_factor: scales the channels of every stage, 64 to 512.
        norm: 'batch', or 'group' (32 groups), which never mixes examples.
        initialization: of the kernels, see `MLP`.
        method: of the convolutions, see `convolution`; it changes speed, not the parameters.
        regularizers: hidden dropout and noise, between the two convolutions of every block.

    Raises:
        InputError: a field out of its range, or examples that are no images.

    Example:
        >>> from functools import partial
        >>> model, images = ResNet(10, depth=10, width_factor=0.125), jnp.zeros((2, 8, 8, 1))
        >>> variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
        >>> jax.eval_shape(partial(model.apply, train=False), variables, images).shape
        (2, 10)
    """

    def __post_init__(self):
        super().__post_init__()
        if self.depth not in BLOCKS:
            allowed = ", ".join(map(str, BLOCKS))
            raise InputError(f"ResNet depth={self.depth}: must be one of {allowed}")

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Returns the logits.

        Args:
            images: [n height width channels], standardised.
            train: True normalises by the batch (collection 'batch_stats' is to be mutable) and
                switches the regularisers on (rngs 'dropout' and 'noise').
            mask: bool [n], False for padding, which the statistics of the batch leave out.

        Returns:
            [n num_classes].
        """
        self.check_images(images)
        x = _convolve(self, images, max(1, round(WIDTHS[0] * self.width_factor)))
        x = nn.relu(normalize(self, self.norm, x, train, mask, 0))
        for block in self.stage_blocks(BasicBlock, WIDTHS, BLOCKS[self.depth]):
            x = block(x, train, mask)
        return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)))


class WideResNet(_Residual):
    """WideResNet, depth 28 and width 10: 36,479,194 parameters with 10 classes.

    Attributes:
        num_classes: width of the output.
        depth: 6 blocks + 4: 10, 16, 22, 28, 34, 40, ...
        width_factor: multiplies the channels of the three stages, 16, 32 and 64; not the stem.
        norm: 'batch', or 'group' (32 groups), which never mixes examples.
        initialization: of the kernels, see `MLP`.
        method: of the convolutions, see `convolution`; it changes speed, not the parameters.
        regularizers: hidden dropout and noise, between the two convolutions of every block, where
            Zagoruyko and Komodakis put it.

    Raises:
        InputError: a field out of its range, or examples that are no images.

    Example:
        >>> from functools import partial
        >>> model, images = WideResNet(10, depth=10, width_factor=1), jnp.zeros((2, 8, 8, 1))
        >>> variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
        >>> jax.eval_shape(partial(model.apply, train=False), variables, images).shape
        (2, 10)
    """

    depth: int = 28
    width_factor: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        if self.depth < 10 or self.depth % 6 != 4:
            raise InputError(
                f"WideResNet depth={self.depth}: must be 6 n + 4, such as 10, 16, 22, 28 or 40"
            )

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Returns the logits; arguments as `ResNet`'s."""
        self.check_images(images)
        x = _convolve(self, images, WIDE_STEM)
        counts = [(self.depth - 4) // 6] * len(WIDE_WIDTHS)
        for block in self.stage_blocks(WideBlock, WIDE_WIDTHS, counts):
            x = block(x, train, mask)
        x = nn.relu(normalize(self, self.norm, x, train, mask, 0))
        return nn.Dense(self.num_classes)(jnp.mean(x, axis=(1, 2)))


def _convolve(
    module: nn.Module, x: jax.Array, channels: int, size: int = 3, stride: int = 1
) -> jax.Array:
    """A convolution of the module's kind, padded as torch does: by the same on every side."""
    pad = (size - 1) // 2
    return Conv(
        channels,
        (size, size),
        padding=((pad, pad), (pad, pad)),
        stride=stride,
        use_bias=False,
        method=module.method,
        kernel_init=kernel_initializer(module.initialization),
    )(x)
