"""Optimisers against the formulas of their papers, written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax.config import Optimizer, resolve
from memjax.config_sections import OPTIMIZERS
from memjax.errors import InputError
from memjax.training.optimizers import is_decayed, make_optimizer

PARAMS = {
    "Dense_0": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0, 4.0])},
    "query": {"kernel": jnp.full((2, 1, 2), 2.0), "bias": jnp.full((1, 2), 5.0)},
    "LayerNorm_0": {"scale": jnp.array([2.0])},
    "position_embedding": jnp.ones((1, 2, 2)),
}
GRADIENT = jax.tree.map(lambda leaf: 0.5 * leaf - 1, PARAMS)


def after(config, weight_decay=0.0, steps=3):
    optimizer = make_optimizer(config, weight_decay, steps_per_epoch=10, num_epochs=1)
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(steps):
        updates, state = optimizer.update(GRADIENT, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.7)])
@pytest.mark.parametrize("eps", [1e-8, 0.1])
def test_adam_takes_its_betas_and_eps(betas, eps):
    found = after(Optimizer(name="adam", learning_rate=0.1, betas=betas, eps=eps))
    for got, start, gradient in zip(*map(jax.tree.leaves, (found, PARAMS, GRADIENT)), strict=True):
        value, first, second = np.array(start, float), 0.0, 0.0
        for step in range(1, 4):
            first = betas[0] * first + (1 - betas[0]) * np.asarray(gradient)
            second = betas[1] * second + (1 - betas[1]) * np.asarray(gradient) ** 2
            mean, square = first / (1 - betas[0] ** step), second / (1 - betas[1] ** step)
            value = value - 0.1 * mean / (np.sqrt(square) + eps)
        np.testing.assert_allclose(got, value, rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fields_left_alone_are_optaxs_own_but_for_its_decay(name):
    optimizer = getattr(optax, name)(0.1)
    found = after(Optimizer(name=name, learning_rate=0.1), steps=1)
    updates, _ = optimizer.update(GRADIENT, optimizer.init(PARAMS), PARAMS)
    own_decay = {"adamw": 1e-4, "lion": 1e-3}.get(name, 0.0)
    updates = jax.tree.map(lambda u, p: u + 0.1 * own_decay * p, updates, PARAMS)
    jax.tree.map(
        lambda got, start, update: np.testing.assert_allclose(got, start + update, rtol=1e-5),
        found, PARAMS, updates,
    )  # fmt: skip


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_the_gradient_is_clipped_as_a_whole_before_the_decay(limit):
    norm = float(optax.tree.norm(GRADIENT))
    found = after(Optimizer(learning_rate=0.1, clip_norm=limit), weight_decay=0.3, steps=1)
    jax.tree.map(
        lambda got, start, gradient: np.testing.assert_allclose(
            got, start - 0.1 * (gradient * min(1, limit / norm) + 0.3 * start), rtol=1e-5, atol=1e-6
        ),
        found, PARAMS, GRADIENT,
    )  # fmt: skip


def test_kernels_are_decayed_and_norms_biases_and_positions_are_not():
    assert is_decayed(PARAMS) == {
        "Dense_0": {"kernel": True, "bias": False},
        "query": {"kernel": True, "bias": False},
        "LayerNorm_0": {"scale": False},
        "position_embedding": False,
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_weight_decay_what_has_no_gradient_stays(name):
    optimizer = make_optimizer(Optimizer(name=name, learning_rate=0.1), 0.0, 10, 1)
    still = jax.tree.map(lambda leaf: 0 * leaf, PARAMS)
    updates, _ = optimizer.update(still, optimizer.init(PARAMS), PARAMS)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion"])
def test_decay_acts_on_what_the_mask_names_alone(name):
    fields = {"name": name, "learning_rate": 0.1}
    none = after(Optimizer(**fields), 0.0, 1)
    masked = after(Optimizer(**fields, decay_mask="kernels"), 0.5, 1)
    everything = after(Optimizer(**fields), 0.5, 1)
    assert masked["Dense_0"]["kernel"] == pytest.approx(everything["Dense_0"]["kernel"])
    np.testing.assert_allclose(
        masked["Dense_0"]["kernel"],
        none["Dense_0"]["kernel"] - 0.1 * 0.5 * PARAMS["Dense_0"]["kernel"],
        rtol=1e-5,
    )
    for path in (("Dense_0", "bias"), ("query", "bias"), ("LayerNorm_0", "scale")):
        one, other = masked[path[0]][path[1]], none[path[0]][path[1]]
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(masked["position_embedding"], none["position_embedding"])


@pytest.mark.parametrize("decay", [0.1, 0.2])
def test_a_traced_decay_equals_the_float(decay):
    config = Optimizer(learning_rate=0.1, decay_mask="kernels", clip_norm=1.0)
    traced = jax.jit(lambda decay: after(config, decay))(jnp.float32(decay))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6),
        traced,
        after(config, decay),
    )


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("betas", (0.9,), "two numbers"),
        ("betas", (0.9, 1.0), "two numbers in"),
        ("betas", ("a", 0.5), "two numbers"),
        ("eps", -1.0, "finite"),
        ("clip_norm", float("nan"), "finite"),
        ("decay_mask", "kernel", "did you mean kernels"),
    ],
)
def test_values_out_of_range_are_refused(field, value, words):
    with pytest.raises(InputError, match=rf"optimizer\.{field}.*{words}"):
        resolve({"optimizer": {"name": "adam", field: value}})
