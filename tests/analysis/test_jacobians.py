"""Jacobians by inputs and parameters, against loops over jax.grad, closed forms and numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from memjax.analysis.jacobians import (
    empirical_ntk,
    extended_data_jacobian,
    extended_data_jacobian_spectra,
    input_jacobians,
    jacobian_norms,
    jacobian_singular_values,
    parameter_jacobian_norms,
)
from memjax.analysis.microbatch import over_devices
from memjax.errors import InputError

NUM_CLASSES = 3


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(scale=0.4, size=shape), jnp.float32)


def logits_fn(params, images):
    options = {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    hidden = jax.lax.conv_general_dilated(images, params["first"], (1, 1), **options)
    hidden = jnp.tanh(hidden + params["bias"])
    hidden = jax.lax.reduce_window(
        hidden, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    hidden = jax.lax.conv_general_dilated(hidden, params["second"], (1, 1), **options)
    hidden = hidden.reshape(len(images), -1)
    return (
        jnp.tanh(hidden @ params["dense"]) @ params["dense"][:, :NUM_CLASSES]
        + hidden @ params["last"]
    )


PARAMS = {
    "first": normal(1, 3, 3, 1, 4),
    "bias": normal(2, 1, 1, 1, 4),
    "second": normal(3, 3, 3, 4, 2),
    "dense": normal(4, 12, 12),
    "last": normal(5, 12, NUM_CLASSES),
}
IMAGES = normal(6, 7, 4, 6, 1)
MESH = Mesh(np.array(jax.devices()[:4]), ("data",))


@pytest.fixture(scope="module")
def loop_input_jacobians():
    gradient = jax.jit(jax.grad(lambda image, c: logits_fn(PARAMS, image[None])[0, c]))
    return np.stack([[gradient(image, c) for c in range(NUM_CLASSES)] for image in IMAGES])


@pytest.fixture(scope="module")
def loop_parameter_jacobians():
    """[n classes n_params]"""
    gradient = jax.jit(jax.grad(lambda params, image, c: logits_fn(params, image[None])[0, c]))

    def flat(image, c):
        leaves = jax.tree.leaves(gradient(PARAMS, image, c))
        return np.concatenate([np.float64(leaf).reshape(-1) for leaf in leaves])

    return np.stack([[flat(image, c) for c in range(NUM_CLASSES)] for image in IMAGES])


@pytest.mark.parametrize("microbatch_size", [None, 1, 3])
def test_input_jacobians_equal_a_loop_at_every_microbatch_size(
    loop_input_jacobians, microbatch_size
):
    jacobians = input_jacobians(logits_fn, PARAMS, IMAGES, microbatch_size)
    assert jacobians.dtype == jnp.float32
    np.testing.assert_allclose(jacobians, loop_input_jacobians, rtol=1e-5, atol=1e-6)


def test_input_jacobians_with_more_classes_than_pixels_equal_the_closed_form():
    def wide(params, images):
        return jnp.tanh(images @ params)

    params, images = normal(1, 4, 9), normal(2, 5, 4)
    slopes = 1 - np.tanh(np.asarray(images) @ np.asarray(params)) ** 2
    expected = slopes[:, :, None] * np.asarray(params).T
    np.testing.assert_allclose(input_jacobians(wide, params, images), expected, rtol=1e-5)


@pytest.mark.parametrize("microbatch_size", [None, 1, 3])
def test_parameter_jacobian_norms_equal_a_loop_at_every_microbatch_size(
    loop_parameter_jacobians, microbatch_size
):
    norms = parameter_jacobian_norms(logits_fn, PARAMS, IMAGES, microbatch_size)
    assert norms.dtype == jnp.float32
    np.testing.assert_allclose(norms, np.linalg.norm(loop_parameter_jacobians, axis=-1), rtol=1e-5)


@pytest.mark.parametrize("block_size", [None, 2])
def test_ntk_equals_inner_products_of_a_loops_jacobians(loop_parameter_jacobians, block_size):
    kernel = empirical_ntk(logits_fn, PARAMS, IMAGES, IMAGES[2:5], block_size)
    jacobians = loop_parameter_jacobians
    expected = np.einsum("icp,jdp->ijcd", jacobians, jacobians[2:5])
    assert kernel.dtype == jnp.float32
    np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_ntk_of_a_linear_model_is_the_gram_matrix_times_the_identity():
    images = normal(1, 5, 8)
    kernel = empirical_ntk(lambda params, x: x @ params, normal(2, 8, 3), images, images)
    gram = np.asarray(images) @ np.asarray(images).T
    np.testing.assert_allclose(kernel, np.einsum("ij,cd->ijcd", gram, np.eye(3)), atol=1e-6)


def test_everything_over_four_devices_equals_one_device(
    loop_input_jacobians, loop_parameter_jacobians
):
    jacobians = over_devices(functools.partial(input_jacobians, logits_fn), MESH)(PARAMS, IMAGES)
    np.testing.assert_allclose(jacobians, loop_input_jacobians, rtol=1e-5, atol=1e-6)
    norms = over_devices(functools.partial(parameter_jacobian_norms, logits_fn), MESH)(
        PARAMS, IMAGES
    )
    np.testing.assert_allclose(norms, np.linalg.norm(loop_parameter_jacobians, axis=-1), rtol=1e-5)


def test_norms_and_singular_values_are_those_of_numpy(loop_input_jacobians):
    jacobians = jnp.asarray(loop_input_jacobians)
    flat = loop_input_jacobians.reshape(len(IMAGES), NUM_CLASSES, -1)
    expected = np.stack([np.linalg.svd(matrix, compute_uv=False) for matrix in flat])
    np.testing.assert_allclose(jacobian_singular_values(jacobians), expected, rtol=1e-5)
    np.testing.assert_allclose(
        jacobian_norms(jacobians), np.linalg.norm(flat, axis=(1, 2)), rtol=1e-5
    )


def test_extended_data_jacobian_of_a_linear_model_has_rank_one():
    params, images = normal(1, 8, 3), normal(2, 5, 8)
    jacobians = input_jacobians(lambda params, x: x @ params, params, images)
    spectra = extended_data_jacobian_spectra(jacobians)
    assert spectra.shape == (3, 5)
    norms = np.linalg.norm(np.asarray(params), axis=0)
    np.testing.assert_allclose(spectra[:, 0], np.sqrt(5) * norms, rtol=1e-5)
    np.testing.assert_allclose(spectra[:, 1:], 0, atol=1e-6)


def test_extended_data_jacobian_stacks_one_class_over_all_examples(loop_input_jacobians):
    jacobians = jnp.asarray(loop_input_jacobians)
    for c in range(NUM_CLASSES):
        matrix = extended_data_jacobian(jacobians, c)
        np.testing.assert_array_equal(matrix, loop_input_jacobians[:, c].reshape(7, -1))
        np.testing.assert_allclose(
            extended_data_jacobian_spectra(jacobians)[c],
            np.linalg.svd(np.asarray(matrix), compute_uv=False),
            rtol=1e-4,
        )
    with pytest.raises(InputError, match="class_index: 3"):
        extended_data_jacobian(jacobians, 3)


def test_bad_images_are_refused():
    with pytest.raises(InputError, match="float"):
        input_jacobians(logits_fn, PARAMS, jnp.zeros((2, 4, 6, 1), jnp.uint8))
    with pytest.raises(InputError, match="lengths"):
        input_jacobians(logits_fn, PARAMS, IMAGES[:0])
    with pytest.raises(InputError, match="images_b"):
        empirical_ntk(logits_fn, PARAMS, IMAGES, IMAGES[:, 1:])
    sharded = jax.device_put(IMAGES[:4], NamedSharding(MESH, PartitionSpec("data")))
    for refuse in (input_jacobians, parameter_jacobian_norms):
        with pytest.raises(InputError, match="over_devices"):
            refuse(logits_fn, PARAMS, sharded)


def test_a_model_that_mixes_examples_is_refused():
    def mixing(params, images):
        return images @ params - (images @ params).mean(0, keepdims=True)

    params, images = normal(1, 8, 3), normal(2, 5, 8)
    for refuse in (input_jacobians, parameter_jacobian_norms):
        with pytest.raises(InputError, match="mixes the examples"):
            refuse(mixing, params, images)
    with pytest.raises(InputError, match="mixes the examples"):
        empirical_ntk(mixing, params, images, images)


@pytest.mark.parametrize(("budget", "size"), [(1, None), (8 * 4 * 400, 3)])
def test_whatever_memory_there_is_chunks_over_classes_change_nothing(budget, size, monkeypatch):
    """One class of one example at once, or some of them; the loops above say what is right."""
    expected = parameter_jacobian_norms(logits_fn, PARAMS, IMAGES)
    jacobians = input_jacobians(logits_fn, PARAMS, IMAGES)
    kernel = empirical_ntk(logits_fn, PARAMS, IMAGES, IMAGES[:3])
    monkeypatch.setattr("memjax.memory.memory_budget", lambda device=None: budget)

    def again(params, images):  # another function object: programs are kept for each
        return logits_fn(params, images)

    found = parameter_jacobian_norms(again, PARAMS, IMAGES, size)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    found = input_jacobians(again, PARAMS, IMAGES, size)
    np.testing.assert_allclose(found, jacobians, rtol=1e-5, atol=1e-7)
    found = empirical_ntk(again, PARAMS, IMAGES, IMAGES[:3], size)
    np.testing.assert_allclose(found, kernel, rtol=1e-5, atol=1e-6)


def test_the_memory_of_one_example_is_bounded_whatever_the_classes(monkeypatch):
    """1000 classes, gradients that must be formed: what XLA says that the program keeps."""
    params = {"weight": jnp.ones((64, 256)), "last": jnp.ones((256, 1000))}
    images = jax.ShapeDtypeStruct((2, 64), jnp.float32)

    def kept_bytes(budget):
        def formed(params, images):
            return jnp.tanh(images @ jnp.sin(params["weight"])) @ params["last"]

        monkeypatch.setattr("memjax.memory.memory_budget", lambda device=None: budget)
        norms = jax.jit(lambda images: parameter_jacobian_norms(formed, params, images))
        return norms.lower(images).compile().memory_analysis().temp_size_in_bytes

    all_at_once, bounded = kept_bytes(2**33), kept_bytes(2**25)
    assert all_at_once > 1000 * 64 * 256 * 4
    assert bounded < 3 * 2**25 / 8  # what is asked for is an eighth of the budget


def test_norms_neither_underflow_nor_overflow():
    np.testing.assert_allclose(jacobian_norms(jnp.array([[[3e-30, 4e-30]]])), [5e-30], rtol=1e-6)
    np.testing.assert_array_equal(jacobian_norms(jnp.full((1, 2, 2), 300, jnp.float16)), [600])

    def tiny_fn(params, images):
        return 1e-25 * (images @ params)

    norms = parameter_jacobian_norms(tiny_fn, jnp.zeros((2, 3)), jnp.array([[3.0, 4.0]]))
    np.testing.assert_allclose(norms, np.full((1, 3), 5e-25), rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_has_the_singular_values_of_its_numbers(dtype):
    jacobians = jax.random.normal(jax.random.key(0), (3, 4, 5)).astype(dtype)
    exact = np.asarray(jacobians, np.float64)
    found = jacobian_singular_values(jacobians)
    np.testing.assert_allclose(found, np.linalg.svd(exact, compute_uv=False), rtol=1e-5)
    spectra = extended_data_jacobian_spectra(jacobians)
    expected = np.linalg.svd(exact.swapaxes(0, 1), compute_uv=False)
    np.testing.assert_allclose(spectra, expected, rtol=1e-5)
