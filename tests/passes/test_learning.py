"""Passes `vog` and `prediction_depth`: as the functions give them, member by member."""

import jax.numpy as jnp
import numpy as np
import pytest

from memjax.analysis.gradient_variance import label_logit_gradients
from memjax.analysis.prediction_depth import layer_embeddings
from memjax.errors import InputError
from memjax.passes import PREDICTION_DEPTH, VOG
from memjax.passes.base import Context
from tests.passes import runs


def test_variance_is_over_all_checkpoints_and_standardised_within_classes():
    context, member = runs.context("mlp"), 2
    found = VOG.compute(context, f"{member:04d}")
    assert set(found["member"]) == {member}
    arrays = context.run.train
    gradients = [
        label_logit_gradients(
            context.run.logits_fn, runs.params_of(context, step, member), arrays.images,
            arrays.labels,
        )
        for step in context.steps
    ]  # fmt: skip
    expected = np.std(np.asarray(gradients, np.float64), axis=0).reshape(60, -1).mean(axis=1)
    rows = found[found["split"] == "train"]
    np.testing.assert_allclose(rows["variance_of_gradients"], expected, rtol=1e-4)
    means = found.groupby(["split", "label"])["variance_in_class"].mean()
    np.testing.assert_allclose(means, 0, atol=1e-6)


def test_variance_of_one_checkpoint_is_refused():
    context = runs.context("mlp", steps=(0,))
    with pytest.raises(InputError, match="needs a checkpoint before step 0"):
        VOG.check(context)


def test_depth_counts_layers_among_the_members_own_examples():
    context, member = runs.context("mlp"), 1
    step = context.run.steps[-1]
    found = PREDICTION_DEPTH.compute(context, step)
    assert set(found["num_layers"]) == {3}
    assert found["prediction_depth"].between(0, 3).all()
    rows = found[(found["member"] == member) & (found["split"] == "train")]
    params = runs.params_of(context, step, member)
    arrays = context.run.train
    logits = context.run.logits_fn(params, arrays.images)
    np.testing.assert_array_equal(rows["prediction"], jnp.argmax(logits, axis=1))
    is_own = context.run.is_member[member]
    embedded = layer_embeddings(context.run.logits_fn, params, arrays.images)
    for place in (0, 13, 59):
        depth = 3
        for layer in reversed(embedded):
            points = np.asarray(layer, np.float64)
            others = np.flatnonzero(is_own & (np.arange(60) != place))
            distances = np.square(points[others] - points[place]).sum(axis=1)
            nearest = others[np.argsort(distances, kind="stable")[:30]]
            if np.bincount(arrays.labels[nearest]).argmax() != rows["prediction"].iloc[place]:
                break
            depth -= 1
        assert rows["prediction_depth"].iloc[place] == depth


def test_a_network_without_kernels_suits_no_depth(monkeypatch):
    context = runs.changed("one")
    context.run.logits_fn = lambda params, images: images.reshape(len(images), -1)[:, :10]
    assert isinstance(context, Context)
    with pytest.raises(InputError, match="pass prediction_depth: "):
        PREDICTION_DEPTH.check(context)
