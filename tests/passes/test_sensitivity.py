"""Passes `sensitivity` and `class_sensitivity`: the run's own batches, the run's own trajectory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.analysis.sensitivity import loss_sensitivity
from memjax.analysis.statistics import gini
from memjax.errors import InputError
from memjax.passes import CLASS_SENSITIVITY, SENSITIVITY
from memjax.passes.updates import run_batches
from memjax.training.state import member_keys
from tests.passes import runs


def batches_by_hand(member):
    key = member_keys(member).order
    batches = []
    for epoch in range(3):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), 42))
        batches += [order[:20], order[20:40], np.r_[order[40:], np.full(18, -1)]]
    return batches


def test_batches_are_those_of_the_run():
    context = runs.context("mlp")
    for member in (0, 3):
        for found, expected in zip(
            run_batches(context, member), batches_by_hand(member), strict=True
        ):
            found = np.asarray(found)
            assert found[found >= 0].tolist() == expected[expected >= 0].tolist()


@pytest.fixture(scope="module")
def table():
    context = runs.context("mlp", num_probes=3, members=2)
    return context, SENSITIVITY.compute(context, None)


def test_values_are_the_function_s_own(table):
    context, found = table
    run, member = context.run, 1
    rows = np.flatnonzero(run.is_member[member])
    direct = loss_sensitivity(
        run.logits_fn,
        run.params(0, member),
        run.train.images[rows],
        jnp.asarray(run.train.labels[rows]),
        jnp.asarray(np.stack(batches_by_hand(member))),
        0.05,
        [3, 6, 9],
        momentum=0.9,
        # The run decays kernels, and neither biases nor anything else of one dimension.
        weight_decay=jax.tree.map(lambda leaf: 0.01 * (leaf.ndim > 1), run.params(0, member)),
    )
    of_member = found[found["member"] == member]
    assert sorted(set(of_member["step"])) == [3, 6, 9]
    for place, step in enumerate((3, 6, 9)):
        at_step = of_member[of_member["step"] == step]
        assert at_step["index"].tolist() == run.train.source_index[rows].tolist()
        np.testing.assert_allclose(at_step["sensitivity"], direct.per_step[place], rtol=1e-3)
        coefficient = float(gini(jnp.asarray(direct.per_step[place])))
        assert set(at_step["gini"]) == {at_step["gini"].iloc[0]}
        assert at_step["gini"].iloc[0] == pytest.approx(coefficient, rel=1e-3)


def test_the_updates_end_at_the_checkpoint(table):
    _, found = table
    assert (found["trajectory_error"] < 1e-4).all()


def test_another_trajectory_is_refused():
    context = runs.changed("mlp", members=1, num_probes=1)
    config = context.run.config
    optimizer = dataclasses.replace(config.optimizer, learning_rate=0.5)
    context.run.config = dataclasses.replace(config, optimizer=optimizer)
    with pytest.raises(InputError, match="away from the checkpoint of step 9"):
        SENSITIVITY.compute(context, None)
    context.options = dataclasses.replace(context.options, max_trajectory_error=10.0)
    assert (SENSITIVITY.compute(context, None)["trajectory_error"] > 0.05).all()


def test_class_i_s_terms_by_the_images_of_class_j():
    context = runs.context("mlp", members=1, num_class_probes=1)
    found = CLASS_SENSITIVITY.compute(context, None)
    run = context.run
    rows = np.flatnonzero(run.is_member[0])
    labels = run.train.labels[rows]

    by_pair = found.set_index(["loss_class", "image_class"])["sensitivity"].unstack().to_numpy()
    assert by_pair.shape == (10, 10)
    present = np.bincount(labels, minlength=10) > 0
    assert np.isnan(by_pair[:, ~present]).all()
    # Without an update, dL(y=i)/dx is the direct term, that of x's own class alone; with them, a
    # class moves the parameters and so the loss of the others.
    assert (by_pair[present][:, present] > 0).all()
    diagonal = np.diag(by_pair)[present]
    assert diagonal.mean() > np.nanmean(by_pair[present])
    # One class, whole loss: the sum over classes of gradients is the gradient of all of them.
    whole = SENSITIVITY.compute(runs.context("mlp", members=1, num_probes=1), None)
    for label in np.flatnonzero(present):
        mean = whole["sensitivity"].to_numpy()[labels == label].mean()
        assert mean <= by_pair[:, label].sum() * (1 + 1e-4)


def test_batch_statistics_only_when_they_may_be_frozen():
    with pytest.raises(InputError, match="--freeze_statistics"):
        SENSITIVITY.check(runs.context("cnn"))
    context = runs.context("cnn", freeze_statistics=True, num_probes=1)
    SENSITIVITY.check(context)
    found = SENSITIVITY.compute(context, None)
    assert found["trajectory_error"].isna().all()
    assert (found["sensitivity"] > 0).all()


@pytest.mark.parametrize(
    ("section", "change", "word"),
    [
        ("regularizer", {"dropout": 0.5}, "regularizer.dropout"),
        ("regularizer", {"input_noise": 0.1}, "regularizer.input_noise"),
        ("regularizer", {"adversarial_weight": 0.2}, "regularizer.adversarial_weight"),
        ("optimizer", {"name": "adam"}, "optimizer.name=adam"),
        ("optimizer", {"nesterov": True}, "nesterov=True"),
        ("train", {"compute_dtype": "bfloat16"}, "float32"),
        ("augmentation", {"flip": True}, "augmentation.flip=True"),
        ("augmentation", {"mixup": 0.2}, "augmentation.mixup=0.2"),
        ("train", {"label_smoothing": 0.1}, "train.label_smoothing=0.1"),
        ("optimizer", {"clip_norm": 1.0}, "optimizer.clip_norm=1.0"),
    ],
)
@pytest.mark.parametrize("each", [SENSITIVITY, CLASS_SENSITIVITY])
def test_what_cannot_be_differentiated_is_refused(each, section, change, word):
    context = runs.changed("one")
    config = context.run.config
    replaced = dataclasses.replace(getattr(config, section), **change)
    context.run.config = dataclasses.replace(config, **{section: replaced})
    with pytest.raises(InputError, match=word):
        each.check(context)
