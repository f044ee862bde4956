"""Pass `inputs`: slope and curvature as of single examples, in any batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax.keys import tagged
from memjax.passes import INPUTS
from tests.passes import runs


@pytest.fixture(scope="module")
def context():
    return runs.context("mlp")


def test_both_are_what_gradient_and_hessian_of_one_example_give(context):
    step, member = context.run.steps[-1], context.members[-1]
    found = INPUTS.compute(context, step)
    rows = found[(found["member"] == member) & (found["split"] == "train")].reset_index(drop=True)
    params = runs.params_of(context, step, member)

    def loss(image, label):
        logits = context.run.logits_fn(params, image[None])[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    gradient, hessian = jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
    arrays = context.run.train
    for place in (0, 11):
        image, label = jnp.asarray(arrays.images[place]), int(arrays.labels[place])
        slope = float(jnp.linalg.norm(gradient(image, label).ravel()))
        assert rows["input_gradient_norm"][place] == pytest.approx(slope, rel=1e-4)
        size = image.size
        matrix = np.asarray(hessian(image, label), float).reshape(size, size)
        number = int(arrays.source_index[place])
        key = jax.random.fold_in(tagged(context.key, "curvature"), number)
        probes = np.asarray(jax.random.rademacher(key, (10, size), jnp.float32), float)
        expected = np.sqrt(np.mean(np.sum((probes @ matrix) ** 2, axis=1)))
        assert rows["input_curvature"][place] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_an_example_has_the_same_curvature_among_fewer(context):
    step = context.run.steps[-1]
    few = dataclasses.replace(context.options, num_examples=7, microbatch_size=3)
    some = INPUTS.compute(type(context)(context.run, few), step)
    every = INPUTS.compute(context, step)
    both = some.merge(every, on=["member", "split", "index"])
    assert len(both) == len(some)
    assert np.allclose(both["input_curvature_x"], both["input_curvature_y"], rtol=1e-4, atol=1e-6)
