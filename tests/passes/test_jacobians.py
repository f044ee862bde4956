"""Passes `jacobians`, `jacobian_spectrum` and `ntk` against jax.jacrev of single examples."""

import jax
import numpy as np
import pytest

from memjax.passes import JACOBIAN_SPECTRUM, JACOBIANS, NTK
from tests.passes import runs


def input_jacobian(context, params, image):
    jacobian = jax.jacrev(runs.one_logit_fn(context, params))(image)
    return np.asarray(jacobian, float).reshape(len(jacobian), -1)


def parameter_jacobian(context, params, image):
    def logits(trained):
        return context.run.logits_fn({**params, "params": trained}, image[None])[0]

    leaves = jax.tree.leaves(jax.jacrev(logits)(params["params"]))
    return np.concatenate([np.asarray(leaf, float).reshape(len(leaf), -1) for leaf in leaves], 1)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_jacobians_equal_those_of_single_examples(name):
    context = runs.context(name)
    step, member = context.run.steps[-1], context.members[-1]
    params = runs.params_of(context, step, member)
    found = JACOBIANS.compute(context, step)
    rows = found[found["member"] == member].reset_index(drop=True)
    for place, image in ((3, context.run.train.images[3]), (61, context.run.validation.images[1])):
        row, jacobian = rows.iloc[place], input_jacobian(context, params, image)
        assert row["input_jacobian_norm"] == pytest.approx(np.linalg.norm(jacobian), rel=1e-4)
        np.testing.assert_allclose(row["class_norms"], np.linalg.norm(jacobian, axis=1), rtol=1e-4)
        singular = np.linalg.svd(jacobian, compute_uv=False)
        np.testing.assert_allclose(row["singular_values"], singular, atol=1e-4 * singular[0])
        of_params = np.linalg.norm(parameter_jacobian(context, params, image), axis=1)
        np.testing.assert_allclose(row["parameter_jacobian_norms"], of_params, rtol=1e-4)


def test_the_spectrum_is_that_of_the_stacked_input_gradients():
    context = runs.context("one", spectrum_examples=5)
    step = context.run.steps[-1]
    params = runs.params_of(context, step)
    found = JACOBIAN_SPECTRUM.compute(context, step)
    assert set(found["num_examples"]) == {5}
    for split in ("train", "validation"):
        images = getattr(context.run, split).images[:5]
        stack = np.stack([input_jacobian(context, params, image) for image in images])
        rows = found[found["split"] == split].set_index("class")["singular_values"]
        for index in range(10):
            singular = np.linalg.svd(stack[:, index], compute_uv=False)
            np.testing.assert_allclose(rows[index], singular, atol=1e-4 * singular[0])


@pytest.mark.parametrize("name", ["one", "cnn"])
def test_the_kernel_is_the_product_of_parameter_jacobians(name):
    context = runs.context(name, ntk_examples=3)
    step = context.run.steps[-1]
    params = runs.params_of(context, step)
    found = NTK.compute(context, step)
    images = context.run.train.images[:3]
    jacobians = [parameter_jacobian(context, params, image) for image in images]
    indices = context.run.train.source_index[:3].tolist()
    assert found["index_a"].tolist() == np.repeat(indices, 3).tolist()
    assert found["index_b"].tolist() == indices * 3
    for row, (a, b) in enumerate(np.ndindex(3, 3)):
        kernel = jacobians[a] @ jacobians[b].T
        np.testing.assert_allclose(
            found["kernel"][row].reshape(10, 10), kernel, atol=1e-4 * np.abs(kernel).max()
        )
