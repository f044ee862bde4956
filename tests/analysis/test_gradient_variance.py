"""Variance of gradients, against a loop over checkpoints, examples and pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.analysis.gradient_variance import (
    label_logit_gradients,
    variance_of_gradients,
    within_classes,
)
from memjax.errors import InputError
from tests.analysis.test_input_gradients import IMAGES, LABELS, PARAMS, logits_fn


def scaled(factor):
    return jax.tree.map(lambda leaf: leaf * factor, PARAMS)


@pytest.mark.parametrize("microbatch_size", [None, 3])
def test_gradients_are_those_of_one_logit_of_one_example(microbatch_size):
    found = label_logit_gradients(logits_fn, PARAMS, IMAGES, LABELS, microbatch_size)
    for gradient, image, label in zip(found, IMAGES, LABELS, strict=True):
        alone = jax.grad(lambda image, label=label: logits_fn(PARAMS, image[None])[0, label])(image)
        np.testing.assert_allclose(gradient, alone, rtol=1e-6)


def test_variance_is_the_spread_of_every_pixel_over_the_checkpoints():
    checkpoints = [scaled(factor) for factor in (0.1, 1.0, 1.5)]
    gradients = [label_logit_gradients(logits_fn, each, IMAGES, LABELS) for each in checkpoints]
    expected = np.std(np.asarray(gradients, np.float64), axis=0).mean(axis=1)
    np.testing.assert_allclose(variance_of_gradients(iter(gradients)), expected, rtol=1e-5)


def test_what_does_not_change_has_none_and_one_checkpoint_is_refused():
    gradients = label_logit_gradients(logits_fn, PARAMS, IMAGES, LABELS)
    assert jnp.all(variance_of_gradients([gradients, gradients]) == 0)
    with pytest.raises(InputError, match="1 checkpoints, at least 2"):
        variance_of_gradients([gradients])


def test_within_a_class_the_mean_is_0_and_the_spread_1():
    rng = np.random.default_rng(0)
    values, classes = rng.normal(5, 2, 60), rng.integers(0, 3, 60)
    found = within_classes(values, classes)
    for each in range(3):
        assert found[classes == each].mean() == pytest.approx(0, abs=1e-12)
        assert found[classes == each].std() == pytest.approx(1)


def test_checkpoints_of_different_examples_are_refused():
    with pytest.raises(InputError, match=r"gradients: \[5, 2\] at checkpoint 1, not \[1, 2\]"):
        variance_of_gradients([jnp.ones((1, 2)), jnp.ones((5, 2))])
