"""Passes `filters` and `sharpness` against the kernel itself and a dense Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from memjax.passes import FILTERS, SHARPNESS
from tests.passes import runs


@pytest.mark.parametrize(("name", "layer"), [("mlp", "Dense_0"), ("cnn", "Conv_0")])
def test_filters_are_the_first_kernel(name, layer):
    context = runs.context(name)
    step, member = context.run.steps[-1], context.members[-1]
    kernel = np.asarray(runs.params_of(context, step, member)["params"][layer]["kernel"])
    pictures = kernel.reshape(-1, kernel.shape[-1]).T
    found = FILTERS.compute(context, step)
    rows = found[found["member"] == member].reset_index(drop=True)
    assert len(rows) == len(pictures)
    for picture, row in zip(pictures, rows.itertuples(), strict=True):
        np.testing.assert_array_equal(row.weights, picture)
        assert row.height * row.width * row.channels == picture.size
    assert rows["roughness_rank"].between(0, 1).all()
    assert FILTERS.compute(context, 0)["roughness_rank"].mean() == pytest.approx(0.5)


@pytest.mark.parametrize("microbatch_size", [0, 7])
def test_sharpness_is_that_of_the_dense_hessian(microbatch_size):
    context = runs.context("one", microbatch_size=microbatch_size, num_examples=20)
    step = context.run.steps[-1]
    flat, unravel = ravel_pytree(runs.params_of(context, step))

    @jax.jit
    @jax.hessian
    def dense_hessian(flat, images, labels):
        logits = context.run.logits_fn(unravel(flat), images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    found = SHARPNESS.compute(context, step).set_index("split")
    for split in ("train", "validation"):
        arrays, row = context.split(split), found.loc[split]
        hessian = np.asarray(dense_hessian(flat, arrays.images, jnp.asarray(arrays.labels)), float)
        eigenvalues = np.linalg.eigvalsh(hessian)
        largest = eigenvalues[np.abs(eigenvalues).argmax()]
        assert row["num_examples"] == 20
        assert row["eigenvalue"] == pytest.approx(largest, rel=2e-3)
        assert np.abs(eigenvalues - row["eigenvalue"]).min() <= 1.1 * row["eigenvalue_residual"]
        assert abs(row["trace"] - np.trace(hessian)) < 4 * row["trace_standard_error"]
        assert row["trace_standard_error"] < 0.5 * np.trace(hessian)
