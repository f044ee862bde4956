"""Regularisers of the paper's figure 10: dropout and Gaussian noise, on inputs and hidden units.

Strengths may be Python floats or traced scalars, so that one compiled step can be vmapped over a
sweep of strengths. A strength that is the Python number 0 costs nothing: no operation, no key.
Weight decay is the optimiser's, and belongs there.
"""

import flax.struct
import jax
import jax.numpy as jnp

from memjax.keys import tagged


@flax.struct.dataclass
class Regularizers:
    """Strengths of the regularisers that act on activations; all off by default.

    Args:
        dropout: share of every hidden layer's units set to zero, in [0, 1).
        input_dropout: share of the input values set to zero, in [0, 1).
        input_noise: standard deviation of the Gaussian noise added to the standardised input.
        hidden_noise: standard deviation of the Gaussian noise added to every hidden activation.

    Example:
        >>> Regularizers(dropout=0.5).uses_hidden()
        True
    """

    dropout: float | jax.Array = 0.0
    input_dropout: float | jax.Array = 0.0
    input_noise: float | jax.Array = 0.0
    hidden_noise: float | jax.Array = 0.0

    def uses_hidden(self) -> bool:
        """Whether the model itself has something to do: hidden dropout or noise not surely 0."""
        return not (is_off(self.dropout) and is_off(self.hidden_noise))


def is_off(strength) -> bool:
    """Returns whether a strength is the Python number 0: a traced 0 keeps its operations."""
    return isinstance(strength, int | float) and strength == 0


def dropout(key: jax.Array | None, x: jax.Array, rate: float | jax.Array) -> jax.Array:
    """Sets a random share of `x` to zero and scales the rest, so that the mean stays.

    Args:
        key: typed key; unused where `rate` is the Python number 0.
        x: any shape, floating point.
        rate: share set to zero, in [0, 1); a Python float or a traced scalar.

    Returns:
        An array like `x`.

    Example:
        >>> x = jnp.ones((2, 3))
        >>> dropout(None, x, 0.0) is x
        True
        >>> bool(jnp.all(jnp.isin(dropout(jax.random.key(0), x, 0.5), jnp.array([0.0, 2.0]))))
        True
    """
    if is_off(rate):
        return x
    keep = 1 - jnp.asarray(rate, x.dtype)
    # uniform < keep rather than jax.random.bernoulli: the same draw for a float and a traced rate,
    # and for the same key a larger rate drops a superset.
    is_kept = jax.random.uniform(_required(key, "dropout"), x.shape, x.dtype) < keep
    return jnp.where(is_kept, x / keep, jnp.zeros((), x.dtype))


def gaussian_noise(key: jax.Array | None, x: jax.Array, std: float | jax.Array) -> jax.Array:
    """Adds independent Gaussian noise to every value.

    Args:
        key: typed key; unused where `std` is the Python number 0.
        x: any shape, floating point.
        std: standard deviation, in the units of `x`; a Python float or a traced scalar.

    Returns:
        An array like `x`.

    Example:
        >>> gaussian_noise(jax.random.key(0), jnp.zeros(3), 0.1).shape
        (3,)
    """
    if is_off(std):
        return x
    noise = jax.random.normal(_required(key, "gaussian_noise"), x.shape, x.dtype)
    return x + jnp.asarray(std, x.dtype) * noise


def apply_input_regularizers(
    key: jax.Array | None, images: jax.Array, regularizers: Regularizers
) -> jax.Array:
    """Input dropout, then input noise, on a training batch; the train step calls it.

    Args:
        key: typed key of this step; unused where both strengths are the Python number 0.
        images: [n ...], standardised, so that a dropped value becomes the data's mean.
        regularizers: the strengths; only `input_dropout` and `input_noise` matter here.

    Returns:
        Images like `images`.

    Example:
        >>> images = jnp.zeros((2, 4, 4, 1))
        >>> apply_input_regularizers(None, images, Regularizers(dropout=0.5)) is images
        True
    """
    dropout_key = noise_key = None
    if key is not None:
        dropout_key, noise_key = tagged(key, "input dropout"), tagged(key, "input noise")
    images = dropout(dropout_key, images, regularizers.input_dropout)
    return gaussian_noise(noise_key, images, regularizers.input_noise)


def apply_hidden_regularizers(
    module, activations: jax.Array, regularizers: Regularizers, train: bool
) -> jax.Array:
    """Hidden dropout, then hidden noise, inside a flax module's `__call__`.

    Args:
        module: the flax linen module, for its rngs 'dropout' and 'noise', each asked for only
            where its strength is not the Python number 0.
        activations: [n ...], after the nonlinearity.
        regularizers: the strengths; only `dropout` and `hidden_noise` matter here.
        train: False gives `activations` back.

    Returns:
        Activations like `activations`.
    """
    if not train:
        return activations
    if not is_off(regularizers.dropout):
        activations = dropout(module.make_rng("dropout"), activations, regularizers.dropout)
    if not is_off(regularizers.hidden_noise):
        key = module.make_rng("noise")
        activations = gaussian_noise(key, activations, regularizers.hidden_noise)
    return activations


def _required(key: jax.Array | None, what: str) -> jax.Array:
    if key is None:
        raise ValueError(f"{what} needs a key where its strength is not the number 0")
    return key
