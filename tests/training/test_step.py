"""What a step trains on: targets, augmented images, and the same bits however it is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax.data.augmentation import augment
from memjax.keys import tagged
from memjax.models.registry import build_model
from memjax.models.regularizers import Regularizers
from memjax.training.setup import init_states
from memjax.training.state import init_state
from memjax.training.step import (
    Batch,
    Network,
    Targets,
    example_losses,
    for_inference,
    make_train_step,
    training_images,
    unit_pixels,
)
from tests.training.test_program import evaluated, relative_error, small_setup, trained

AUGMENTED = {
    "augmentation.crop": 1,
    "augmentation.flip": True,
    "augmentation.cutout": 2,
    "augmentation.mixup": 0.5,
    "train.label_smoothing": 0.1,
}


def test_smoothed_loss_is_the_mixture_with_the_mean_over_all_classes():
    logits, labels = jax.random.normal(jax.random.key(0), (5, 4)), jnp.array([0, 3, 1, 1, 2])
    log_shares = np.asarray(logits, float)
    log_shares = log_shares - np.log(np.exp(log_shares).sum(1, keepdims=True))
    own = -log_shares[np.arange(5), labels]
    found = example_losses(logits, Targets(labels), 0.2)
    np.testing.assert_allclose(found, 0.8 * own - 0.2 * log_shares.mean(1), rtol=1e-5)
    traced = jax.jit(lambda smoothing: example_losses(logits, Targets(labels), smoothing))
    np.testing.assert_allclose(traced(0.0), own, rtol=1e-5)


def test_mixed_loss_is_the_mixture_of_the_losses_of_both_labels():
    logits = jax.random.normal(jax.random.key(0), (3, 4))
    labels, others = jnp.array([0, 1, 2]), jnp.array([2, 1, 0])
    loss = optax.softmax_cross_entropy_with_integer_labels
    np.testing.assert_allclose(
        example_losses(logits, Targets(labels, others, jnp.float32(0.3))),
        0.3 * loss(logits, labels) + 0.7 * loss(logits, others),
        rtol=1e-5,
    )


def test_with_all_off_the_step_is_made_of_the_same_operations_as_ever():
    """The plain loss by integer labels, the plain images, and not one random number."""
    network = Network(build_model("mlp", 3, widths=(4,)), 0.5, 0.5)
    optimizer = optax.sgd(0.1)
    state = init_state(0, network.model, optimizer, (2, 2, 1))
    batch = Batch(jnp.zeros((4, 2, 2, 1), jnp.uint8), jnp.zeros(4, jnp.int32))
    step = make_train_step(network, optimizer)
    text = str(jax.make_jaxpr(step)(state, batch, jax.random.key(0)))
    assert "random_bits" not in text
    assert "one_hot" not in text
    images, targets = training_images(network, batch, jax.random.key(0))
    np.testing.assert_array_equal(images, unit_pixels(batch.images))
    assert targets == Targets(batch.labels)


def test_a_step_on_augmented_images_is_the_plain_step_on_those_images():
    setup = small_setup(**{"augmentation.crop": 1, "augmentation.flip": True})
    state = jax.tree.map(lambda leaf: leaf[0], init_states(setup))
    images, labels = jnp.asarray(setup.examples.images[:8]), jnp.asarray(setup.examples.labels[:8])
    key = jax.random.key(3)
    step = make_train_step(setup.network, setup.optimizer)
    found, _ = step(state, Batch(images, labels), key)
    seen, _ = training_images(setup.network, Batch(images, labels), tagged(key, "augmentation"))
    image_key = tagged(tagged(key, "augmentation"), "augmented images")
    np.testing.assert_array_equal(seen, augment(image_key, unit_pixels(images), 1, True))
    plain = small_setup()
    expected, _ = make_train_step(plain.network, plain.optimizer)(state, Batch(seen, labels), key)
    assert relative_error(found.params, expected.params) < 1e-6
    assert not np.array_equal(seen, unit_pixels(images))


def test_cuts_into_dispatches_change_no_bit_of_an_augmented_run():
    setup = small_setup(**AUGMENTED)
    whole, cut = trained(setup, 10), trained(setup, 10, cuts=(1, 4, 9))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("members", "devices"), [(1, 4), (2, 4)])
def test_devices_change_nothing_but_rounding_of_an_augmented_run(members, devices):
    """Batches of 15 that 4 devices pad, and a last one of 5."""
    common = {**AUGMENTED, "train.batch_size": 15, "ensemble.size": members}
    expected = trained(small_setup(**common), 8).params
    many = small_setup(**common, **{"run.num_devices": devices})
    assert relative_error(trained(many, 8).params, expected) < 1e-5


def test_members_are_augmented_each_in_its_own_way_and_chunks_change_nothing():
    common = {**AUGMENTED, "ensemble.size": 2}
    together = trained(small_setup(**common, **{"run.members_per_chunk": 2}), 5).params
    apart = trained(small_setup(**common, **{"run.members_per_chunk": 1}), 5).params
    assert relative_error(together, apart) < 1e-6


def test_what_is_recorded_looks_at_plain_images_and_plain_labels():
    plain, augmented = evaluated(small_setup()), evaluated(small_setup(**AUGMENTED))
    assert len(jax.tree.leaves(plain)) > 4
    jax.tree.map(np.testing.assert_array_equal, plain, augmented)


def test_only_networks_whose_method_is_that_of_convolutions_change_it_for_inference():
    class Own(build_model("mlp", 3).__class__):
        method: str = "auto"

    for name in ("alexnet", "resnet", "wide_resnet"):
        assert for_inference(Network(build_model(name, 10))).model.method == "lax"
    own = Network(Own(3, regularizers=Regularizers()))
    assert for_inference(own).model.method == "auto"
