"""Multilayer perceptrons of any depth and width."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn

from memjax.errors import InputError
from memjax.models.regularizers import Regularizers, apply_hidden_regularizers

ACTIVATIONS = ("relu", "tanh", "gelu", "silu", "elu", "softplus", "sigmoid")
INITIALIZATIONS = ("lecun_normal", "he_normal", "glorot_uniform")


class MLP(nn.Module):
    """The paper's MLP: hidden layers of equal units with a nonlinearity, then a linear layer.

    Attributes:
        num_classes: width of the output.
        widths: units of each hidden layer; empty makes a linear model. The paper has (4096, 4096).
        activation: one of `ACTIVATIONS`; the paper has 'relu'.
        initialization: of the kernels, one of `INITIALIZATIONS` [not in the paper]; biases start at
            zero.
        regularizers: hidden dropout and noise, applied after every hidden activation.

    Raises:
        InputError: a field out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> from functools import partial
        >>> model, images = MLP(num_classes=10, widths=(16, 16)), jnp.zeros((2, 8, 8, 1))
        >>> variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
        >>> jax.eval_shape(partial(model.apply, train=False), variables, images).shape
        (2, 10)
    """

    num_classes: int
    widths: Sequence[int] = (4096, 4096)
    activation: str = "relu"
    initialization: str = "lecun_normal"
    regularizers: Regularizers = Regularizers()

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.widths, str) or not all(
            isinstance(width, int) and width > 0 for width in self.widths
        ):
            raise InputError(f"MLP widths={self.widths!r}: must be positive whole numbers")
        if self.activation not in ACTIVATIONS:
            raise InputError(
                f"MLP activation={self.activation!r}: must be one of {', '.join(ACTIVATIONS)}"
            )
        kernel_initializer(self.initialization)

    @nn.compact
    def __call__(self, images: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Returns the logits.

        Args:
            images: [n ...], standardised; flattened here.
            train: whether the regularisers act, with the rngs 'dropout' and 'noise'.
            mask: bool [n], False for padding; without effect here, where examples do not mix.

        Returns:
            [n num_classes].
        """
        del mask
        kernel_init = kernel_initializer(self.initialization)
        activations = images.reshape(images.shape[0], -1)
        for width in self.widths:
            activations = nn.Dense(width, kernel_init=kernel_init)(activations)
            activations = getattr(jax.nn, self.activation)(activations)
            activations = apply_hidden_regularizers(self, activations, self.regularizers, train)
        return nn.Dense(self.num_classes, kernel_init=kernel_init)(activations)


def kernel_initializer(name: str) -> Callable[..., Any]:
    """The initialiser of kernels of that name.

    Args:
        name: one of `INITIALIZATIONS`.

    Raises:
        InputError: another name.

    Example:
        >>> kernel_initializer("he_normal")(jax.random.key(0), (3, 2)).shape
        (3, 2)
    """
    if name not in INITIALIZATIONS:
        raise InputError(f"initialization={name!r}: must be one of {', '.join(INITIALIZATIONS)}")
    return getattr(nn.initializers, name)()
