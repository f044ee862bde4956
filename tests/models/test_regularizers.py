import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from memjax.models.regularizers import (
    Regularizers,
    apply_hidden_regularizers,
    apply_input_regularizers,
    dropout,
    gaussian_noise,
)

KEY = jax.random.key(0)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_the_rate(rate):
    x = jnp.full(100_000, 3.0)
    dropped = np.asarray(dropout(KEY, x, rate))
    # Standard errors: sqrt(rate / (1 - rate) / n) of the mean over 3, sqrt(rate (1 - rate) / n).
    assert abs(dropped.mean() / 3 - 1) < 5 * np.sqrt(rate / (1 - rate) / x.size)
    assert abs((dropped == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / x.size)
    np.testing.assert_allclose(dropped[dropped != 0], 3 / (1 - rate), rtol=1e-6)


def test_gaussian_noise_has_the_standard_deviation_and_no_mean():
    noise = np.asarray(gaussian_noise(KEY, jnp.full(100_000, 2.0), 0.3)) - 2
    assert abs(noise.mean()) < 5 * 0.3 / np.sqrt(noise.size)
    assert abs(noise.std() / 0.3 - 1) < 5 / np.sqrt(2 * noise.size)


@pytest.mark.parametrize("regularizer", [dropout, gaussian_noise])
def test_strength_zero_is_the_identity_and_needs_no_key(regularizer):
    x = jnp.ones((3, 4))
    assert regularizer(None, x, 0.0) is x
    assert regularizer(None, x, 0) is x
    with pytest.raises(ValueError, match="key"):
        regularizer(None, x, 0.5)


@pytest.mark.parametrize("regularizer", [dropout, gaussian_noise])
def test_traced_strength_equals_the_float_with_the_same_key(regularizer):
    x = jax.random.normal(jax.random.key(1), (50, 4))
    strengths = [0.0, 0.25, 0.7]
    swept = jax.vmap(lambda strength: regularizer(KEY, x, strength))(jnp.array(strengths))
    for strength, of_sweep in zip(strengths, swept, strict=True):
        np.testing.assert_allclose(of_sweep, regularizer(KEY, x, strength), rtol=1e-6)
        assert of_sweep.dtype == x.dtype


def test_larger_dropout_rate_drops_a_superset():
    x = jnp.ones(1000)
    few, many = dropout(KEY, x, 0.2) == 0, dropout(KEY, x, 0.6) == 0
    assert bool(jnp.all(many | ~few))
    assert int(many.sum()) > int(few.sum())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_type_stays(dtype):
    x = jnp.ones(8, dtype)
    strengths = Regularizers(input_dropout=0.5, input_noise=jnp.float32(0.1))
    assert apply_input_regularizers(KEY, x, strengths).dtype == dtype


def test_input_regularizers_are_dropout_then_noise_with_independent_keys():
    images = jnp.ones((64, 4, 4, 1))
    both = Regularizers(dropout=0.9, hidden_noise=9.0, input_dropout=0.5, input_noise=0.01)
    outputs = np.asarray(apply_input_regularizers(KEY, images, both))
    near_zero, near_two = np.abs(outputs) < 0.1, np.abs(outputs - 2) < 0.1
    assert np.all(near_zero | near_two)
    assert np.all(outputs != 0)
    alone = apply_input_regularizers(KEY, images, Regularizers(input_dropout=0.5))
    np.testing.assert_array_equal(np.asarray(alone) == 0, near_zero)


class _Hidden(nn.Module):
    regularizers: Regularizers

    def __call__(self, x, train):
        return apply_hidden_regularizers(self, x, self.regularizers, train)


def test_hidden_regularizers_act_in_training_only_and_ask_only_for_the_rngs_they_need():
    x = jnp.ones((8, 8))
    rngs = {"dropout": KEY, "noise": jax.random.key(1)}

    def apply(regularizers, train, *names):
        return _Hidden(regularizers).apply({}, x, train, rngs={name: rngs[name] for name in names})

    assert apply(Regularizers(dropout=0.5, hidden_noise=0.1), False) is x
    assert apply(Regularizers(input_dropout=0.5, input_noise=1.0), True) is x
    dropped = apply(Regularizers(dropout=0.5), True, "dropout")
    assert set(np.unique(dropped)) == {0.0, 2.0}
    noisy = apply(Regularizers(hidden_noise=0.1), True, "noise")
    assert 0.05 < float(jnp.std(noisy)) < 0.2
    both = apply(Regularizers(dropout=0.5, hidden_noise=0.1), True, "dropout", "noise")
    np.testing.assert_allclose(both, dropped + noisy - x, rtol=1e-5, atol=1e-6)


def test_a_model_built_inside_a_traced_function_sweeps_its_strengths():
    x = jnp.ones((100, 100))

    @functools.partial(jax.vmap, in_axes=0)
    def share_dropped(rate):
        module = _Hidden(Regularizers(dropout=rate))
        return jnp.mean(module.apply({}, x, True, rngs={"dropout": KEY}) == 0)

    rates = jnp.array([0.0, 0.3, 0.8])
    np.testing.assert_allclose(share_dropped(rates), rates, atol=0.03)


def test_only_the_number_zero_is_surely_off():
    assert not Regularizers(input_dropout=0.5, input_noise=1.0).uses_hidden()
    assert Regularizers(hidden_noise=0.1).uses_hidden()
    assert Regularizers(dropout=jnp.float32(0)).uses_hidden()
