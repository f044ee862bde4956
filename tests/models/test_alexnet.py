import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from memjax.errors import InputError
from memjax.models.alexnet import AlexNet
from memjax.models.normalization import BATCH_NORM_MOMENTUM, PooledBatchNorm
from memjax.models.pooling import max_pool
from memjax.models.registry import num_params
from memjax.models.regularizers import Regularizers

SMALL = functools.partial(AlexNet, num_classes=3, width_factor=0.03, crop=0, pool=2)
IMAGES = jax.random.normal(jax.random.key(1), (6, 8, 8, 2))


def _shapes(model, images):
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), images)


@pytest.fixture(scope="module")
def variables(random_variables):
    return random_variables(SMALL(), IMAGES)


def _train(model, variables, images, mask=None, rngs=None):
    apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    return jax.jit(apply)(variables, images, mask=mask, rngs=rngs)


def _infer(model, variables, images):
    return jax.jit(functools.partial(model.apply, train=False))(variables, images)


def test_papers_network_has_the_parameters_of_the_closed_form():
    variables = _shapes(AlexNet(10), jnp.zeros((1, 32, 32, 3)))
    convolutions = 25 * 3 * 200 + 25 * 200 * 200
    dense = 3 * 3 * 200 * 384 + 384 * 192 + (192 + 1) * 10  # 28 -> 9 -> 3 pixels
    scales_and_offsets = 2 * (200 + 200 + 384 + 192)
    assert num_params(variables) == convolutions + dense + scales_and_offsets
    assert variables["params"]["Dense_0"]["kernel"].shape == (1800, 384)


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({}, (32, 32, 3)),
        ({"width_factor": 0.125}, (32, 32, 3)),
        ({"width_factor": 2}, (32, 32, 3)),
        ({"crop": 0}, (28, 28, 1)),
        ({"crop": 0, "pool": 2}, (8, 8, 1)),
        ({"width_factor": 1e-9}, (32, 32, 3)),
    ],
)
def test_shapes(fields, shape):
    model, images = AlexNet(7, **fields), jnp.zeros((2, *shape))
    variables = _shapes(model, images)
    apply = functools.partial(model.apply, train=False)
    assert jax.eval_shape(apply, variables, images).shape == (2, 7)
    width = max(1, round(200 * fields.get("width_factor", 1)))
    assert variables["params"]["Conv_1"]["kernel"].shape == (5, 5, width, width)


def test_logits_equal_flax_layers_in_the_papers_order(variables):
    params, statistics = variables["params"], variables["batch_stats"]

    def batch_norm(x, layer):
        name = f"BatchNorm_{layer}"
        collections = {"params": params[name], "batch_stats": statistics[name]}
        return nn.BatchNorm(use_running_average=True).apply(collections, x)

    x = IMAGES
    for layer, channels in enumerate((6, 6)):
        conv = nn.Conv(channels, (5, 5), use_bias=False)
        x = conv.apply({"params": params[f"Conv_{layer}"]}, x)
        x = nn.max_pool(nn.relu(batch_norm(x, layer)), (2, 2), (2, 2))
    x = x.reshape(6, -1)
    for layer in (0, 1):
        x = nn.relu(batch_norm(jnp.dot(x, params[f"Dense_{layer}"]["kernel"]), layer + 2))
    last = params["Dense_2"]
    expected = jnp.dot(x, last["kernel"]) + last["bias"].reshape(1, -1)
    for method in ("auto", "lax"):
        logits = _infer(SMALL(method=method), variables, IMAGES)
        np.testing.assert_allclose(logits, expected, rtol=2e-5)


@pytest.mark.parametrize("num_padded", [0, 2])
def test_normalising_after_the_pooling_is_normalising_before_it(num_padded):
    """Also where the scale of a channel is negative, 0, or there is padding."""
    images = jax.random.normal(jax.random.key(2), (6 + num_padded, 7, 6, 4))
    mask = jnp.arange(len(images)) < 6
    variables = {
        "params": {"scale": jnp.array([1.5, -0.5, 0.0, -2.0]), "bias": jnp.arange(4.0)},
        "batch_stats": {"mean": jnp.arange(4.0), "var": jnp.ones(4)},
    }

    def pool(activations):
        return max_pool(activations, 3)

    def fused(variables, images):
        layer = PooledBatchNorm()
        return layer.apply(variables, images, pool, mask, mutable=["batch_stats"])

    def plain(variables, images):
        layer = nn.BatchNorm(use_running_average=False, momentum=BATCH_NORM_MOMENTUM)
        where = mask.reshape(-1, 1, 1, 1)
        outputs, changed = layer.apply(variables, images, mask=where, mutable=["batch_stats"])
        return pool(outputs), changed

    @functools.partial(jax.jit, static_argnums=0)
    def passes(function, variables, images):
        def loss(params, images):
            outputs, changed = function({**variables, "params": params}, images)
            real = outputs[:6]
            return jnp.sum(jnp.sin(real) * jnp.arange(1.0, real.size + 1).reshape(real.shape)), (
                real,
                changed,
            )

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(variables["params"], images)

    # A scale of exactly 0 makes all values of its channel ties: its images' gradient is 0 anyway.
    found, expected = passes(fused, variables, images), passes(plain, variables, images)
    np.testing.assert_allclose(found[0][0], expected[0][0], rtol=1e-4)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
        (found[0][1], found[1][1], found[1][0]["bias"], found[1][0]["scale"][jnp.array([0, 1, 3])]),
        (
            expected[0][1],
            expected[1][1],
            expected[1][0]["bias"],
            expected[1][0]["scale"][jnp.array([0, 1, 3])],
        ),
    )


def test_crop_takes_the_border_off(variables):
    bordered = jnp.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=9.0)
    np.testing.assert_array_equal(
        _infer(SMALL(crop=2), variables, bordered), _infer(SMALL(crop=0), variables, IMAGES)
    )


def test_masked_batch_equals_the_batch_without_its_padding(variables):
    padded = jnp.concatenate([IMAGES, jnp.full((2, 8, 8, 2), 100.0)])
    mask = jnp.arange(8) < 6

    @jax.jit
    def compute(variables, images, mask):
        def loss(params):
            logits, changed = _train(SMALL(), {**variables, "params": params}, images, mask)
            return jnp.sum(jnp.sin(logits[:6])), (logits[:6], changed)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
        compute(variables, padded, mask),
        compute(variables, IMAGES, None),
    )


def test_running_statistics_move_by_the_momentum_in_training_only(variables):
    _, changed = _train(SMALL(), variables, IMAGES)
    conv = nn.Conv(6, (5, 5), use_bias=False)
    first = conv.apply({"params": variables["params"]["Conv_0"]}, IMAGES)
    np.testing.assert_allclose(
        changed["batch_stats"]["BatchNorm_0"]["mean"],
        BATCH_NORM_MOMENTUM * variables["batch_stats"]["BatchNorm_0"]["mean"]
        + (1 - BATCH_NORM_MOMENTUM) * first.mean(axis=(0, 1, 2)),
        rtol=1e-4,
        atol=1e-5,
    )
    infer = functools.partial(SMALL().apply, train=False, mutable=["batch_stats"])
    _, unchanged = jax.jit(infer)(variables, IMAGES)
    jax.tree.map(np.testing.assert_array_equal, unchanged["batch_stats"], variables["batch_stats"])


def test_running_statistics_get_no_gradient_in_inference(variables):
    def total(variables):
        return jnp.sum(_infer(SMALL(), variables, IMAGES) ** 2)

    gradients = jax.jit(jax.grad(total))(variables)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients["batch_stats"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients["params"]))


def test_initial_variables_do_not_depend_on_the_mode():
    key = jax.random.key(0)
    shapes = [
        jax.eval_shape(functools.partial(SMALL().init, train=train), key, IMAGES)
        for train in (False, True)
    ]
    assert shapes[0] == shapes[1]


def test_regularizers_act_in_training_only(variables):
    strong = SMALL(regularizers=Regularizers(dropout=0.5, hidden_noise=0.5))
    rngs = {"dropout": jax.random.key(0), "noise": jax.random.key(1)}
    np.testing.assert_array_equal(
        _infer(strong, variables, IMAGES), _infer(SMALL(), variables, IMAGES)
    )
    names = jax.make_jaxpr(lambda rngs: _train(strong, variables, IMAGES, rngs=rngs))(rngs)
    assert str(names).count("random_bits") == 2 * 4  # two regularisers after four hidden layers


def test_features_are_refused():
    with pytest.raises(InputError, match=r"needs images \[n height width channels\]"):
        _shapes(AlexNet(10), jnp.zeros((1, 32)))


@pytest.mark.parametrize("shape", [(12, 32, 3), (8, 8, 1)])
def test_images_too_small_are_refused(shape):
    with pytest.raises(InputError, match=r"too small.*at least 13"):
        _shapes(AlexNet(10), jnp.zeros((1, *shape)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width_factor": 0}, "width_factor"),
        ({"width_factor": float("nan")}, "width_factor"),
        ({"crop": -1}, "crop"),
        ({"pool": 0}, "pool"),
        ({"method": "fft"}, "method"),
        ({"initialization": "zeros"}, "initialization"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        AlexNet(10, **fields)
