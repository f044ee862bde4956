"""The table of the docs: architectures whose gradient norms were compared with a plain loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from memjax.analysis.gradients import gradient_norms
from memjax.analysis.jacobians import parameter_jacobian_norms
from memjax.analysis.losses import softmax_cross_entropy

pytestmark = pytest.mark.campaign

CLASSES, NUM = 3, 3
SHAPE = (4, 4, 2)
KEY = jax.random.key(0)


class Case(NamedTuple):
    logits_fn: Callable
    params: Any
    images: jax.Array


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def moved(tree):
    """No leaf stays at 0 or 1, where a wrong gradient could hide."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(1)
    return structure.unflatten(
        [
            leaf + 0.1 * np.abs(rng.normal(size=leaf.shape)).astype(leaf.dtype)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else leaf
            for leaf in leaves
        ]
    )


def linen(module, images=None):
    images = normal(0, NUM, *SHAPE) if images is None else images
    params = jax.jit(module.init)(KEY, images)

    def logits_fn(params, images):
        frozen = {k: jax.lax.stop_gradient(v) for k, v in params.items() if k != "params"}
        return module.apply({"params": params["params"], **frozen}, images)

    return Case(logits_fn, moved(params), images)


def of_nnx(module, images=None):
    module.eval()
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def logits_fn(params, images):
        return nnx.merge(graph, params, rest)(images)

    return Case(logits_fn, moved(params), normal(0, NUM, *SHAPE) if images is None else images)


def of_equinox(module, images):
    """As equinox is used: written for one example, vmapped over the batch."""
    params, static = eqx.partition(module, eqx.is_inexact_array)

    def logits_fn(params, images):
        return jax.vmap(eqx.combine(params, static))(images)

    return Case(logits_fn, moved(params), images)


class LinenMLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(6)(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES)(nn.relu(nn.Dense(5)(x)))


class LinenCNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
        x = nn.relu(nn.Conv(3, (2, 2), padding="VALID")(x))
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


class LinenResNet(nn.Module):
    norm: str

    @nn.compact
    def __call__(self, x):
        def normalised(x):
            if self.norm == "batch":
                return nn.BatchNorm(use_running_average=True)(x)
            return nn.GroupNorm(num_groups=2)(x)

        x = nn.relu(normalised(nn.Conv(4, (3, 3), use_bias=False)(x)))
        y = nn.relu(normalised(nn.Conv(4, (3, 3), use_bias=False)(x)))
        y = normalised(nn.Conv(4, (3, 3), use_bias=False)(y))
        return nn.Dense(CLASSES)(nn.relu(x + y).mean((1, 2)))


class LinenViT(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (2, 2), strides=(2, 2))(x).reshape(len(x), -1, 6)
        token = self.param("class_token", nn.initializers.normal(), (1, 1, 6))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 6)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(), (1, 5, 6))
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        y = nn.Dense(6)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))
        return nn.Dense(CLASSES)(nn.RMSNorm()(x + y)[:, 0])


class LinenMixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6)(x.reshape(len(x), 4, -1))
        y = nn.LayerNorm()(x).swapaxes(1, 2)
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(5)(y))).swapaxes(1, 2)
        x = x + nn.Dense(6)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))
        return nn.Dense(CLASSES)(x.mean(1))


class LinenLSTM(nn.Module):
    @nn.compact
    def __call__(self, x):
        hidden = nn.RNN(nn.OptimizedLSTMCell(5))(x.reshape(len(x), 4, -1))
        return nn.Dense(CLASSES)(hidden[:, -1])


class LinenScanned(nn.Module):
    """Layers stacked by nn.scan, each behind remat."""

    @nn.compact
    def __call__(self, x):
        class Layer(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return x + nn.Dense(6)(jnp.tanh(nn.LayerNorm()(x))), None

        x = nn.Dense(6)(x.reshape(len(x), -1))
        layers = nn.scan(
            nn.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = layers()(x, None)
        return nn.Dense(CLASSES)(x)


class LinenMoE(nn.Module):
    """Every token goes to one of three experts, by a gate of its own."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(5)(x.reshape(len(x), 4, -1))
        gates = jax.nn.softmax(nn.Dense(3, use_bias=False)(x))
        best = jax.nn.one_hot(jnp.argmax(gates, -1), 3) * gates
        experts = self.param("experts", nn.initializers.normal(0.5), (3, 5, 5))
        x = jnp.einsum("nte,ntf,efg->ntg", best, x, experts)
        return nn.Dense(CLASSES)(jnp.tanh(x).mean(1))


class LinenText(nn.Module):
    """An embedding, its attention, and logits by the same table."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(7, 6)
        x = embed(tokens)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        return embed.attend(x.mean(1))[:, :CLASSES]


class NnxCNN(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Conv(4, 3, (3, 3), rngs=rngs)
        self.last = nnx.Linear(3, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(nnx.relu(self.norm(self.first(x))))
        return self.last(nnx.relu(self.second(x)).mean((1, 2)))


class NnxLSTM(nnx.Module):
    def __init__(self, rngs):
        self.cell = nnx.RNN(nnx.OptimizedLSTMCell(8, 5, rngs=rngs))
        self.last = nnx.Linear(5, CLASSES, rngs=rngs)

    def __call__(self, x):
        carry = (jnp.zeros((len(x), 5)), jnp.zeros((len(x), 5)))  # by default, a draw of its own
        return self.last(self.cell(x.reshape(len(x), 4, -1), initial_carry=carry)[:, -1])


class NnxTransformer(nnx.Module):
    def __init__(self, rngs):
        self.patches = nnx.Linear(8, 6, rngs=rngs)
        self.norm = nnx.LayerNorm(6, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs)
        self.low_rank = nnx.LoRA(
            6, 2, CLASSES, base_module=nnx.Linear(6, CLASSES, rngs=rngs), rngs=rngs
        )

    def __call__(self, x):
        x = self.patches(x.reshape(len(x), 4, -1))
        x = x + self.attention(self.norm(x))
        return self.low_rank(x.mean(1))


class EquinoxCNN(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    last: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 2)
        self.conv = eqx.nn.Conv2d(2, 4, 3, key=keys[0])
        self.norm = eqx.nn.GroupNorm(2, 4)
        self.last = eqx.nn.Linear(4, CLASSES, key=keys[1])

    def __call__(self, image):
        return self.last(jnp.tanh(self.norm(self.conv(image))).mean((1, 2)))


class EquinoxViews(eqx.Module):
    """A convolution vmapped over the views of one example."""

    conv: eqx.nn.Conv2d
    last: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 2)
        self.conv = eqx.nn.Conv2d(2, 4, 3, key=keys[0])
        self.last = eqx.nn.Linear(4, CLASSES, key=keys[1])

    def __call__(self, views):
        hidden = jnp.tanh(jax.vmap(self.conv)(views))
        return self.last(hidden.mean((0, 2, 3)))


class EquinoxGRU(eqx.Module):
    cell: eqx.nn.GRUCell
    last: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 2)
        self.cell = eqx.nn.GRUCell(8, 5, key=keys[0])
        self.last = eqx.nn.Linear(5, CLASSES, key=keys[1])

    def __call__(self, image):
        frames = image.reshape(4, -1)
        hidden, _ = jax.lax.scan(lambda h, x: (self.cell(x, h), None), jnp.zeros(5), frames)
        return self.last(hidden)


class EquinoxAttention(eqx.Module):
    patches: eqx.nn.Linear
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    last: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.patches = eqx.nn.Linear(8, 6, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(2, 6, key=keys[1])
        self.norm = eqx.nn.LayerNorm(6)
        self.last = eqx.nn.MLP(6, CLASSES, 5, 1, key=keys[2])

    def __call__(self, image):
        x = jax.vmap(self.patches)(image.reshape(4, -1))
        y = jax.vmap(self.norm)(x)
        return self.last((x + self.attention(y, y, y)).mean(0))


def plain_mlp():
    def logits_fn(params, images):
        hidden = images.reshape(len(images), -1)
        for kernel, bias in params[:-1]:
            hidden = jax.nn.gelu(hidden @ kernel + bias)
        return hidden @ params[-1][0] + params[-1][1]

    sizes = [(32, 6), (6, 5), (5, CLASSES)]
    params = [(0.3 * normal(i, *s), normal(9 + i, 1, s[1])) for i, s in enumerate(sizes)]
    return Case(logits_fn, params, normal(0, NUM, *SHAPE))


def plain_low_rank():
    """Frozen kernels with LoRA's two factors beside each; the frozen ones count nothing."""

    def logits_fn(params, images):
        frozen = jax.lax.stop_gradient(params["frozen"])
        hidden = images.reshape(len(images), -1)
        hidden = jnp.tanh(hidden @ frozen + 2.0 * (hidden @ params["down"]) @ params["up"])
        return hidden @ params["last"]

    params = {
        "frozen": 0.3 * normal(1, 32, 6),
        "down": 0.3 * normal(2, 32, 2),
        "up": normal(3, 2, 6),
        "last": normal(4, 6, CLASSES),
    }
    return Case(logits_fn, params, normal(0, NUM, *SHAPE))


def plain_low_rank_merged():
    """LoRA as one kernel that is computed from its factors before it meets an example."""

    def logits_fn(params, images):
        kernel = params["frozen"] + params["down"] @ params["up"]
        return jnp.tanh(images.reshape(len(images), -1) @ kernel) @ params["last"]

    _, params, images = plain_low_rank()
    return Case(logits_fn, params, images)


def plain_weight_norm():
    def logits_fn(params, images):
        length = jnp.sqrt(jnp.sum(params["kernel"] ** 2, axis=0, keepdims=True))
        kernel = params["gain"] * params["kernel"] / length
        return jnp.tanh(images.reshape(len(images), -1) @ kernel) @ params["last"]

    params = {
        "kernel": 0.3 * normal(1, 32, 6),
        "gain": normal(2, 1, 6),
        "last": normal(4, 6, CLASSES),
    }
    return Case(logits_fn, params, normal(0, NUM, *SHAPE))


def channels_first(*shape):
    return normal(0, NUM, *shape)


ARCHITECTURES = {
    "linen MLP": lambda: linen(LinenMLP()),
    "linen CNN": lambda: linen(LinenCNN()),
    "linen ResNet, BatchNorm in inference": lambda: linen(LinenResNet("batch")),
    "linen ResNet, GroupNorm": lambda: linen(LinenResNet("group")),
    "linen ViT": lambda: linen(LinenViT()),
    "linen MLP-Mixer": lambda: linen(LinenMixer()),
    "linen LSTM": lambda: linen(LinenLSTM()),
    "linen scanned layers behind remat": lambda: linen(LinenScanned()),
    "linen mixture of experts": lambda: linen(LinenMoE()),
    "linen tied embedding with attention": lambda: linen(
        LinenText(), jnp.asarray(np.random.default_rng(0).integers(0, 7, (NUM, 5)))
    ),
    "nnx CNN, BatchNorm and dropout in inference": lambda: of_nnx(NnxCNN(nnx.Rngs(0))),
    "nnx LSTM": lambda: of_nnx(NnxLSTM(nnx.Rngs(0))),
    "nnx attention with LoRA": lambda: of_nnx(NnxTransformer(nnx.Rngs(0))),
    "equinox MLP": lambda: of_equinox(eqx.nn.MLP(8, CLASSES, 5, 2, key=KEY), channels_first(8)),
    "equinox CNN, GroupNorm": lambda: of_equinox(EquinoxCNN(KEY), channels_first(2, 4, 4)),
    "equinox CNN over views": lambda: of_equinox(EquinoxViews(KEY), channels_first(3, 2, 4, 4)),
    "equinox GRU": lambda: of_equinox(EquinoxGRU(KEY), channels_first(*SHAPE)),
    "equinox attention": lambda: of_equinox(EquinoxAttention(KEY), channels_first(*SHAPE)),
    "plain MLP": plain_mlp,
    "plain LoRA": plain_low_rank,
    "plain LoRA, merged": plain_low_rank_merged,
    "plain weight normalisation": plain_weight_norm,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_norms_and_jacobians_equal_a_plain_loop(architecture):
    logits_fn, params, images = architecture()
    labels = np.arange(NUM) % CLASSES
    floats, structure = jax.tree.flatten(params)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in floats)

    @jax.jit
    def loop_norms(image, label):
        def outputs(params):
            logits = logits_fn(params, image[None])[0]
            return jnp.append(logits, softmax_cross_entropy(logits, label))

        jacobians = jax.jacrev(outputs)(params)
        squares = [(j.reshape(CLASSES + 1, -1) ** 2).sum(1) for j in jax.tree.leaves(jacobians)]
        return jnp.sqrt(jnp.stack(squares))  # [leaves classes + 1]

    expected = np.stack([loop_norms(*pair) for pair in zip(images, labels, strict=True)])
    by_leaf = gradient_norms(logits_fn, params, images, labels, by_leaf=True)
    assert jax.tree.structure(by_leaf) == structure
    actual = np.stack(jax.tree.leaves(by_leaf), axis=1)
    np.testing.assert_allclose(actual, expected[:, :, -1], rtol=1e-4, atol=1e-6)
    norms = gradient_norms(logits_fn, params, images, labels)
    np.testing.assert_allclose(norms, np.linalg.norm(expected[:, :, -1], axis=1), rtol=1e-5)
    jacobians = parameter_jacobian_norms(logits_fn, params, images)
    np.testing.assert_allclose(jacobians, np.linalg.norm(expected[..., :-1], axis=1), rtol=1e-5)
