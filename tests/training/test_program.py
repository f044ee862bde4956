"""The train program: one step is plain SGD, cuts and devices change nothing, members are runs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from memjax.config import default_config, resolve
from memjax.data.batching import batch_rows, epoch_order
from memjax.training import setup as setup_lib
from memjax.training.group import Group
from memjax.training.state import TrainState, member_keys, member_subset
from memjax.training.step import Batch, make_logits_fn, make_train_step, unit_pixels


def small_setup(**overrides):
    config = default_config()
    config.dataset.num_train = 50
    config.dataset.num_validation = 20
    config.corruption.kind = "random_labels"
    config.corruption.fraction = 0.5
    if "model.name" not in overrides:
        config.model.widths = (16, 12)
    config.train.batch_size = 16
    config.train.num_epochs = 3
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.run.num_devices = 1
    with config.unlocked():
        config.update_from_flattened_dict(overrides)
    return setup_lib.prepare(resolve(config))


CNN = {
    "model.name": "alexnet",
    "model.width_factor": 0.04,
    "model.crop": 0,
    "model.pool": 2,
}


def group_of(setup):
    """Its members on the devices, as the loop has them; several side by side only if asked for."""
    size, devices = setup.config.ensemble.size, setup.mesh.shape["member"]
    chunk = min(setup.config.run.members_per_chunk or 1, -(-size // devices))
    return Group([setup], (), setup.mesh, chunk)


def trained(setup, num_steps, cuts=()):
    """Trains from the start, cut into several dispatches."""
    with jax.set_mesh(setup.mesh):
        group = group_of(setup)
        group.start(range(group.size))
        start = 0
        for stop in (*cuts, num_steps):
            assert group.train(start, stop - start) == {}
            start = stop
        return jax.tree.map(np.asarray, group.saved(range(group.size)).state)


def relative_error(one, other):
    squares = [
        (np.sum((a - b) ** 2), np.sum(b**2))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        if np.issubdtype(a.dtype, np.floating)
    ]
    return np.sqrt(sum(a for a, _ in squares) / sum(b for _, b in squares))


def test_training_equals_a_plain_loop_in_numpy_order():
    setup = small_setup()
    states = trained(setup, 10)
    logits_fn = make_logits_fn(setup.network)
    images = unit_pixels(jnp.asarray(setup.examples.images))
    labels = jnp.asarray(setup.examples.labels)

    def loss(params, rows):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits_fn({"params": params}, images[rows]), labels[rows]
        )
        return losses.mean()

    params = jax.tree.map(lambda leaf: leaf[0], setup_lib.init_states(setup)).params["params"]
    velocity = jax.tree.map(jnp.zeros_like, params)
    for step in range(10):
        epoch, position = divmod(step, setup.batches.steps_per_epoch)
        order = epoch_order(member_keys(0).order, epoch, 50)
        rows, mask = batch_rows(order, position, setup.batches)
        gradient = jax.grad(loss)(params, rows[np.asarray(mask)])
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        params = jax.tree.map(lambda p, v: p - 0.1 * v, params, velocity)
    found = jax.tree.map(lambda leaf: leaf[0], states.params["params"])
    assert relative_error(found, jax.tree.map(np.asarray, params)) < 1e-6


@pytest.mark.parametrize("model", [{}, CNN], ids=["mlp", "cnn"])
def test_cuts_into_dispatches_change_no_bit(model):
    setup = small_setup(**model, **{"regularizer.dropout": 0.2, "regularizer.input_noise": 0.1})
    whole = trained(setup, 10)
    cut = trained(setup, 10, cuts=(1, 4, 9))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("model", [{}, CNN], ids=["mlp", "cnn"])
@pytest.mark.parametrize(("members", "devices"), [(1, 4), (4, 4), (2, 4)])
def test_devices_change_nothing_but_rounding(model, members, devices):
    """A batch of 15 that 4 devices do not divide, and a last batch of 5, included.

    Early steps are compared: training with BatchNorm multiplies rounding by ten every few steps.
    """
    common = {**model, "train.batch_size": 15, "ensemble.size": members}
    one = small_setup(**common)
    many = small_setup(**common, **{"run.num_devices": devices})
    assert many.mesh.size == devices
    num_steps = 4 if model else 8
    expected = trained(one, num_steps).params
    assert relative_error(trained(many, num_steps).params, expected) < 1e-5


@pytest.mark.parametrize("members", [1, 4], ids=["one", "members"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_split_images_change_no_bit(members, dtype):
    """50 examples that 4 devices do not divide; 2 x 2 devices where there are members."""
    fields = {
        "train.batch_size": 15,
        "ensemble.size": members,
        "run.num_devices": 4,
        "run.member_devices": 2 if members > 1 else 0,
        "run.members_per_chunk": 2,
    }
    runs = [
        with_pixels(small_setup(**fields, **{"run.data_placement": placement}), dtype)
        for placement in ("replicated", "sharded")
    ]
    assert [run.images_are_split for run in runs] == [False, True]
    whole, split = (trained(run, 6) for run in runs)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(split), strict=True):
        np.testing.assert_array_equal(one, other)
    whole, split = (evaluated(run) for run in runs)
    jax.tree.map(np.testing.assert_array_equal, whole, split)


def with_pixels(setup, dtype):
    """The setup with images as uint8 instead of float32, or as they are."""
    images = setup.examples.images
    if dtype == np.uint8:
        images = np.round(images * 255).astype(np.uint8)
    return setup._replace(examples=dataclasses.replace(setup.examples, images=images))


def evaluated(setup):
    """What is logged of the members before training, and each example's outcomes."""
    run = dataclasses.replace(setup.config.run, evaluation_batch_size=7)
    setup = setup._replace(config=dataclasses.replace(setup.config, run=run))
    with jax.set_mesh(setup.mesh):
        group = group_of(setup)
        group.start(range(group.size))
        return group.evaluate(0, lambda: False, with_outcomes=True)


@functools.cache
def trained_alone(seed):
    alone = small_setup(seed=seed)
    return setup_lib.init_states(alone).params, trained(alone, 10).params


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_a_member_is_the_run_with_its_seed(chunk):
    ensemble = small_setup(**{"ensemble.size": 3, "run.members_per_chunk": chunk})
    states = trained(ensemble, 10)
    initial = setup_lib.init_states(ensemble)
    for member in range(3):
        start, end = trained_alone(member)
        for one, other in zip(jax.tree.leaves(initial.params), jax.tree.leaves(start), strict=True):
            np.testing.assert_array_equal(one[member], other[0])
        found = jax.tree.map(lambda leaf: leaf[member], states.params)  # noqa: B023
        expected = jax.tree.map(lambda leaf: leaf[0], end)
        assert relative_error(found, expected) < 1e-6


def test_members_on_subsets_never_see_what_is_outside():
    setup = small_setup(**{"ensemble.size": 2, "ensemble.subset_fraction": 0.6})
    subsets = np.asarray(setup_lib.member_subsets(setup))
    assert subsets.shape == (2, 30)
    assert all(len(set(subset.tolist())) == 30 for subset in subsets)
    assert set(subsets[0].tolist()) != set(subsets[1].tolist())
    states = trained(setup, 6)
    images = np.array(setup.examples.images)
    outside = np.setdiff1d(np.arange(50), subsets[0])
    images[outside] = 0.5
    changed = setup._replace(examples=setup.examples.__class__(
        **{**vars(setup.examples), "images": images}
    ))  # fmt: skip
    again = trained(changed, 6)
    for one, other in zip(
        jax.tree.leaves(states.params), jax.tree.leaves(again.params), strict=True
    ):
        np.testing.assert_array_equal(one[0], other[0])
        assert not np.array_equal(one[1], other[1])


def test_a_subset_of_everything_is_everything():
    assert member_subset(3, 7, 7).tolist() == list(range(7))


def test_padding_is_no_example():
    setup = small_setup()
    step = jax.jit(make_train_step(setup.network, setup.optimizer))
    state = jax.tree.map(lambda leaf: leaf[0], setup_lib.init_states(setup))
    images = jnp.asarray(setup.examples.images[:6])
    labels = jnp.asarray(setup.examples.labels[:6])
    key = jax.random.key(0)
    plain, metrics = step(state, Batch(images[:4], labels[:4]), key)
    mask = jnp.array([True] * 4 + [False] * 2)
    padded, padded_metrics = step(state, Batch(images, labels, mask), key)
    np.testing.assert_allclose(metrics["loss"], padded_metrics["loss"], rtol=1e-6)
    assert relative_error(jax.tree.map(np.asarray, padded.params), plain.params) < 1e-6


def test_evaluation_equals_a_loop_over_the_members_own_examples_on_any_devices():
    for devices in (1, 4):
        fields = {"ensemble.size": 2, "ensemble.subset_fraction": 0.6, "run.num_devices": devices}
        setup = small_setup(**fields)
        states, subsets = setup_lib.init_states(setup), setup_lib.member_subsets(setup)
        found, outcomes = evaluated(setup)
        logits_fn, examples = make_logits_fn(setup.network), setup.examples
        for member, rows in enumerate(np.asarray(subsets)):
            params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[member]), states.params)  # noqa: B023
            images = unit_pixels(jnp.asarray(examples.images[rows]))
            logits = np.concatenate([logits_fn(params, image[None]) for image in images])
            labels, true_labels = examples.labels[rows], examples.true_labels[rows]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            predicted, corrupted = logits.argmax(axis=1), examples.is_corrupted[rows]
            wrong = labels != true_labels
            expected = {
                "train_loss": losses.mean(),
                "train_accuracy": (predicted == labels).mean(),
                "corrupted_accuracy": (predicted == labels)[corrupted].mean(),
                "clean_accuracy": (predicted == labels)[~corrupted].mean(),
                "mislabeled_as_label": (predicted == labels)[wrong].mean(),
                "mislabeled_as_true": (predicted == true_labels)[wrong].mean(),
                "mislabeled_as_other": ((predicted != labels) & (predicted != true_labels))[
                    wrong
                ].mean(),
            }
            for name, value in expected.items():
                np.testing.assert_allclose(found[name][member], value, rtol=1e-5, err_msg=name)
            of_member = jax.tree.map(lambda leaf: leaf[member, : len(rows)], outcomes["train"])  # noqa: B023
            np.testing.assert_allclose(of_member.loss, losses, rtol=1e-4)
            np.testing.assert_array_equal(of_member.prediction, predicted)
            others = np.where(np.eye(10, dtype=bool)[labels], -np.inf, logits).max(axis=1)
            margins = logits[np.arange(len(rows)), labels] - others
            np.testing.assert_allclose(of_member.margin, margins, atol=1e-5)


def test_running_metrics_are_those_of_the_steps_themselves():
    """One epoch of SGD, noted batch by batch before each update, on padded batches as well."""
    setup = small_setup(**{"train.train_metrics": "running", "ensemble.size": 2})
    with jax.set_mesh(setup.mesh):
        group = group_of(setup)
        group.start(range(2))
        group.train(0, 1)
        group.train(1, setup.batches.steps_per_epoch - 1)
        found, outcomes = group.evaluate(setup.batches.steps_per_epoch, lambda: False, True)
    step = jax.jit(make_train_step(setup.network, setup.optimizer))
    for member in range(2):
        state = jax.tree.map(lambda leaf: leaf[member], setup_lib.init_states(setup))  # noqa: B023
        losses = np.zeros(50)
        order = epoch_order(member_keys(member).order, 0, 50)
        for position in range(setup.batches.steps_per_epoch):
            rows, mask = batch_rows(order, position, setup.batches)
            images, labels = setup.examples.images[rows], setup.examples.labels[rows]
            logits = make_logits_fn(setup.network)(state.params, unit_pixels(jnp.asarray(images)))
            each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            losses[np.asarray(rows)[mask]] = np.asarray(each)[mask]
            state, _ = step(state, Batch(images, labels, mask), jax.random.key(0))
        np.testing.assert_allclose(outcomes["train"].loss[member], losses, rtol=1e-4)
        np.testing.assert_allclose(found["train_loss"][member], losses.mean(), rtol=1e-5)


def test_a_member_that_is_not_finite_is_named_and_is_nan_and_the_others_go_on():
    setup = small_setup(**{"ensemble.size": 3, "run.members_per_chunk": 3})
    with jax.set_mesh(setup.mesh):
        group = group_of(setup)
        group.start(range(3))
        kernel = group.states.params["params"]["Dense_0"]["kernel"]
        group.states.params["params"]["Dense_0"]["kernel"] = kernel.at[1].set(jnp.nan)
        diverged = group.train(0, 2)
        assert diverged == {1: 0}
        group.end([1], [1])
        before = jax.tree.map(np.asarray, group.saved([1]))
        assert group.train(2, 4) == {}
        jax.tree.map(
            np.testing.assert_array_equal, jax.tree.map(np.asarray, group.saved([1])), before
        )
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(before.state.params))
        others = jax.tree.map(np.asarray, group.saved([0, 2])).state.params
    for place, member in enumerate((0, 2)):
        alone = trained(small_setup(seed=member), 6).params
        found = jax.tree.map(lambda leaf: leaf[place], others)  # noqa: B023
        assert relative_error(found, jax.tree.map(lambda leaf: leaf[0], alone)) < 1e-5


def test_the_first_loss_that_is_not_finite_is_reported():
    setup = small_setup(**{"optimizer.learning_rate": 1e30})
    with jax.set_mesh(setup.mesh):
        group = group_of(setup)
        group.start([0])
        assert 1 <= group.train(0, 8)[0] <= 3


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    setup = small_setup(**{"train.compute_dtype": "bfloat16"})
    states = trained(setup, 4)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(states.params))
    exact = trained(small_setup(), 4)
    assert 1e-6 < relative_error(states.params, exact.params) < 0.05


def test_running_statistics_have_no_gradient():
    class WithStatistics(nn.Module):
        num_classes: int = 3

        @nn.compact
        def __call__(self, images, train, mask=None):
            x = images.reshape(images.shape[0], -1)
            x = nn.BatchNorm(use_running_average=not train)(x)
            return nn.Dense(self.num_classes)(x)

    setup = small_setup()
    network = setup.network._replace(model=WithStatistics())
    images = unit_pixels(jnp.asarray(setup.examples.images[:5]))
    params = WithStatistics().init(jax.random.key(0), images, train=False)
    gradients = jax.grad(lambda p: make_logits_fn(network)(p, images).sum())(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients["batch_stats"]))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(gradients["params"]))
    assert isinstance(setup_lib.init_states(setup), TrainState)
