"""Adversarial training in the train step: the stated mixture, inside the box, free when off."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memjax.analysis._search.lass_step import lass_samples
from memjax.keys import tagged
from memjax.models.mlp import MLP
from memjax.training.state import init_state
from memjax.training.step import Adversarial, Batch, Network, make_logits_fn, make_train_step

IMAGES = jax.random.uniform(jax.random.key(0), (6, 4, 4, 1))
BATCH = Batch(IMAGES, jnp.arange(6) % 3)
KEY = jax.random.key(3)


def stepped(adversarial):
    network = Network(MLP(3, (8,)), 0.5, 0.5, adversarial=adversarial)
    optimizer = optax.sgd(0.5)
    state = init_state(0, network.model, optimizer, (4, 4, 1))
    step = jax.jit(make_train_step(network, optimizer))
    return network, state, step, *step(state, BATCH, KEY)


def test_the_loss_is_the_weighted_mean_of_clean_and_lass_samples():
    network, state, _, after, metrics = stepped(Adversarial(0.3, 0.1, 4))
    logits_fn = make_logits_fn(network)
    search_key = tagged(KEY, "adversarial search")
    samples = lass_samples(search_key, logits_fn, state.params, IMAGES, 0.1, 4)
    assert 0.05 < float(jnp.abs(samples - IMAGES).max()) < 0.1 + 1e-6

    def loss(trained):
        def mean_loss(images):
            logits = logits_fn({"params": trained}, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, BATCH.labels).mean()

        return 0.7 * mean_loss(IMAGES) + 0.3 * mean_loss(samples)

    value, gradient = jax.value_and_grad(loss)(state.params["params"])
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, state.params["params"], gradient)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        after.params["params"],
        expected,
    )


def test_weight_zero_leaves_no_trace_of_the_search():
    _, state, step, _, _ = stepped(Adversarial(0.0, 0.1, 4))
    _, plain_state, plain_step, _, _ = stepped(Adversarial())
    off, plain = (
        str(jax.make_jaxpr(one)(s, BATCH, KEY))
        for one, s in ((step, state), (plain_step, plain_state))
    )
    assert off == plain
