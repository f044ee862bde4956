"""The paper's small AlexNet-style network for CIFAR-10."""

from functools import partial

import jax
from flax import linen as nn

from memjax.errors import InputError
from memjax.models.convolution import METHODS, Conv
from memjax.models.mlp import kernel_initializer
from memjax.models.normalization import PooledBatchNorm, batch_norm
from memjax.models.pooling import max_pool
from memjax.models.regularizers import Regularizers, apply_hidden_regularizers


class AlexNet(nn.Module):
    """Crop, twice (Conv 200 5x5, BN, ReLU, MaxPool 3), twice (Dense, BN, ReLU), Dense.

    The dense layers have 384, 192 and `num_classes` units. Layers followed by BatchNorm have no
    bias: BatchNorm would take it off again. Pooling comes before the ReLU: the values and gradients
    are those of the other order, at a ninth of the work. Smaller images fit with smaller fields:
    `crop=0, pool=2` for 8x8 digits.

    Attributes:
        num_classes: width of the output.
        width_factor: scales the width of every hidden layer.
        crop: pixels taken off every side of the images; the paper's 2 makes 32x32 to 28x28.
        pool: window and stride of the poolings, 3 in the paper.
        initialization: of the kernels, see `MLP` [not in the paper].
        method: of the convolutions, see `convolution`; it changes speed, not the parameters.
        regularizers: hidden dropout and noise, applied after every hidden activation (in a
            convolution block after its pooling).

    Raises:
        InputError: a field out of its range, or images too small for two poolings.

    Example:
        >>> import jax.numpy as jnp
        >>> from functools import partial
        >>> model = AlexNet(num_classes=10, width_factor=0.05, crop=0, pool=2)
        >>> images = jnp.zeros((2, 8, 8, 1))
        >>> variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
        >>> jax.eval_shape(partial(model.apply, train=False), variables, images).shape
        (2, 10)
    """

    num_classes: int
    width_factor: float = 1.0
    crop: int = 2
    pool: int = 3
    initialization: str = "lecun_normal"
    method: str = "auto"
    regularizers: Regularizers = Regularizers()

    def __post_init__(self):
        super().__post_init__()
        if not self.width_factor > 0:
            raise InputError(f"AlexNet width_factor={self.width_factor}: must be positive")
        if self.crop < 0:
            raise InputError(f"AlexNet crop={self.crop}: must be at least 0")
        if self.pool < 1:
            raise InputError(f"AlexNet pool={self.pool}: must be at least 1")
        if self.method not in METHODS:
            raise InputError(f"AlexNet method={self.method!r}: must be one of {', '.join(METHODS)}")
        kernel_initializer(self.initialization)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Returns the logits.

        Args:
            images: [n height width channels], standardised.
            train: True normalises by the batch (collection 'batch_stats' is to be mutable) and
                switches the regularisers on (rngs 'dropout' and 'noise'); False normalises by the
                running statistics, which get no gradient.
            mask: bool [n], False for padding, which the statistics of the batch leave out.

        Returns:
            [n num_classes].
        """
        self._check_size(images)
        kernel_init = kernel_initializer(self.initialization)

        def hidden(activations: jax.Array) -> jax.Array:
            return apply_hidden_regularizers(self, nn.relu(activations), self.regularizers, train)

        def width(units: int) -> int:
            return max(1, round(units * self.width_factor))

        crop = slice(self.crop, -self.crop or None)
        activations = images[:, crop, crop]
        for layer, channels in enumerate((200, 200)):
            activations = Conv(
                width(channels),
                (5, 5),
                use_bias=False,
                method=self.method,
                kernel_init=kernel_init,
                name=f"Conv_{layer}",
            )(activations)
            name = f"BatchNorm_{layer}"
            if train:
                pool = partial(max_pool, window=self.pool)
                activations = PooledBatchNorm(name=name)(activations, pool, mask)
            else:
                activations = batch_norm(self, activations, train, mask, name)
                if self.method == "lax":  # one operation, which analyses know
                    window = self.pool, self.pool
                    activations = nn.max_pool(activations, window, strides=window)
                else:  # quick to differentiate
                    activations = max_pool(activations, self.pool)
            activations = hidden(activations)
        activations = activations.reshape(activations.shape[0], -1)
        for layer, units in enumerate((384, 192), start=2):
            dense = nn.Dense(width(units), use_bias=False, kernel_init=kernel_init)
            activations = dense(activations)
            activations = hidden(batch_norm(self, activations, train, mask, f"BatchNorm_{layer}"))
        return nn.Dense(self.num_classes, kernel_init=kernel_init)(activations)

    def _check_size(self, images: jax.Array) -> None:
        if images.ndim != 4:
            raise InputError(
                f"AlexNet: needs images [n height width channels], not {list(images.shape[1:])}; "
                "features train an mlp"
            )
        if min(images.shape[1:3]) - 2 * self.crop < self.pool**2:
            raise InputError(
                f"AlexNet: images of shape {images.shape[1:]} are too small: with crop={self.crop}"
                f" and pool={self.pool}, height and width must be at least"
                f" {self.pool**2 + 2 * self.crop}"
            )
