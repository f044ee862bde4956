"""Products and projections of per-example gradients, against gradients that are formed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from memjax.analysis.gradients import per_example_gradients
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.microbatch import over_devices
from memjax.analysis.products import gradient_products, projected_gradients
from memjax.errors import InputError

KEY = jax.random.key(3)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(scale=0.5, size=shape), jnp.float32)


def logits_fn(params, images):
    numbers = ("NHWC", "HWIO", "NHWC")
    hidden = jax.lax.conv_general_dilated(
        images, params["kernel"], (1, 1), "VALID", dimension_numbers=numbers
    )
    hidden = jnp.tanh(hidden + params["bias"]).reshape(len(images), -1)
    return jnp.tanh(hidden @ params["dense"]) @ params["last"]


PARAMS = {
    "kernel": normal(1, 2, 2, 1, 3),
    "bias": normal(2, 1, 1, 1, 3),
    "dense": normal(3, 27, 6),
    "last": normal(4, 6, 3),
}
IMAGES, LABELS = normal(5, 7, 4, 4, 1), np.arange(7) % 3


@pytest.fixture(scope="module")
def gradients():
    """[7 n_params]"""

    def loss_fn(params, image, label):
        return softmax_cross_entropy(logits_fn(params, image[None])[0], label)

    leaves = jax.tree.leaves(per_example_gradients(loss_fn, PARAMS, IMAGES, LABELS))
    return np.concatenate([np.float64(leaf).reshape(7, -1) for leaf in leaves], axis=1)


@pytest.mark.parametrize("block_size", [None, 2])
def test_products_are_those_of_the_gradients(gradients, block_size):
    products = gradient_products(
        logits_fn, PARAMS, IMAGES, LABELS, IMAGES[4:], LABELS[4:], block_size
    )
    assert products.dtype == jnp.float32
    np.testing.assert_allclose(products, gradients @ gradients[4:].T, rtol=1e-4, atol=1e-5)


def test_a_step_along_one_gradient_lowers_another_loss_by_their_product():
    """TracIn's first-order claim, by finite differences in float64."""
    with jax.enable_x64(True):
        params, images = jax.tree.map(np.float64, (PARAMS, IMAGES))

        def losses(params):
            return jax.vmap(softmax_cross_entropy)(logits_fn(params, images), LABELS)

        gradient = jax.grad(lambda params: losses(params)[0])(params)
        step = 1e-6
        moved = [
            losses(jax.tree.map(lambda p, g, sign=sign: p - sign * step * g, params, gradient))
            for sign in (1, -1)
        ]
        expected = (moved[1] - moved[0]) / (2 * step)
        products = gradient_products(logits_fn, params, images[:1], LABELS[:1], images, LABELS)
        np.testing.assert_allclose(products[0], expected, rtol=1e-7)


def test_products_of_memorized_examples_do_not_underflow():
    def linear(params, images):
        return images + params

    images = jnp.array([[0.0, 40.0], [0.0, 45.0]])
    params, labels = jnp.zeros((1, 2)), np.array([1, 1])
    products = gradient_products(linear, params, images[:1], labels[:1], images, labels)
    np.testing.assert_allclose(products, 2 * np.exp([[-80.0, -85.0]]), rtol=1e-5)


def test_images_of_another_shape_are_refused():
    with pytest.raises(InputError, match="images_b"):
        gradient_products(
            lambda p, x: x.reshape(len(x), -1)[:, :16] @ p,
            normal(1, 16, 3),
            *(IMAGES, LABELS, IMAGES[:, :, :, [0, 0]], LABELS),
        )


@pytest.mark.parametrize("microbatch_size", [None, 3])
def test_projections_depend_on_key_and_shapes_alone(microbatch_size):
    """The projection is one matrix of signs, whichever examples, batches or checkpoint."""
    dimension = 5
    project = functools.partial(projected_gradients, KEY, logits_fn)
    found = project(PARAMS, IMAGES, LABELS, dimension, microbatch_size)
    assert found.shape == (7, dimension)
    np.testing.assert_allclose(
        found[2:4], project(PARAMS, IMAGES[2:4], LABELS[2:4], dimension), rtol=1e-4, atol=1e-5
    )
    other = projected_gradients(jax.random.key(4), logits_fn, PARAMS, IMAGES, LABELS, dimension)
    assert np.abs(found - other).max() > 0.01


def test_products_of_projections_are_those_of_gradients_on_average(gradients):
    dimension = 4096
    found = np.float64(projected_gradients(KEY, logits_fn, PARAMS, IMAGES, LABELS, dimension))
    lengths = np.linalg.norm(gradients, axis=1)
    error = (found @ found.T - gradients @ gradients.T) / np.outer(lengths, lengths)
    assert np.abs(error).max() < 5 * np.sqrt(2 / dimension)


def test_signs_drawn_in_blocks_are_signs_of_every_parameter():
    """Of a gradient of one entry, the projection is that entry times signs / sqrt(dimension)."""

    def linear(params, images):
        return images @ params

    images, params = np.eye(5, dtype=np.float32), jnp.zeros((5, 2))
    found = projected_gradients(KEY, linear, params, images, np.zeros(5, int), 400)
    # The gradient of example i is -1/2 and 1/2 in row i: the two signs add up to 0 or to +-1.
    scaled = np.asarray(found) * np.sqrt(400)
    np.testing.assert_allclose(np.unique(scaled.round(5)), [-1, 0, 1])
    np.testing.assert_allclose(np.mean(scaled == 0, axis=1), 0.5, atol=0.15)
    correlations = np.corrcoef(scaled) - np.eye(5)
    assert np.abs(correlations).max() < 0.25


def test_projections_over_four_devices_equal_one_device():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    labels = jnp.asarray(LABELS)

    def project(params, images, labels):
        return projected_gradients(KEY, logits_fn, params, images, labels, 3)

    expected = project(PARAMS, IMAGES, labels)
    found = over_devices(project, mesh)(PARAMS, IMAGES, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
