"""Every kind of use of a parameter, against a Python loop over jax.grad."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.analysis._ghost.param_uses import find_param_uses
from memjax.analysis.gradients import gradient_norms
from memjax.analysis.losses import softmax_cross_entropy
from memjax.errors import InputError

NUM_CLASSES = 4


def normal(seed, *shape, scale=0.5):
    values = np.random.default_rng(seed).normal(scale=scale, size=shape)
    return jnp.asarray(values, jnp.float32)


def labels_of(images):
    return jnp.asarray(np.arange(len(images)) % NUM_CLASSES)


def loop_norms(logits_fn, params, images, labels):
    def loss(params, image, label):
        return softmax_cross_entropy(logits_fn(params, image[None])[0], label)

    gradient = jax.jit(jax.grad(loss))
    norms = []
    for image, label in zip(images, labels, strict=True):
        gradients = jax.tree.leaves(gradient(params, image, label))
        norms.append(np.sqrt(sum(np.sum(np.square(np.float64(g))) for g in gradients)))
    return np.array(norms)


def conv(images, kernel, **options):
    options = {"window_strides": (1, 1), "padding": "VALID", **options}
    return jax.lax.conv_general_dilated(
        images, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


def conv_model(kernel_shape, **options):
    def logits_fn(params, images):
        hidden = conv(images, params["kernel"], **options) + params["bias"].reshape(1, 1, 1, -1)
        return jnp.tanh(hidden).mean((1, 2)) @ params["last"]

    features = kernel_shape[-1]
    params = {
        "kernel": normal(1, *kernel_shape),
        "bias": normal(2, features),
        "last": normal(3, features, NUM_CLASSES),
    }
    return logits_fn, params, normal(4, 5, 9, 10, 4)


def mlp():
    """A tuple of plain arrays, as equinox modules are to jax."""

    def logits_fn(params, images):
        hidden = images.reshape(len(images), -1)
        for kernel, bias in params[:-1]:
            product = jax.lax.dot_general(kernel, hidden, (((1,), (1,)), ((), ())))
            hidden = jax.nn.relu(product.T + bias)
        kernel, bias = params[-1]
        return hidden @ kernel.T + bias

    sizes = [12, 9, 7, NUM_CLASSES]
    params = tuple(
        (normal(i, size, previous), normal(10 + i, 1, size))
        for i, (previous, size) in enumerate(itertools.pairwise(sizes))
    )
    return logits_fn, params, normal(5, 6, 4, 3)


class FlaxNetwork(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = nn.Conv(6, (3, 3), strides=2)(images)
        hidden = nn.relu(nn.BatchNorm(use_running_average=True)(hidden))
        hidden = nn.max_pool(hidden, (2, 2), (2, 2))
        hidden = nn.gelu(nn.LayerNorm()(nn.Dense(8)(hidden)))
        return nn.Dense(NUM_CLASSES)(hidden.reshape(len(hidden), -1))


FLAX_NETWORK = FlaxNetwork()


def flax_network():
    @jax.jit
    def logits_fn(variables, images):
        statistics = jax.lax.stop_gradient(variables["batch_stats"])
        return jax.checkpoint(FLAX_NETWORK.apply)(
            {"params": variables["params"], "batch_stats": statistics}, images
        )

    images = normal(6, 5, 9, 9, 2)
    variables = jax.jit(FLAX_NETWORK.init)(jax.random.key(7), images)
    leaves, structure = jax.tree.flatten(variables)
    leaves = [leaf + abs(normal(i, *leaf.shape)) for i, leaf in enumerate(leaves)]
    return logits_fn, jax.tree.unflatten(structure, leaves), images


def recurrent():
    """One kernel, used at every step of an unrolled network."""

    def logits_fn(params, images):
        hidden = jnp.zeros((len(images), 5))
        for step in range(images.shape[1]):
            hidden = jnp.tanh(images[:, step] @ params["in"] + hidden @ params["kernel"])
        return hidden @ params["last"]

    params = {"in": normal(1, 3, 5), "kernel": normal(2, 5, 5), "last": normal(3, 5, NUM_CLASSES)}
    return logits_fn, params, normal(4, 6, 4, 3)


def tied():
    """One kernel, used as itself and as its transpose, with opposite signs."""

    def logits_fn(params, images):
        hidden = jnp.tanh(images @ params["kernel"])
        return (images - 3.0 * hidden @ -params["kernel"].T) @ params["last"]

    params = {"kernel": normal(1, 6, 5), "last": normal(2, 6, NUM_CLASSES)}
    return logits_fn, params, normal(3, 5, 6)


def positions():
    def logits_fn(params, images):
        hidden = jnp.tanh(jnp.einsum("nsf,fhd->hnsd", images, params["kernel"]))
        hidden = jnp.einsum("hnsd,hdk->nsk", hidden, params["heads"])
        return jnp.tanh(hidden * params["scale"] / 2.0).mean(1) @ (0.3 * params["last"])

    params = {
        "kernel": normal(1, 6, 2, 3),
        "heads": normal(2, 2, 3, 5),
        "scale": normal(3, 1, 1, 5),
        "last": normal(4, 5, NUM_CLASSES),
    }
    return logits_fn, params, normal(5, 4, 7, 6)


def scanned(reverse=False):
    """Layers stacked along the first axis of one leaf, with an offset each."""

    def logits_fn(params, images):
        def step(hidden, layer):
            return jnp.tanh(hidden @ layer["kernel"] + layer["bias"]), None

        layers = {"kernel": params["kernels"], "bias": params["biases"]}
        return jax.lax.scan(step, images, layers, reverse=reverse)[0] @ params["last"]

    params = {
        "kernels": normal(1, 3, 6, 6),
        "biases": normal(4, 3, 1, 6),
        "last": normal(2, 6, NUM_CLASSES),
    }
    return logits_fn, params, normal(3, 4, 6)


def scanned_convolutions():
    def logits_fn(params, images):
        def step(hidden, kernel):
            return jnp.tanh(conv(hidden, kernel, padding="SAME")), None

        hidden, _ = jax.lax.scan(step, images, params["kernels"])
        return hidden.mean((1, 2)) @ params["last"]

    params = {"kernels": normal(1, 2, 3, 3, 2, 2), "last": normal(2, 2, NUM_CLASSES)}
    return logits_fn, params, normal(3, 4, 5, 5, 2)


def scanned_over_time():
    """One kernel at every step of a scan, and once more outside of it; a learned first state."""

    def logits_fn(params, images):
        def step(hidden, frame):
            return jnp.tanh(frame @ params["in"] + hidden @ params["kernel"]), None

        first = jnp.broadcast_to(params["first"], (len(images), 5))
        hidden, _ = jax.lax.scan(step, first, images.swapaxes(0, 1))
        return jnp.tanh(hidden @ params["kernel"]) @ params["last"]

    params = {
        "in": normal(1, 3, 5),
        "kernel": normal(2, 5, 5),
        "first": normal(5, 1, 5),
        "last": normal(3, 5, NUM_CLASSES),
    }
    return logits_fn, params, normal(4, 6, 4, 3)


def embedding(length=3):
    """A table, some of whose rows are taken twice; every position beyond it takes nothing."""

    def logits_fn(params, images):
        hidden = params["kernel"].at[images].get(mode="fill", fill_value=0.0)
        return jnp.tanh(hidden.sum(1)) @ params["last"]

    params = {"kernel": normal(1, 9, 5), "last": normal(2, 5, NUM_CLASSES)}
    images = np.random.default_rng(0).integers(0, 11, (4, length))
    images[:, 1] = images[:, 0]
    return logits_fn, params, jnp.asarray(images)


def embedding_tied_to_the_logits():
    def logits_fn(params, images):
        hidden = jnp.tanh(params["table"][images].sum(1) @ params["kernel"])
        return hidden @ params["table"].T

    params = {"table": normal(1, 7, 5), "kernel": normal(2, 5, 5)}
    return logits_fn, params, jnp.arange(12).reshape(4, 3) % 7


def views_folded_into_the_batch(**options):
    """Each example is three views, convolved as if they were a larger batch."""

    def logits_fn(params, images):
        folded = images.reshape(-1, *images.shape[2:])
        hidden = jnp.tanh(conv(folded, params["kernel"], **options))
        hidden = hidden.reshape(*images.shape[:2], *hidden.shape[1:])
        return hidden.mean((1, 2, 3)) @ params["last"]

    params = {"kernel": normal(1, 3, 3, 2, 8), "last": normal(2, 8, NUM_CLASSES)}
    return logits_fn, params, normal(3, 4, 3, 5, 6, 2)


def twice_convolved():
    def logits_fn(params, images):
        hidden = jnp.tanh(conv(images, params["kernel"], padding="SAME"))
        return conv(hidden, params["kernel"]).mean((1, 2)) @ params["last"]

    params = {"kernel": normal(1, 3, 3, 2, 2), "last": normal(2, 2, NUM_CLASSES)}
    return logits_fn, params, normal(3, 4, 6, 6, 2)


KNOWN = {
    "mlp": mlp,
    "flax network with BatchNorm, LayerNorm, max pool, remat": flax_network,
    "unrolled recurrent network": recurrent,
    "kernel tied to its transpose": tied,
    "positions and heads": positions,
    "layers of a scan": scanned,
    "layers of a scan from the last to the first": lambda: scanned(reverse=True),
    "convolutions of a scan": scanned_convolutions,
    "recurrence of a scan": scanned_over_time,
    "embedding": embedding,
    "embedding of a long text": lambda: embedding(length=12),
    "embedding tied to the logits": embedding_tied_to_the_logits,
    "conv over views": views_folded_into_the_batch,
    "conv over views, strided": lambda: views_folded_into_the_batch(window_strides=(2, 2)),
    "conv": lambda: conv_model((3, 3, 4, 6)),
    "conv of few channels": lambda: conv_model((2, 3, 4, 16), padding=[(1, 2), (0, 1)]),
    "conv strided and dilated": lambda: conv_model(
        (3, 2, 4, 6), window_strides=(2, 3), rhs_dilation=(2, 1), padding="SAME"
    ),
    "conv in groups": lambda: conv_model((3, 3, 2, 6), feature_group_count=2),
    "conv depthwise": lambda: conv_model((3, 3, 1, 8), feature_group_count=4),
    "conv transposed": lambda: conv_model(
        (3, 3, 4, 6), lhs_dilation=(2, 2), padding=[(-1, 2), (1, 1)]
    ),
    "conv as wide as the image": lambda: conv_model((9, 10, 4, 6)),
    "conv of 1x1": lambda: conv_model((1, 1, 4, 6)),
}


@pytest.mark.parametrize("model", KNOWN.values(), ids=KNOWN)
def test_ghost_norms_equal_a_loop_over_grad(model):
    logits_fn, params, images = model()
    labels = labels_of(images)
    ghost = gradient_norms(logits_fn, params, images, labels, method="ghost")
    assert ghost.dtype == jnp.float32
    np.testing.assert_allclose(ghost, loop_norms(logits_fn, params, images, labels), rtol=1e-5)


def test_a_kernel_of_two_convolutions_is_right_by_auto_and_refused_by_ghost():
    logits_fn, params, images = twice_convolved()
    labels = labels_of(images)
    norms = gradient_norms(logits_fn, params, images, labels)
    np.testing.assert_allclose(norms, loop_norms(logits_fn, params, images, labels), rtol=1e-5)
    with pytest.raises(InputError, match=r"params\['kernel'\] in several ways at once"):
        gradient_norms(logits_fn, params, images, labels, method="ghost")


def attention_from_param_products():
    """Queries and keys multiply two parameters with each other before they meet an example."""

    def logits_fn(params, images):
        product = params["query"] @ params["key"].T
        weights = jax.nn.softmax(jnp.einsum("nsf,fg,ntg->nst", images, product, images))
        return jnp.einsum("nst,ntf->nf", weights, images) @ params["last"]

    params = {"query": normal(1, 6, 3), "key": normal(2, 6, 3), "last": normal(3, 6, NUM_CLASSES)}
    return logits_fn, params, normal(4, 4, 5, 6), "dot_general"


def standardized_weights():
    def logits_fn(params, images):
        kernel = params["kernel"]
        kernel = (kernel - kernel.mean(0, keepdims=True)) / kernel.std(0, keepdims=True)
        return jnp.tanh(images @ kernel) @ params["last"]

    params = {"kernel": normal(1, 6, 5), "last": normal(2, 5, NUM_CLASSES)}
    return logits_fn, params, normal(3, 4, 6), "reduce_sum"


def custom_derivative():
    @jax.custom_vjp
    def product(images, kernel):
        return images @ kernel

    def forward(images, kernel):
        return images @ kernel, (images, kernel)

    def backward(residuals, cotangent):
        images, kernel = residuals
        return cotangent @ kernel.T, 2 * images.T @ cotangent

    product.defvjp(forward, backward)

    def logits_fn(params, images):
        return product(images, params["kernel"]) @ params["last"]

    params = {"kernel": normal(1, 6, 5), "last": normal(2, 5, NUM_CLASSES)}
    return logits_fn, params, normal(3, 4, 6), "custom_vjp_call"


UNKNOWN = [
    attention_from_param_products,
    standardized_weights,
    custom_derivative,
]


@pytest.mark.parametrize("model", UNKNOWN)
def test_auto_differentiates_only_the_unknown_leaves_example_by_example(model):
    logits_fn, params, images, primitive = model()
    labels = labels_of(images)
    uses = find_param_uses(logits_fn, params, images)
    assert primitive in uses.other.values()
    assert len(uses.kernels) >= 1
    np.testing.assert_allclose(
        gradient_norms(logits_fn, params, images, labels, method="auto"),
        loop_norms(logits_fn, params, images, labels),
        rtol=1e-5,
    )


@pytest.mark.parametrize("model", UNKNOWN)
def test_ghost_names_the_leaf_and_the_primitive_that_it_does_not_know(model):
    logits_fn, params, images, primitive = model()
    with pytest.raises(InputError, match=rf"params\['(kernel|kernels|key|query)'\].*{primitive}"):
        gradient_norms(logits_fn, params, images, labels_of(images), method="ghost")


def test_leaves_without_a_derivative_count_nothing():
    def logits_fn(params, images):
        scale = jax.lax.stop_gradient(params["scale"])
        mask = params["kernel"] > 0
        return (images * scale + params["steps"]) @ params["kernel"] + images @ mask

    params = {
        "kernel": normal(1, 6, NUM_CLASSES),
        "scale": normal(2, 1, 6),
        "steps": jnp.int32(3),
        "unused": normal(3, 7),
    }
    images = normal(4, 5, 6)
    floats = {"kernel": params["kernel"]}

    def logits_of_kernel(floats, images):
        return logits_fn({**params, **floats}, images)

    uses = find_param_uses(logits_fn, params, images)
    assert set(uses.kernels) == {0}
    assert not uses.elementwise | uses.shared | uses.other.keys()
    for method in ("ghost", "vmap"):
        np.testing.assert_allclose(
            gradient_norms(logits_fn, params, images, labels_of(images), method=method),
            loop_norms(logits_of_kernel, floats, images, labels_of(images)),
            rtol=1e-5,
        )


def test_a_parameter_that_is_the_logits_counts():
    def logits_fn(params, images):
        return jnp.broadcast_to(params, (len(images), NUM_CLASSES)) + 0.0

    params, images = normal(1, NUM_CLASSES), normal(2, 3, 2)
    np.testing.assert_allclose(
        gradient_norms(logits_fn, params, images, labels_of(images)),
        loop_norms(logits_fn, params, images, labels_of(images)),
        rtol=1e-5,
    )


def test_half_precision_norms_do_not_overflow():
    def logits_fn(params, images):
        return images @ params

    images = jnp.full((2, 16), 300.0, jnp.float16)
    labels = jnp.array([0, 1])
    norms = gradient_norms(logits_fn, jnp.zeros((16, 2), jnp.float16), images, labels)
    assert norms.dtype == jnp.float32
    np.testing.assert_allclose(norms, 300 * 4 * np.sqrt(0.5), rtol=1e-3)
