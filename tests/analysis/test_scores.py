"""Scores from logits, against numpy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from memjax.analysis.scores import el2n, entropy, example_scores, margin
from memjax.errors import InputError


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 30))
def test_scores_are_those_of_numpy(seed, scale):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=scale, size=(6, 4)).astype(np.float32)
    labels = rng.integers(0, 4, 6)
    scores = example_scores(jnp.asarray(logits), jnp.asarray(labels))
    exact = np.float64(logits)
    probabilities = np.exp(exact - exact.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    rows = np.arange(6)
    others = exact.copy()
    others[rows, labels] = -np.inf
    margins = exact[rows, labels] - others.max(1)
    np.testing.assert_allclose(
        scores.loss, -np.log(probabilities[rows, labels]), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        scores.el2n, np.linalg.norm(probabilities - np.eye(4)[labels], axis=1), atol=1e-5
    )
    np.testing.assert_allclose(scores.margin, margins, rtol=1e-5, atol=1e-5)
    expected = -np.sum(probabilities * np.log(np.maximum(probabilities, 1e-300)), axis=1)
    np.testing.assert_allclose(scores.entropy, expected, atol=1e-4)
    np.testing.assert_array_equal(scores.is_correct, exact.argmax(1) == labels)
    assert all(value.dtype == jnp.float32 for value in scores[:4])


def test_extremes_are_those_of_the_definitions():
    sure = jnp.array([100.0, 0.0, 0.0])
    assert el2n(sure, jnp.int32(0)) == 0
    np.testing.assert_allclose(el2n(sure, jnp.int32(1)), np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(entropy(jnp.zeros(10)), np.log(10), rtol=1e-6)
    assert entropy(jnp.array([0.0, -jnp.inf])) == 0
    assert margin(sure, jnp.int32(2)) == -100


def test_a_margin_is_positive_exactly_where_the_example_is_correct():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(200, 5)), jnp.float32)
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 5, 200))
    scores = example_scores(logits, labels)
    np.testing.assert_array_equal(scores.margin > 0, scores.is_correct)


def test_el2n_is_the_norm_of_the_losss_derivative_by_the_logits():
    logits, labels = jnp.array([[1.0, -2.0, 0.5]]), jnp.array([2])
    scores = example_scores(logits, labels)
    gradient = jax.grad(lambda logits: example_scores(logits, labels).loss.sum())(logits)
    np.testing.assert_allclose(scores.el2n, jnp.linalg.norm(gradient, axis=1), rtol=1e-6)


def test_another_example_loss_is_used():
    def hinge(logits, label):
        return jax.nn.relu(1 - margin(logits, label))

    logits, labels = jnp.array([[2.0, 0.0], [0.5, 0.0]]), jnp.array([0, 0])
    loss = example_scores(logits, labels, example_loss=hinge).loss
    np.testing.assert_array_equal(loss, np.float32([0, 0.5]))


@pytest.mark.parametrize(("logits", "labels"), [((3, 4), (2,)), ((3,), (3,)), ((3, 1), (3,))])
def test_shapes_that_do_not_fit_are_refused(logits, labels):
    with pytest.raises(InputError, match="logits and labels"):
        example_scores(jnp.zeros(logits), jnp.zeros(labels, int))
