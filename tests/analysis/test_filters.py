"""First-layer filters of known networks, and their numbers on known pictures."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from memjax.analysis.filters import (
    FilterQuality,
    filter_quality,
    first_layer_filters,
    rank_against_initial,
)
from memjax.errors import InputError


class _ConvNet(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = nn.BatchNorm(use_running_average=True)(nn.Conv(6, (3, 5))(images))
        hidden = nn.Conv(4, (3, 3))(hidden)
        return nn.Dense(10)(hidden.reshape(images.shape[0], -1))


class _Mlp(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = images.reshape(images.shape[0], -1)
        for _ in range(11):
            hidden = nn.Dense(12)(hidden)
        return nn.Dense(10)(hidden)


def _numbered(network, images):
    """The network's variables, each leaf counting its own entries."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    return jax.tree.map(lambda x: np.arange(x.size, dtype=x.dtype).reshape(x.shape), shapes)


def test_equinox_has_its_outputs_first():
    kernel = jnp.arange(6 * 3 * 3 * 3.0).reshape(6, 3, 3, 3)  # [filters channels height width]
    filters = first_layer_filters({"conv": {"weight": kernel}}, (8, 8, 3))
    np.testing.assert_array_equal(filters, jnp.moveaxis(kernel, 1, -1))
    dense = jnp.arange(64.0 * 64).reshape(64, 64)  # [units pixels]
    filters = first_layer_filters({"first": {"weight": dense}}, (8, 8))
    np.testing.assert_array_equal(filters[5].ravel(), dense[5])


def test_conv_filters_are_the_kernel_of_each_output_channel():
    images = jnp.ones((1, 8, 8, 3))
    variables = _numbered(_ConvNet(), images)
    filters = first_layer_filters(variables, (8, 8, 3))
    kernel = variables["params"]["Conv_0"]["kernel"]
    assert filters.shape == (6, 3, 5, 3)
    for i in range(6):
        np.testing.assert_array_equal(filters[i], kernel[..., i])


def test_dense_filters_are_the_gradient_of_each_unit_by_the_image():
    variables = _numbered(_Mlp(), jnp.ones((1, 2, 3, 2)))
    filters = first_layer_filters(variables, (2, 3, 2))

    def units(image):
        return image.reshape(1, -1) @ variables["params"]["Dense_0"]["kernel"]

    expected = jax.jacobian(lambda image: units(image)[0])(jnp.ones((2, 3, 2)))
    # Dense_0 to Dense_11 all have 12 inputs: the first by number is taken, not by the alphabet.
    np.testing.assert_array_equal(filters, expected)


def test_grey_images_need_no_channel():
    filters = first_layer_filters([(jnp.ones((12, 5)), jnp.ones(5))], (3, 4))
    assert filters.shape == (5, 3, 4, 1)


def test_a_convolution_goes_before_a_dense_layer_that_fits_by_chance():
    params = {"Conv_0": jnp.ones((5, 5, 1, 16)), "Dense_0": jnp.ones((784, 10))}
    assert first_layer_filters(params, (28, 28)).shape == (16, 5, 5, 1)
    assert first_layer_filters(params, (28, 28), layer="Dense_0").shape == (10, 28, 28, 1)


@pytest.mark.parametrize(
    ("params", "image_shape", "layer", "message"),
    [
        ({"Dense_0": jnp.ones((5, 4))}, (28, 28), None, "no first-layer kernel.*Dense_0"),
        ({"a": jnp.ones((4, 4)), "b": jnp.ones((4, 2))}, (2, 2), None, "choose one with layer="),
        ({"a": jnp.ones((4, 4)), "b": jnp.ones((3, 2))}, (2, 2), "b", "layer: 'b'"),
        ({"a": jnp.ones((4, 4))}, (4,), None, "image_shape"),
    ],
)
def test_no_clear_first_layer_is_refused(params, image_shape, layer, message):
    with pytest.raises(InputError, match=message):
        first_layer_filters(params, image_shape, layer=layer)


def test_white_noise_has_the_values_it_must():
    quality = filter_quality(jax.random.normal(jax.random.key(0), (2000, 5, 5, 3)))
    np.testing.assert_allclose(quality.roughness.mean(), 2 / np.sqrt(np.pi), rtol=0.02)
    # 5 of the 25 frequencies lie within .25: 0, and .2 up, down, left and right.
    np.testing.assert_allclose(quality.low_frequency_share.mean(), 5 / 25, rtol=0.02)
    np.testing.assert_allclose(quality.kurtosis.mean(), 0, atol=0.1)
    assert 0.85 < quality.spectral_entropy.mean() < 0.98


def test_known_pictures_have_their_closed_forms():
    grating = jnp.tile(jnp.array([1.0, -1.0]), 4)[:, None] * jnp.ones((1, 8))
    pixel = jnp.zeros((8, 8)).at[3, 4].set(-2.0)
    constant = jnp.full((8, 8), 0.1)
    quality = filter_quality(jnp.stack([grating, pixel, constant])[..., None])
    # Grating: half of the pairs differ by 2. Pixel: 4 of 112 pairs by 2, root mean square 1/4.
    np.testing.assert_allclose(quality.roughness, [1, 4 / 112 * 8, 0], rtol=1e-5, atol=1e-6)
    num_low = (np.hypot(*np.meshgrid(np.fft.fftfreq(8), np.fft.fftfreq(8))) <= 0.25).sum()
    np.testing.assert_allclose(quality.low_frequency_share, [0, num_low / 64, 1], atol=1e-5)
    np.testing.assert_allclose(quality.spectral_entropy, [0, 1, 0], atol=1e-5)
    share = 1 / 64
    pixel_kurtosis = (1 - 3 * share + 3 * share**2) / (share * (1 - share)) - 3
    np.testing.assert_allclose(quality.kurtosis[:2], [-2, pixel_kurtosis], rtol=1e-4)
    assert jnp.isnan(quality.kurtosis[2])


@given(st.floats(1e-20, 1e20), st.sampled_from([-1, 1]), st.integers(0, 2**31 - 1))
def test_quality_ignores_scale_and_sign(scale, sign, seed):
    filters = jax.random.normal(jax.random.key(seed), (3, 5, 5, 2))
    for value, scaled in zip(
        filter_quality(filters), filter_quality(filters * sign * scale), strict=True
    ):
        np.testing.assert_allclose(scaled, value, rtol=1e-3, atol=1e-4)


def test_a_dead_filter_is_nan_and_harms_no_other():
    filters = jax.random.normal(jax.random.key(0), (2, 5, 5, 1)).at[0].set(0)
    for value in filter_quality(filters):
        np.testing.assert_array_equal(jnp.isnan(value), [True, False])


@pytest.mark.parametrize("shape", [(5, 5, 3), (4, 1, 1, 3)])
def test_quality_of_other_shapes_is_refused(shape):
    with pytest.raises(InputError, match="filters"):
        filter_quality(jnp.ones(shape))


def test_rank_tells_smooth_filters_from_noise():
    noise = jax.random.normal(jax.random.key(1), (200, 7, 7, 1))
    other_noise = jax.random.normal(jax.random.key(2), (200, 7, 7, 1))
    smooth = noise.cumsum(1).cumsum(2)
    initial = filter_quality(other_noise)
    rank = rank_against_initial(filter_quality(smooth), initial)
    assert rank.roughness.max() < 0.05
    assert rank.low_frequency_share.mean() > 0.9
    assert rank.spectral_entropy.mean() < 0.1
    for value in rank_against_initial(filter_quality(noise), initial):
        assert abs(value.mean() - 0.5) < 0.1


def test_rank_counts_ties_half_and_keeps_nan():
    quality = FilterQuality(*4 * [jnp.array([1.0, 2.5, jnp.nan])])
    initial = FilterQuality(*3 * [jnp.array([2.0, 1.0, 1.0, 3.0])], jnp.array([1.0, jnp.nan]))
    rank = rank_against_initial(quality, initial)
    np.testing.assert_array_equal(rank.roughness, [0.25, 0.75, jnp.nan])
    assert jnp.isnan(rank.kurtosis).all()
