"""Losses, scores and norms of memorized examples, against 60 decimal digits."""

import decimal
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.analysis.difficulty import aum
from memjax.analysis.gradients import gradient_norms
from memjax.analysis.input_gradients import input_gradient_norms
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.membership import logit_confidence
from memjax.analysis.scores import el2n, entropy, example_scores, margin
from memjax.errors import InputError

MARGINS = [-80.0, -20.0, -3.0, 0.0, 3.0, 15.0, 17.0, 20.0, 45.0, 80.0]


def exact_scores(logits, label):
    """(loss, EL2N, entropy) of float32 logits, in decimal arithmetic."""
    with decimal.localcontext(decimal.Context(prec=60)):
        logits = [Decimal(float(logit)) for logit in logits]
        others = [(z - logits[label]).exp() for c, z in enumerate(logits) if c != label]
        total = 1 + sum(others)
        errors = [other / total for other in others]
        probabilities = [1 / total, *errors]
        return (
            float(total.ln()),
            float((sum(e * e for e in errors) + sum(errors) ** 2).sqrt()),
            float(-sum(p * p.ln() for p in probabilities)),
        )


@pytest.fixture(scope="module")
def logits():
    """[margins classes]; the label is 2."""
    values = np.random.default_rng(0).normal(size=(len(MARGINS), 4)).astype(np.float32)
    values[:, 2] = np.delete(values, 2, axis=1).max(1) + np.float32(MARGINS)
    return values


@pytest.fixture(scope="module")
def expected(logits):
    return np.array([exact_scores(row, 2) for row in logits]).T


def labels_of(logits):
    return np.full(len(logits), 2)


def test_scores_keep_their_relative_precision_up_to_a_margin_of_80(logits, expected):
    scores = example_scores(logits, labels_of(logits))
    for actual, wanted in zip((scores.loss, scores.el2n, scores.entropy), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5)
    others = np.delete(logits, 2, axis=1).max(1)
    margins = np.float64(logits[:, 2]) - others
    np.testing.assert_allclose(scores.margin, margins, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(aum(logits[None], labels_of(logits)), margins, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["ghost", "vmap"])
def test_gradient_norms_keep_their_relative_precision_up_to_a_margin_of_80(
    logits, expected, method
):
    # The images are the logits: the gradient by the offset is softmax - one-hot, that by the kernel
    # its outer product with the image.
    def logits_fn(params, images):
        return images @ params["kernel"] + params["bias"]

    params = {"kernel": jnp.eye(4), "bias": jnp.zeros((1, 4))}
    norms = gradient_norms(
        logits_fn, params, logits, labels_of(logits), method=method, by_leaf=True
    )
    lengths = np.linalg.norm(np.float64(logits), axis=1)
    np.testing.assert_allclose(norms["bias"], expected[1], rtol=1e-5)
    np.testing.assert_allclose(norms["kernel"], lengths * expected[1], rtol=1e-5)
    together = gradient_norms(logits_fn, params, logits, labels_of(logits), method=method)
    np.testing.assert_allclose(together, np.hypot(lengths, 1) * expected[1], rtol=1e-5)
    by_images = input_gradient_norms(logits_fn, params, logits, labels_of(logits))
    np.testing.assert_allclose(by_images, expected[1], rtol=1e-5)


def test_the_gradient_of_the_loss_sums_to_zero_and_has_the_norm_el2n(logits, expected):
    gradients = jax.vmap(jax.grad(softmax_cross_entropy), in_axes=(0, None))(logits, 2)
    norms = np.linalg.norm(np.float64(gradients), axis=1)
    np.testing.assert_allclose(norms, expected[1], rtol=1e-5)
    np.testing.assert_allclose(np.float64(gradients).sum(1), 0, atol=1e-6)


def test_half_precision_logits_give_float32_scores_of_their_own_values():
    logits = jnp.array([[3.0, 0.5, -1.0], [20.0, 1.5, 0.25]], jnp.bfloat16)
    scores = example_scores(logits, jnp.array([1, 0]))
    wide = example_scores(logits.astype(jnp.float32), jnp.array([1, 0]))
    for half, full in zip(scores[:4], wide[:4], strict=True):
        assert half.dtype == jnp.float32
        np.testing.assert_array_equal(half, full)


def test_a_class_that_is_impossible_adds_nothing():
    logits = jnp.array([1.0, -jnp.inf, 0.0])
    loss, gradient = jax.value_and_grad(softmax_cross_entropy)(logits, 0)
    np.testing.assert_allclose(loss, np.log1p(np.exp(-1)), rtol=1e-6)
    share = 1 / (1 + np.e)
    np.testing.assert_allclose(gradient, [-share, 0, share], rtol=1e-6)
    only = jax.value_and_grad(softmax_cross_entropy)(jnp.array([1.0, -jnp.inf]), 0)
    np.testing.assert_array_equal(only[0], 0)
    np.testing.assert_array_equal(only[1], [0, 0])


@pytest.mark.parametrize("label", [-1, 3])
def test_the_loss_of_a_label_that_is_no_class_is_nan_and_its_gradient_too(label):
    loss, gradient = jax.value_and_grad(softmax_cross_entropy)(jnp.arange(3.0), label)
    assert np.isnan(loss)
    assert np.isnan(gradient).all()


def test_a_label_that_is_no_integer_is_refused():
    with pytest.raises(InputError, match="labels: must be one integer"):
        softmax_cross_entropy(jnp.zeros(3), jnp.float32(1))
    with pytest.raises(InputError, match="labels: must be one integer"):
        softmax_cross_entropy(jnp.zeros(3), jnp.array([1]))


@pytest.mark.parametrize("fn", [softmax_cross_entropy, margin, el2n, logit_confidence])
def test_logits_of_many_examples_are_refused_where_those_of_one_are_asked_for(fn):
    with pytest.raises(
        InputError, match=r"logits: must be \[classes\], of one example, not \[3, 3"
    ):
        fn(jnp.eye(3), jnp.int32(0))
    with pytest.raises(InputError, match="of one example"):
        entropy(jnp.eye(3))
