"""Input-loss gradients and curvature, against closed forms and whole Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.analysis.input_gradients import input_gradient_norms, input_loss_curvature
from memjax.analysis.losses import softmax_cross_entropy
from memjax.errors import InputError

KEY = jax.random.key(0)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(scale=0.5, size=shape), jnp.float32)


def logits_fn(params, images):
    return jnp.tanh(images @ params["first"]) @ params["last"]


PARAMS = {"first": normal(1, 6, 5), "last": normal(2, 5, 3)}
IMAGES, LABELS = normal(3, 4, 6), np.array([0, 2, 1, 0])


def loss(image, label):
    return softmax_cross_entropy(logits_fn(PARAMS, image[None])[0], label)


@pytest.mark.parametrize("microbatch_size", [None, 3])
def test_gradient_norms_equal_a_loop(microbatch_size):
    norms = input_gradient_norms(logits_fn, PARAMS, IMAGES, LABELS, microbatch_size)
    expected = [np.linalg.norm(jax.grad(loss)(*pair)) for pair in zip(IMAGES, LABELS, strict=True)]
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


def test_curvature_estimates_the_frobenius_norm_of_the_hessian():
    found = input_loss_curvature(KEY, logits_fn, PARAMS, IMAGES, LABELS, num_probes=4000)
    expected = [
        np.linalg.norm(jax.hessian(loss)(*pair)) for pair in zip(IMAGES, LABELS, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_curvature_is_exact_where_the_hessian_is_a_multiple_of_the_identity():
    def squared(logits, label):
        return jnp.sum(logits**2) / 2

    found = input_loss_curvature(
        KEY, lambda p, x: p * x, jnp.float32(3), IMAGES, LABELS, 1, example_loss=squared
    )
    np.testing.assert_allclose(found, 9 * np.sqrt(6), rtol=1e-5)


def test_a_small_step_gives_what_the_exact_product_gives():
    with jax.enable_x64(True):
        params, images = jax.tree.map(np.float64, (PARAMS, IMAGES))
        exact, stepped = (
            input_loss_curvature(KEY, logits_fn, params, images, LABELS, 3, step_size)
            for step_size in (None, 1e-5)
        )
        np.testing.assert_allclose(stepped, exact, rtol=1e-4)


def test_a_step_sees_the_kinks_of_a_relu_network():
    def relu(params, images):
        return jnp.concatenate([jax.nn.relu(images) @ params, -images @ params], axis=1)

    def first(logits, label):
        return logits[0]

    images = jnp.full((1, 6), 0.01)
    arguments = (relu, jnp.ones((6, 1)), images, np.array([0]))
    exact = input_loss_curvature(KEY, *arguments, example_loss=first)
    stepped = input_loss_curvature(KEY, *arguments, step_size=0.1, example_loss=first)
    assert exact[0] == 0
    assert stepped[0] > 1


def test_curvature_of_memorized_examples_does_not_underflow():
    # Of two classes: loss'' = p (1 - p), along the difference of the logits.
    margins = np.array([0.0, 20.0, 80.0])
    images = jnp.stack([jnp.zeros(3), jnp.asarray(margins, jnp.float32)], axis=1)
    found = input_loss_curvature(
        KEY, lambda p, x: p * x, jnp.float32(1), images, np.ones(3, int), num_probes=4000
    )
    p = np.exp(-margins) / (1 + np.exp(-margins))
    np.testing.assert_allclose(found, 2 * p * (1 - p), rtol=0.05)


def test_images_of_integers_are_refused():
    for fn in (input_gradient_norms, lambda *arguments: input_loss_curvature(KEY, *arguments)):
        with pytest.raises(InputError, match="images: must be float"):
            fn(logits_fn, PARAMS, np.zeros((2, 6), np.uint8), LABELS[:2])


@pytest.mark.parametrize("step", [0, -0.1, np.nan])
def test_a_step_of_no_size_is_refused(step):
    arguments = (KEY, logits_fn, PARAMS, normal(3, 2, 6), jnp.array([0, 1]))
    with pytest.raises(InputError, match=r"step_size: .* above 0"):
        input_loss_curvature(*arguments, step_size=step)
