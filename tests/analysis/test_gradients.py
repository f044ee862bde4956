"""Per-example gradients and norms: methods, microbatches, devices, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from memjax.analysis._jaxprs import inlined_jaxpr
from memjax.analysis._max_pool import max_pool
from memjax.analysis.gradients import gradient_norms, per_example_gradients
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.microbatch import over_devices, over_microbatches
from memjax.errors import InputError

NUM_EXAMPLES = 11


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(scale=0.4, size=shape), jnp.float32)


def logits_fn(params, images):
    options = {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    hidden = jax.lax.conv_general_dilated(images, params["first"], (1, 1), **options)
    hidden = jax.nn.relu(hidden + params["bias"])
    hidden = jax.lax.conv_general_dilated(hidden, params["second"], (2, 2), **options)
    hidden = jax.nn.relu(hidden).reshape(len(images), -1)
    # A scan over positions: a use of a parameter that only the fallback knows.
    hidden, _ = jax.lax.scan(
        lambda hidden, kernel: (jnp.tanh(hidden @ kernel), None), hidden, params["scanned"]
    )
    return hidden @ params["last"]


PARAMS = {
    "first": normal(1, 3, 3, 1, 4),
    "bias": normal(2, 1, 1, 1, 4),
    "second": normal(3, 3, 3, 4, 2),
    "scanned": normal(4, 2, 18, 18),
    "last": normal(5, 18, 3),
}
IMAGES = normal(6, NUM_EXAMPLES, 5, 6, 1)
LABELS = jnp.asarray(np.arange(NUM_EXAMPLES) % 3)


def loss_fn(params, image, label):
    return softmax_cross_entropy(logits_fn(params, image[None])[0], label)


@pytest.fixture(scope="module")
def loop_gradients():
    gradient = jax.jit(jax.grad(loss_fn))
    each = [gradient(PARAMS, image, label) for image, label in zip(IMAGES, LABELS, strict=True)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


@pytest.fixture(scope="module")
def loop_norms(loop_gradients):
    squares = [
        np.square(np.float64(leaf)).reshape(NUM_EXAMPLES, -1).sum(1)
        for leaf in jax.tree.leaves(loop_gradients)
    ]
    return np.sqrt(sum(squares))


def assert_trees_close(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected
    )


@pytest.mark.parametrize("microbatch_size", [None, 1, 4, 11, 100])
def test_per_example_gradients_equal_a_loop_at_every_microbatch_size(
    loop_gradients, microbatch_size
):
    gradients = per_example_gradients(loss_fn, PARAMS, IMAGES, LABELS, microbatch_size)
    assert_trees_close(gradients, loop_gradients)


@pytest.mark.parametrize("method", ["auto", "vmap"])
@pytest.mark.parametrize("microbatch_size", [None, 4])
def test_norms_equal_a_loop_at_every_microbatch_size(loop_norms, method, microbatch_size):
    norms = gradient_norms(logits_fn, PARAMS, IMAGES, LABELS, method, microbatch_size)
    np.testing.assert_allclose(norms, loop_norms, rtol=1e-5)


def test_norms_of_an_ensemble_by_vmap_equal_those_of_its_members():
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), PARAMS)
    together = jax.vmap(lambda params: gradient_norms(logits_fn, params, IMAGES, LABELS))(members)
    for member in range(2):
        params = jax.tree.map(lambda leaf, member=member: leaf[member], members)
        alone = gradient_norms(logits_fn, params, np.asarray(IMAGES), np.asarray(LABELS))
        np.testing.assert_allclose(together[member], alone, rtol=1e-5)


def test_another_example_loss_gives_its_own_norms():
    def squared_loss(logits, label):
        return jnp.sum(jnp.square(logits - jax.nn.one_hot(label, 3)))

    def dense(params, images):
        return images.reshape(len(images), -1) @ params

    params = normal(1, 30, 3)
    flat = np.asarray(IMAGES).reshape(NUM_EXAMPLES, -1)
    residuals = flat @ np.asarray(params) - np.eye(3)[np.asarray(LABELS)]
    expected = 2 * np.linalg.norm(flat, axis=1) * np.linalg.norm(residuals, axis=1)
    norms = gradient_norms(dense, params, IMAGES, LABELS, example_loss=squared_loss)
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


def test_norms_in_float64_are_exact_to_1e_minus_12():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), PARAMS)
        images = jnp.asarray(IMAGES, jnp.float64)
        auto, reference = (
            gradient_norms(logits_fn, params, images, LABELS, method) for method in ("auto", "vmap")
        )
        assert auto.dtype == jnp.float64
        np.testing.assert_allclose(auto, reference, rtol=1e-12)


def test_a_program_of_norms_never_holds_all_gradients_of_all_examples():
    def wide(params, images):
        hidden = images @ params["first"]
        return jnp.tanh(hidden @ params["second"]) @ params["last"]

    width, num_examples = 128, 512
    params = {
        "first": jax.ShapeDtypeStruct((64, width), jnp.float32),
        "second": jax.ShapeDtypeStruct((width, width), jnp.float32),
        "last": jax.ShapeDtypeStruct((width, 10), jnp.float32),
    }
    images = jax.ShapeDtypeStruct((num_examples, 64), jnp.float32)
    labels = jax.ShapeDtypeStruct((num_examples,), jnp.int32)
    all_gradients = 4 * num_examples * sum(leaf.size for leaf in params.values())
    norms = jax.jit(functools.partial(gradient_norms, wide))
    memory = norms.lower(params, images, labels).compile().memory_analysis()
    assert memory.temp_size_in_bytes < all_gradients / 10


MESH = Mesh(np.array(jax.devices()[:4]), ("data",))


def test_per_example_gradients_over_four_devices_equal_a_loop(loop_gradients):
    sharded = over_devices(functools.partial(per_example_gradients, loss_fn), MESH)
    assert_trees_close(sharded(PARAMS, IMAGES, LABELS), loop_gradients)


@pytest.mark.parametrize("method", ["auto", "vmap"])
def test_norms_over_four_devices_equal_a_loop(loop_norms, method):
    norms_fn = functools.partial(gradient_norms, logits_fn, method=method, microbatch_size=2)
    norms = over_devices(norms_fn, MESH)(PARAMS, IMAGES, LABELS)
    np.testing.assert_allclose(norms, loop_norms, rtol=1e-5)


def test_over_devices_takes_arrays_that_are_sharded_already(loop_norms):
    sharding = NamedSharding(MESH, PartitionSpec("data"))
    images, labels = jax.device_put((IMAGES[:8], LABELS[:8]), sharding)
    norms = over_devices(functools.partial(gradient_norms, logits_fn), MESH)(PARAMS, images, labels)
    assert len(norms.sharding.device_set) == 4
    np.testing.assert_allclose(norms, loop_norms[:8], rtol=1e-5)


def test_sharded_arrays_without_over_devices_are_refused():
    images = jax.device_put(IMAGES[:8], NamedSharding(MESH, PartitionSpec("data")))
    with pytest.raises(InputError, match="sharded over 4 devices"):
        gradient_norms(logits_fn, PARAMS, images, LABELS[:8])
    with pytest.raises(InputError, match="sharded over 4 devices"):
        per_example_gradients(loss_fn, PARAMS, images, LABELS[:8])


def test_over_devices_refuses_an_axis_that_the_mesh_lacks():
    with pytest.raises(InputError, match="'model' is not an axis"):
        over_devices(logits_fn, MESH, axis="model")


@pytest.mark.parametrize("microbatch_size", [None, 1, 2, 3, 5, 7, 8])
def test_microbatches_keep_order_and_length(microbatch_size):
    arrays = jnp.arange(7), jnp.arange(14.0).reshape(7, 2)

    def fn(indices, values):
        return {"index": indices, "sum": values.sum(1)}

    results = over_microbatches(fn, *arrays, microbatch_size=microbatch_size)
    np.testing.assert_array_equal(results["index"], np.arange(7))
    np.testing.assert_array_equal(results["sum"], 4 * np.arange(7) + 1)


@pytest.mark.parametrize("microbatch_size", [0, -1, 1.5, "2"])
def test_bad_microbatch_sizes_are_refused(microbatch_size):
    with pytest.raises(InputError, match="microbatch_size"):
        gradient_norms(logits_fn, PARAMS, IMAGES, LABELS, microbatch_size=microbatch_size)


@pytest.mark.parametrize("num_labels", [0, 10])
def test_lengths_that_differ_are_refused(num_labels):
    with pytest.raises(InputError, match="lengths"):
        gradient_norms(logits_fn, PARAMS, IMAGES, LABELS[:num_labels])


def test_an_unknown_method_is_refused():
    with pytest.raises(InputError, match="method: 'fast'"):
        gradient_norms(logits_fn, PARAMS, IMAGES, LABELS, method="fast")


def test_logits_of_a_wrong_shape_are_refused():
    with pytest.raises(InputError, match=r"\[n classes\]"):
        gradient_norms(lambda params, images: images[:, 0, 0, 0] * params, 1.0, IMAGES, LABELS)


def batch_norm(params, images):
    hidden = images.reshape(len(images), -1) @ params
    return (hidden - hidden.mean(0, keepdims=True)) / hidden.std(0, keepdims=True)


def attention_between_examples(params, images):
    hidden = images.reshape(len(images), -1) @ params
    return jax.nn.softmax(hidden @ hidden.T) @ hidden


def running_sum(params, images):
    hidden = images.reshape(len(images), -1) @ params

    def step(total, row):
        return total + row, total

    return jax.lax.scan(step, jnp.zeros(3), hidden)[1]


@pytest.mark.parametrize("mixing", [batch_norm, attention_between_examples, running_sum])
@pytest.mark.parametrize("method", ["auto", "vmap"])
def test_a_model_that_mixes_examples_is_refused(mixing, method):
    with pytest.raises(InputError, match="mixes the examples"):
        gradient_norms(mixing, normal(1, 30, 3), IMAGES, LABELS, method=method)


def test_a_model_that_maps_over_its_examples_is_not_taken_for_mixing():
    def mapped(params, images):
        return jax.lax.map(lambda image: image.reshape(-1) @ params, images)

    norms = gradient_norms(mapped, normal(1, 30, 3), IMAGES, LABELS)
    assert norms.shape == (NUM_EXAMPLES,)


POOLS = [
    ((1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    ((1, 3, 3, 1), (1, 2, 2, 1), "SAME"),
    ((1, 3, 2, 1), (1, 1, 1, 1), ((0, 0), (1, 2), (0, 1), (0, 0))),
]


@pytest.mark.parametrize(("window", "strides", "padding"), POOLS)
def test_our_max_pool_has_the_value_and_derivative_of_xla_ties_included(window, strides, padding):
    # Few distinct values: many windows have several maxima.
    images = jnp.asarray(np.random.default_rng(1).integers(0, 3, (2, 7, 8, 3)), jnp.float32)

    def pool(params, images):
        return jax.lax.reduce_window(images, -jnp.inf, jax.lax.max, window, strides, padding)

    def flat(params, images):
        return pool(params, images).reshape(len(images), -1)

    jaxpr = inlined_jaxpr(flat, None, images)
    assert "select_and_scatter" in str(
        jax.make_jaxpr(jax.grad(lambda x: flat(None, x).sum()))(images)
    )
    ours, pull_back = jax.vjp(jax.extend.core.jaxpr_as_fun(jaxpr), images)
    expected, expected_pull_back = jax.vjp(lambda x: flat(None, x), images)
    cotangent = normal(2, *expected.shape)
    np.testing.assert_array_equal(ours[0], expected)
    (actual,), (wanted,) = pull_back([cotangent]), expected_pull_back(cotangent)
    np.testing.assert_allclose(actual, wanted, rtol=1e-6, atol=1e-7)
    assert "select_and_scatter" not in str(jax.make_jaxpr(lambda d: pull_back([d]))(cotangent))


def test_our_max_pool_has_a_forward_mode_derivative_too():
    images, tangent = normal(1, 6), normal(2, 6)
    _, derivative = jax.jvp(lambda x: max_pool(x, (2,), (2,), ((0, 0),)), (images,), (tangent,))
    chosen = np.asarray(images).reshape(3, 2).argmax(1)
    np.testing.assert_array_equal(derivative, np.asarray(tangent).reshape(3, 2)[range(3), chosen])


@pytest.mark.parametrize("method", ["auto", "vmap"])
@pytest.mark.parametrize("by_leaf", [False, True])
def test_logits_come_with_the_norms(method, by_leaf):
    def network(params, images):
        return jnp.tanh(images @ params["first"]) @ params["last"]

    rng = np.random.default_rng(0)
    params = {"first": jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)}
    params["last"] = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    images = jnp.asarray(rng.normal(size=(7, 6)), jnp.float32)
    arguments = (network, params, images, np.arange(7) % 3, method, 3)
    norms, logits = gradient_norms(*arguments, by_leaf=by_leaf, with_logits=True)
    # Rounded elsewhere: a logit near 0 is right to the size of what it is a sum of.
    np.testing.assert_allclose(logits, network(params, images), rtol=1e-6, atol=1e-6)
    alone = gradient_norms(*arguments, by_leaf=by_leaf)
    jax.tree.map(np.testing.assert_array_equal, norms, alone)


@pytest.mark.parametrize("method", ["auto", "ghost", "vmap"])
def test_norms_by_leaf_of_tiny_gradients_do_not_underflow(method):
    def tiny_fn(params, images):
        return jnp.tanh(images @ params["a"]) @ params["b"]

    keys = jax.random.split(jax.random.key(0), 3)
    params = {
        "a": jax.random.normal(keys[0], (4, 8)),
        "b": 1e-22 * jax.random.normal(keys[1], (8, 3)),
    }
    images, labels = jax.random.normal(keys[2], (6, 4)), jnp.arange(6) % 3
    found = gradient_norms(tiny_fn, params, images, labels, by_leaf=True, method=method)
    hidden = np.tanh(np.float64(images) @ np.float64(params["a"]))
    # The logits are all but 0: the softmax is one third.
    by_hidden = (1 / 3 - np.eye(3)[np.asarray(labels)]) @ np.float64(params["b"]).T
    by_kernel = np.float64(images)[:, :, None] * (by_hidden * (1 - hidden**2))[:, None]
    np.testing.assert_allclose(found["a"], np.sqrt((by_kernel**2).sum((1, 2))), rtol=1e-4)
