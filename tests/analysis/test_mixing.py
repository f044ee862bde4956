"""Models that let one example change the logits of another, and some that only seem to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from memjax.analysis._mixing import check_examples_independent
from memjax.analysis.gradients import gradient_norms
from memjax.analysis.losses import softmax_cross_entropy
from memjax.errors import InputError

PARAMS = jnp.asarray(np.random.default_rng(1).normal(size=(6, 3)), jnp.float32)
IMAGES = jnp.asarray(np.random.default_rng(2).uniform(size=(4, 6)), jnp.float32)
LABELS = np.array([0, 1, 2, 0])


def batch_norm_over_a_mapped_axis(params, images):
    def one(image):
        hidden = image @ params
        return hidden - lax.pmean(hidden, "batch")

    return jax.vmap(one, axis_name="batch")(images)


def running_total(params, images):
    def step(i, total):
        return total + images[i]

    total = lax.while_loop(
        lambda c: c[0] < len(images), lambda c: (c[0] + 1, step(*c)), (0, jnp.zeros(6))
    )[1]
    return (images - total[None] / len(images)) @ params


def share_of_the_batch(params, images):
    mean = jax.ops.segment_sum(images, jnp.zeros(len(images), int), 1) / len(images)
    return (images - mean) @ params


def noise_by_place(params, images):
    noise = jax.random.normal(jax.random.key(0), images.shape)
    return (images + noise) @ params


MIXING = {
    "a collective over a vmapped axis": batch_norm_over_a_mapped_axis,
    "a while loop": running_total,
    "a scatter": share_of_the_batch,
    "a Fourier transform": lambda p, x: jnp.abs(jnp.fft.fft(x, axis=0)) @ p,
    "an associative scan": lambda p, x: lax.associative_scan(jnp.add, x) @ p,
    "the first image": lambda p, x: (x - x[:1]) @ p,
    "the image before": lambda p, x: (x + 0.01 * jnp.roll(x, 1, axis=0)) @ p,
    "the size of the batch": lambda p, x: x @ p / len(x),
    "the place in the batch": noise_by_place,
    "the largest of all pixels": lambda p, x: x / x.max() @ p,
}


@pytest.mark.parametrize("logits_fn", MIXING.values(), ids=MIXING)
def test_mixing_is_seen_whatever_does_it(logits_fn):
    with pytest.raises(InputError, match="mixes the examples of a batch"):
        gradient_norms(logits_fn, PARAMS, IMAGES, LABELS)


def test_mixing_is_seen_while_params_and_images_are_traced():
    with pytest.raises(InputError, match="mixes the examples of a batch"):
        jax.jit(lambda p, x: gradient_norms(lambda p, x: (x - x[:1]) @ p, p, x, LABELS))(
            PARAMS, IMAGES
        )


def test_mixing_that_a_parameter_of_zero_still_hides_is_seen():
    def logits_fn(params, images):
        return images @ params["kernel"] + images.mean(0, keepdims=True) @ params["low_rank"]

    params = {"kernel": PARAMS, "low_rank": jnp.zeros((6, 3))}
    with pytest.raises(InputError, match=r"mixes the examples of a batch \(reduce_sum"):
        gradient_norms(logits_fn, params, IMAGES, LABELS)


def test_mixing_of_token_sequences_is_seen():
    def logits_fn(params, tokens):
        hidden = params[tokens].mean(1)
        return hidden - hidden.mean(0, keepdims=True)

    tokens = np.random.default_rng(0).integers(0, 6, (4, 5))
    with pytest.raises(InputError, match="mixes the examples of a batch"):
        gradient_norms(logits_fn, PARAMS, tokens, LABELS)


def test_where_all_logits_are_nan_the_jaxpr_decides():
    check_examples_independent(lambda p, x: x @ p, jnp.full((6, 3), jnp.nan), IMAGES)
    with pytest.raises(InputError, match="reduce_sum over the example axis"):
        check_examples_independent(
            lambda p, x: (x - x.mean(0, keepdims=True)) @ p, jnp.full((6, 3), jnp.nan), IMAGES
        )


def kernels_of_their_own(params, images):
    """Each image makes the kernel that it is convolved with: vmap makes them groups of features."""

    def one(image):
        weights = jax.nn.softmax(image.mean((0, 1)) @ params["router"])
        kernel = jnp.tensordot(weights, params["kernels"], 1)
        numbers = ("NHWC", "HWIO", "NHWC")
        convolved = lax.conv_general_dilated(
            image[None], kernel, (1, 1), "SAME", dimension_numbers=numbers
        )
        return jnp.tanh(convolved[0]).mean((0, 1))

    return jax.vmap(one)(images)


@pytest.mark.parametrize("method", ["auto", "vmap"])
def test_kernels_that_each_example_makes_are_no_mixing(method):
    rng = np.random.default_rng(3)
    params = {
        "kernels": jnp.asarray(rng.normal(size=(3, 2, 2, 2, 4)), jnp.float32),
        "router": jnp.asarray(rng.normal(size=(2, 3)), jnp.float32),
    }
    images = jnp.asarray(rng.uniform(size=(3, 5, 5, 2)), jnp.float32)
    labels = np.array([0, 3, 1])
    norms = gradient_norms(kernels_of_their_own, params, images, labels, method=method)
    gradient = jax.jit(
        jax.grad(lambda p, x, y: softmax_cross_entropy(kernels_of_their_own(p, x[None])[0], y))
    )
    for norm, image, label in zip(norms, images, labels, strict=True):
        leaves = jax.tree.leaves(gradient(params, image, label))
        expected = np.sqrt(sum(np.sum(np.square(np.float64(leaf))) for leaf in leaves))
        np.testing.assert_allclose(norm, expected, rtol=1e-5)


def test_half_precision_and_a_sort_of_experts_are_no_mixing():
    def logits_fn(params, images):
        gates = jax.nn.softmax((images @ params["gate"]).astype(jnp.bfloat16))
        best = jax.lax.top_k(gates, 1)[1][:, 0]
        chosen = params["experts"][best]
        return jnp.einsum("nf,nfc->nc", images.astype(jnp.bfloat16), chosen)

    params = {
        "gate": PARAMS,
        "experts": jnp.stack([PARAMS, 2 * PARAMS, -PARAMS]).astype(jnp.bfloat16),
    }
    check_examples_independent(logits_fn, params, IMAGES)
