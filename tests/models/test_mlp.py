import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.errors import InputError
from memjax.models.mlp import ACTIVATIONS, MLP
from memjax.models.registry import num_params
from memjax.models.regularizers import Regularizers

IMAGES = jax.random.normal(jax.random.key(1), (5, 4, 4, 1))


def _variables(model, images=IMAGES):
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), images)


def test_papers_network_has_the_parameters_of_the_closed_form():
    variables = jax.eval_shape(
        functools.partial(MLP(10).init, train=False), jax.random.key(0), jnp.zeros((1, 28, 28, 1))
    )
    expected = (784 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 10
    assert num_params(variables) == expected


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_logits_equal_the_matrix_products_written_out(activation, random_variables):
    model = MLP(3, widths=(6, 5), activation=activation)
    variables = random_variables(model, IMAGES)
    layers = variables["params"]
    assert set(layers) == {"Dense_0", "Dense_1", "Dense_2"}
    outputs = np.asarray(IMAGES).reshape(5, 16)
    for layer in ("Dense_0", "Dense_1", "Dense_2"):
        outputs = outputs @ np.asarray(layers[layer]["kernel"]) + np.asarray(layers[layer]["bias"])
        if layer != "Dense_2":
            outputs = np.asarray(getattr(jax.nn, activation)(outputs))
    logits = jax.jit(functools.partial(model.apply, train=False))(variables, IMAGES)
    np.testing.assert_allclose(logits, outputs, rtol=1e-5, atol=1e-6)


def test_no_hidden_layer_is_a_linear_model(random_variables):
    model = MLP(3, widths=())
    layer = random_variables(model, IMAGES)["params"]["Dense_0"]
    logits = model.apply({"params": {"Dense_0": layer}}, IMAGES, train=False)
    expected = np.asarray(IMAGES).reshape(5, 16) @ np.asarray(layer["kernel"]) + np.asarray(
        layer["bias"]
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "variance"), [("lecun_normal", 1 / 400), ("he_normal", 2 / 400)])
def test_initialization_has_its_variance(name, variance):
    model = MLP(10, widths=(500,), initialization=name)
    params = _variables(model, jnp.zeros((1, 20, 20, 1)))["params"]["Dense_0"]
    assert abs(np.var(params["kernel"]) / variance - 1) < 0.02
    assert not np.any(params["bias"])


def test_dropout_acts_on_every_hidden_layer_in_training_only(random_variables):
    plain = MLP(3, widths=(50, 50))
    dropped = MLP(3, widths=(50, 50), regularizers=Regularizers(dropout=0.5))
    variables = random_variables(plain, IMAGES)
    expected = plain.apply(variables, IMAGES, train=False)
    np.testing.assert_array_equal(dropped.apply(variables, IMAGES, train=False), expected)

    # All but the second layer's dropout is undone by a constant first layer, and the other way.
    for layer in ("Dense_0", "Dense_1"):
        constant = jax.tree.map(jnp.zeros_like, variables["params"][layer])
        params = {**variables["params"], layer: {**constant, "bias": constant["bias"] + 1}}
        first, second = jax.jit(
            jax.vmap(
                lambda key, params: dropped.apply(
                    {"params": params}, IMAGES, train=True, rngs={"dropout": key}
                ),
                in_axes=(0, None),
            )
        )(jax.random.split(jax.random.key(2)), params)
        assert not np.allclose(first, second)


def test_strengths_can_be_swept_by_vmap(random_variables):
    variables = random_variables(MLP(3, widths=(50,)), IMAGES)

    def spread(std):
        model = MLP(3, widths=(50,), regularizers=Regularizers(hidden_noise=std))
        noisy = model.apply(variables, IMAGES, train=True, rngs={"noise": jax.random.key(0)})
        return jnp.std(noisy - model.apply(variables, IMAGES, train=False))

    none, some, twice = jax.jit(jax.vmap(spread))(jnp.array([0.0, 0.1, 0.2]))
    assert none < 1e-3 * some
    np.testing.assert_allclose(twice, 2 * some, rtol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (16, 0)}, "widths"),
        ({"widths": (16.5,)}, "widths"),
        ({"activation": "rellu"}, r"rellu.*relu"),
        ({"initialization": "normal"}, r"normal.*he_normal"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        MLP(10, **fields)
