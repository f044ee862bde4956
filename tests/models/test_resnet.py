"""Residual networks: counts of the literature, and numpy's own convolutions and statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.errors import InputError
from memjax.models.normalization import BATCH_NORM_MOMENTUM
from memjax.models.registry import build_model, num_params
from memjax.models.regularizers import Regularizers
from memjax.models.resnet import ResNet, WideResNet
from memjax.runtime.flops import count_flops

TINY = functools.partial(ResNet, num_classes=3, depth=10, width_factor=1 / 32)
WIDE = functools.partial(WideResNet, num_classes=3, depth=10, width_factor=0.25)
IMAGES = jax.random.normal(jax.random.key(1), (5, 8, 8, 2))


def _shapes(model, images):
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), images)


def _centred(variables):
    """Kernels of both signs, so that ReLUs cut something off."""
    return {
        **variables,
        "params": jax.tree.map(
            lambda leaf: leaf - 0.6 if leaf.ndim > 1 else leaf, variables["params"]
        ),
    }


@pytest.fixture(scope="module")
def variables(random_variables):
    return _centred(random_variables(TINY(), IMAGES))


@functools.partial(jax.jit, static_argnums=0)
def _train(model, variables, images, mask=None):
    return model.apply(variables, images, train=True, mask=mask, mutable=["batch_stats"])


@functools.partial(jax.jit, static_argnums=0)
def _infer(model, variables, images):
    return model.apply(variables, images, train=False)


@pytest.mark.parametrize(
    ("name", "fields", "count"),
    [
        ("resnet", {}, 11_173_962),
        ("resnet", {"norm": "group"}, 11_173_962),
        ("resnet", {"depth": 34}, 21_282_122),
        ("wide_resnet", {}, 36_479_194),
        ("wide_resnet", {"depth": 16, "width_factor": 4}, 2_748_890),
    ],
)
def test_parameters_are_those_of_the_literature(name, fields, count):
    model = build_model(name, 10, **fields)
    assert num_params(_shapes(model, jnp.zeros((1, 32, 32, 3)))) == count


# Patches of a 3x3 kernel without stride serve two pixels, and are 4 wide instead of 3.
@pytest.mark.parametrize(("method", "thirds"), [("lax", 3), ("patches", 4)])
def test_resnet_18_multiplies_as_often_as_the_sum_over_its_layers(method, thirds):
    model, images = ResNet(10, method=method), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    stem, same = 32**2 * 3 * thirds * 3 * 64, 32**2 * 3 * thirds * 64**2
    strided = 16**2 * 9 * 64 * 128 + 16**2 * 64 * 128
    halving = strided + 3 * 16**2 * 3 * thirds * 128**2
    forward = functools.partial(model.apply, train=False)
    found = count_flops(forward, _shapes(model, images), images)
    assert found == 2 * (stem + 4 * same + 3 * halving + 512 * 10)
    if method == "lax":
        assert found == 2 * 555_422_720


def _numpy_conv(x, kernel, stride):
    size, pad = kernel.shape[0], kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    out = [(x.shape[axis] - size) // stride + 1 for axis in (1, 2)]
    total = 0.0
    for row in range(size):
        for column in range(size):
            rows = slice(row, row + (out[0] - 1) * stride + 1, stride)
            columns = slice(column, column + (out[1] - 1) * stride + 1, stride)
            total = total + x[:, rows, columns] @ kernel[row, column]
    return total


def _numpy_resnet(variables, images, train):
    """ResNet-10 in float64, and the statistics of every normalisation that it passed."""
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)

    def norm(x, params, statistics):
        axes = tuple(range(x.ndim - 1))
        mean, var = statistics["mean"], statistics["var"]
        if train:
            mean, var = x.mean(axes), x.var(axes)
        return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]

    def layer(x, params, statistics, index, stride):
        x = _numpy_conv(x, params[f"Conv_{index}"]["kernel"], stride)
        name = f"BatchNorm_{index}"
        return norm(x, params[name], statistics[name])

    params, statistics = variables["params"], variables["batch_stats"]
    x = np.maximum(layer(np.asarray(images, np.float64), params, statistics, 0, 1), 0)
    for block, stride in enumerate((1, 2, 2, 2)):
        inside = params[f"BasicBlock_{block}"], statistics[f"BasicBlock_{block}"]
        y = np.maximum(layer(x, *inside, 0, stride), 0)
        y = layer(y, *inside, 1, 1)
        shortcut = layer(x, *inside, 2, stride) if block else x
        x = np.maximum(y + shortcut, 0)
    return x.mean((1, 2)) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


@pytest.mark.parametrize("method", ["auto", "lax"])
def test_logits_equal_numpys_in_inference_and_in_training(variables, method):
    model = TINY(method=method)
    np.testing.assert_allclose(
        _infer(model, variables, IMAGES), _numpy_resnet(variables, IMAGES, False), rtol=1e-4
    )
    logits, _ = _train(model, variables, IMAGES)
    np.testing.assert_allclose(logits, _numpy_resnet(variables, IMAGES, True), rtol=1e-3, atol=1e-4)


def test_statistics_of_the_batch_become_running_ones_by_the_momentum(variables):
    _, changed = _train(TINY(), variables, IMAGES)
    kernel = np.asarray(variables["params"]["Conv_0"]["kernel"])
    first = _numpy_conv(np.asarray(IMAGES), kernel, 1)
    before = variables["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(
        changed["batch_stats"]["BatchNorm_0"]["mean"],
        BATCH_NORM_MOMENTUM * before + (1 - BATCH_NORM_MOMENTUM) * first.mean((0, 1, 2)),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("make", [TINY, WIDE], ids=["resnet", "wide_resnet"])
def test_padding_is_left_out_of_the_statistics(make, random_variables):
    variables = _centred(random_variables(make(), IMAGES))
    padded = jnp.concatenate([IMAGES, jnp.full((3, 8, 8, 2), 100.0)])
    logits, changed = _train(make(), variables, padded, jnp.arange(8) < 5)
    expected, alone = _train(make(), variables, IMAGES)
    np.testing.assert_allclose(logits[:5], expected, rtol=1e-3, atol=1e-3)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), changed, alone
    )


@pytest.mark.parametrize("make", [TINY, WIDE], ids=["resnet", "wide_resnet"])
def test_running_statistics_get_no_gradient_and_parameters_do(make, random_variables):
    variables = _centred(random_variables(make(), IMAGES))
    gradients = jax.jit(jax.grad(lambda v: jnp.sum(_infer(make(), v, IMAGES) ** 2)))(variables)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients["batch_stats"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients["params"]))


def test_group_norm_has_no_statistics_and_never_mixes_examples(random_variables):
    model = TINY(norm="group", width_factor=1 / 16)
    variables = _centred(random_variables(model, IMAGES))
    assert set(variables) == {"params"}
    together, _ = _train(model, variables, IMAGES)
    others_changed, _ = _train(model, variables, IMAGES.at[:2].set(9.0))
    np.testing.assert_array_equal(together[2:], others_changed[2:])
    assert not np.allclose(together[:2], others_changed[:2])


def test_wide_resnet_equals_its_layers_put_together(random_variables):
    model = WIDE(norm="group")
    params = _centred(random_variables(model, IMAGES))["params"]

    def norm(x, layer):
        """Two channels a group, then ReLU."""
        groups = x.reshape(*x.shape[:3], -1, 2)
        mean, var = (f(groups, axis=(1, 2, 4), keepdims=True) for f in (np.mean, np.var))
        x = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
        return np.maximum(x * np.asarray(layer["scale"]) + np.asarray(layer["bias"]), 0)

    def conv(x, layer, stride=1):
        return _numpy_conv(x, np.asarray(layer["kernel"], float), stride)

    x = conv(np.asarray(IMAGES, float), params["Conv_0"])
    assert x.shape[-1] == 16
    for block, stride in enumerate((1, 2, 2)):
        inside = params[f"WideBlock_{block}"]
        first = norm(x, inside["GroupNorm_0"])
        y = norm(conv(first, inside["Conv_0"], stride), inside["GroupNorm_1"])
        x = conv(y, inside["Conv_1"]) + conv(first, inside["Conv_2"], stride)
    x = norm(x, params["GroupNorm_0"]).mean((1, 2))
    expected = x @ np.asarray(params["Dense_0"]["kernel"]) + np.asarray(params["Dense_0"]["bias"])
    logits = _infer(model, {"params": params}, IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("make", "blocks"), [(TINY, 4), (WIDE, 3)], ids=["resnet", "wide_resnet"])
def test_regularizers_act_in_every_block_and_in_training_only(make, blocks):
    model = make(regularizers=Regularizers(dropout=0.5), norm="group")
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _shapes(model, IMAGES))

    def text(train):
        rngs = {"dropout": jax.random.key(0)}
        call = functools.partial(model.apply, train=train, rngs=rngs)
        return str(jax.make_jaxpr(call)(variables, IMAGES))

    assert text(True).count("random_fold_in") == blocks
    assert "random_fold_in" not in text(False)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnet", {"depth": 50}, "depth=50: must be one of 10, 18, 34"),
        ("wide_resnet", {"depth": 27}, "depth=27.*28"),
        ("resnet", {"width_factor": 0.0}, "width_factor"),
        ("resnet", {"norm": "layer"}, "norm='layer': must be one of batch, group"),
        ("resnet", {"method": "fft"}, "method"),
        ("resnet", {"initialization": "zeros"}, "initialization"),
    ],
)
def test_fields_out_of_range_are_refused(name, fields, message):
    with pytest.raises(InputError, match=message):
        build_model(name, 10, **fields)


def test_examples_that_are_no_images_are_refused():
    with pytest.raises(InputError, match="must be images"):
        _shapes(ResNet(10), jnp.zeros((1, 64)))
