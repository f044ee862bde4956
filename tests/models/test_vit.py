"""The vision transformer against numpy, and its sizes against the literature."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.errors import InputError
from memjax.models.registry import build_model, num_params
from memjax.models.regularizers import Regularizers
from memjax.models.vit import ViT

TINY = functools.partial(ViT, num_classes=3, patch_size=4, width=8, depth=2, num_heads=2)
IMAGES = jax.random.normal(jax.random.key(1), (3, 8, 12, 2))


def _shapes(model, images):
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("size", "patch", "pool", "width"),
    [("tiny", 4, "class_token", 192), ("tiny", 8, "mean", 192), ("small", 4, "mean", 384)],
)
def test_parameters_are_those_of_the_closed_form(size, patch, pool, width):
    model = build_model("vit", 10, size=size, patch_size=patch, pool=pool)
    tokens = (32 // patch) ** 2 + (pool == "class_token")
    attention, perceptron = 4 * (width + 1) * width, 8 * width**2 + 5 * width
    expected = (
        (patch**2 * 3 + 1) * width
        + (tokens + (pool == "class_token")) * width
        + 12 * (attention + perceptron + 4 * width)
        + 2 * width
        + (width + 1) * 10
    )
    assert num_params(_shapes(model, jnp.zeros((1, 32, 32, 3)))) == expected


def _numpy_vit(params, images, pool, patch=4):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x, layer):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * layer["scale"] + layer["bias"]

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def gelu(x):
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def attend(x, layer):
        query, key, value = (
            np.einsum("td,dhk->thk", x, layer[name]["kernel"]) + layer[name]["bias"]
            for name in ("query", "key", "value")
        )
        scores = np.einsum("thk,shk->hts", query, key) / math.sqrt(query.shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        mixed = np.einsum("hts,shk->thk", shares, value)
        return np.einsum("thk,hkd->td", mixed, layer["out"]["kernel"]) + layer["out"]["bias"]

    def one(image):
        kernel = params["Patches"]["kernel"]
        tokens = [
            np.tensordot(image[row : row + patch, column : column + patch], kernel, 3)
            for row in range(0, image.shape[0], patch)
            for column in range(0, image.shape[1], patch)
        ]
        x = np.stack(tokens) + params["Patches"]["bias"]
        if pool == "class_token":
            x = np.concatenate([params["class_token"][0], x])
        x = x + params["position_embedding"][0]
        for index in range(2):
            layer = params[f"Block_{index}"]
            x = x + attend(norm(x, layer["LayerNorm_0"]), layer["MultiHeadDotProductAttention_0"])
            y = gelu(dense(norm(x, layer["LayerNorm_1"]), layer["Dense_0"]))
            x = x + dense(y, layer["Dense_1"])
        x = norm(x, params["LayerNorm_0"])
        return dense(x[0] if pool == "class_token" else x.mean(0), params["Dense_0"])

    return np.stack([one(image) for image in np.asarray(images, np.float64)])


@pytest.mark.parametrize("pool", ["class_token", "mean"])
def test_logits_equal_numpys_one_image_at_a_time(pool, random_variables):
    model = TINY(pool=pool)
    params = random_variables(model, IMAGES)["params"]
    params = jax.tree.map(lambda leaf: leaf - 0.6, params)
    logits = jax.jit(functools.partial(model.apply, train=False))({"params": params}, IMAGES)
    np.testing.assert_allclose(logits, _numpy_vit(params, IMAGES, pool), rtol=2e-4, atol=2e-4)


def test_regularizers_act_in_training_only():
    model = TINY(regularizers=Regularizers(dropout=0.5, hidden_noise=0.1))
    variables = _shapes(model, IMAGES)

    def text(train):
        rngs = {"dropout": jax.random.key(0), "noise": jax.random.key(1)}
        call = functools.partial(model.apply, train=train, rngs=rngs)
        return str(jax.make_jaxpr(call)(variables, IMAGES))

    assert text(True).count("random_fold_in") == 2 * (1 + 2 * 3)
    assert "random_fold_in" not in text(False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": "huge"}, "size='huge': must be one of tiny, small"),
        ({"pool": "max"}, "pool"),
        ({"patch_size": 0}, "patch_size"),
        ({"depth": -1}, "depth=-1"),
        ({"width": 10, "num_heads": 4}, "num_heads=4: must divide the width, 10"),
    ],
)
def test_fields_out_of_range_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        build_model("vit", 10, **fields)


@pytest.mark.parametrize("shape", [(8, 10, 1), (64,)])
def test_images_that_the_patches_do_not_divide_are_refused(shape):
    with pytest.raises(InputError, match="patch_size=4: must divide"):
        _shapes(ViT(10), jnp.zeros((1, *shape)))
