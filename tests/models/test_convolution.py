import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from memjax.errors import InputError
from memjax.models.convolution import METHODS, Conv, convolution

PRODUCTS = ("patches", "fourier")
# height, width, channels in, channels out, kernel height, kernel width
SHAPES = [
    (9, 9, 4, 5, 5, 5),
    (7, 10, 3, 2, 3, 5),
    (8, 5, 2, 3, 2, 4),
    (6, 6, 1, 2, 1, 1),
    (2, 3, 2, 2, 5, 5),
]


def _arrays(shape, dtype=np.float64, n=3):
    height, width, channels_in, channels_out, kernel_height, kernel_width = shape
    generator = np.random.default_rng(0)
    images = generator.normal(size=(n, height, width, channels_in))
    kernel = generator.normal(size=(kernel_height, kernel_width, channels_in, channels_out))
    return jnp.asarray(images, dtype), jnp.asarray(kernel, dtype)


def _shapes_that_fit(padding):
    return [s for s in SHAPES if padding == "SAME" or (s[0] >= s[4] and s[1] >= s[5])]


@functools.partial(jax.jit, static_argnames=("padding", "method"))
def _values_and_gradients(images, kernel, padding, method):
    outputs, gradients = jax.vjp(
        lambda *arrays: convolution(*arrays, padding, method), images, kernel
    )
    return outputs, *gradients(jnp.cos(jnp.arange(1.0, outputs.size + 1)).reshape(outputs.shape))


@pytest.mark.parametrize("method", PRODUCTS)
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_values_and_gradients_equal_those_of_lax(method, padding):
    with jax.enable_x64(True):
        for shape in _shapes_that_fit(padding):
            images, kernel = _arrays(shape)
            outputs, *gradients = _values_and_gradients(images, kernel, padding, method)
            expected = _values_and_gradients(images, kernel, padding, "lax")
            assert outputs.dtype == jnp.float64
            for ours, theirs in zip((outputs, *gradients), expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("stride", "padding"),
    [(2, "SAME"), (2, "VALID"), (2, ((1, 1), (1, 1))), (3, ((0, 2), (1, 0)))],
)
def test_strided_convolutions_equal_those_of_lax(padding, stride):
    """With torch's symmetric padding, too, which is not SAME once there is a stride."""
    with jax.enable_x64(True):
        for shape in ((9, 8, 3, 4, 3, 3), (8, 8, 2, 3, 1, 1)):
            images, kernel = _arrays(shape)

            def passes(images, kernel, method):
                outputs, pull = jax.vjp(
                    lambda *arrays: convolution(*arrays, padding, method, stride), images, kernel
                )
                return outputs, *pull(jnp.cos(outputs))

            found, expected = (
                jax.jit(passes, static_argnums=2)(images, kernel, method)
                for method in ("auto", "lax")
            )
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("stride", "method"), [(0, "auto"), (2, "fourier")])
def test_strides_that_are_not_there_are_refused(stride, method):
    with pytest.raises(InputError, match=f"stride={stride}"):
        convolution(*_arrays(SHAPES[0], np.float32), "SAME", method, stride)


@pytest.mark.parametrize("method", PRODUCTS)
def test_hessian_vector_products_equal_those_of_lax(method):
    with jax.enable_x64(True):
        images, kernel = _arrays(SHAPES[1])

        @functools.partial(jax.jit, static_argnums=2)
        def product(images, kernel, method):
            def loss(kernel):
                return jnp.sum(jnp.sin(convolution(images, kernel, "SAME", method)))

            return jax.jvp(jax.grad(loss), (kernel,), (jnp.cos(kernel),))[1]

        np.testing.assert_allclose(
            product(images, kernel, method), product(images, kernel, "lax"), rtol=1e-11, atol=1e-11
        )


@pytest.mark.parametrize("method", PRODUCTS)
def test_vmap_over_kernels_equals_a_loop(method):
    with jax.enable_x64(True):
        images, kernel = _arrays(SHAPES[0])
        kernels = jnp.stack([kernel, jnp.sin(kernel), -kernel])
        many_images = jnp.stack([images, images**2, images + 1])
        convolve = jax.jit(functools.partial(convolution, method=method))

        def loss(kernel, images):
            return jnp.sum(jnp.sin(convolve(images, kernel)))

        gradient = jax.jit(jax.grad(loss))
        member_gradients = jax.vmap(gradient)(kernels, many_images)
        shared_images = jax.vmap(convolve, in_axes=(None, 0))(images, kernels)
        for member in range(3):
            np.testing.assert_allclose(
                member_gradients[member],
                gradient(kernels[member], many_images[member]),
                rtol=1e-11,
                atol=1e-11,
            )
            np.testing.assert_allclose(
                shared_images[member], convolve(images, kernels[member]), rtol=1e-12, atol=1e-12
            )


@pytest.mark.parametrize("method", PRODUCTS)
def test_batch_sharded_over_devices_equals_one_device(method):
    images, kernel = _arrays((32, 32, 2, 3, 5, 5), np.float32, n=16)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), "data")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    expected = _values_and_gradients(images, kernel, "SAME", method)
    sharded = _values_and_gradients(jax.device_put(images, sharding), kernel, "SAME", method)
    assert len(sharded[0].sharding.device_set) == len(jax.devices()) == 4
    for ours, alone in zip(sharded, expected, strict=True):
        np.testing.assert_allclose(ours, alone, rtol=1e-4, atol=1e-4)


def test_float32_error_is_no_larger_than_that_of_lax():
    shape = (9, 9, 64, 32, 5, 5)
    with jax.enable_x64(True):
        images, kernel = _arrays(shape)
        exact = np.asarray(convolution(images, kernel, "SAME", "lax"))
    images, kernel = _arrays(shape, np.float32)
    convolve = jax.jit(convolution, static_argnums=(2, 3))

    def error(method):
        return np.sqrt(np.mean((convolve(images, kernel, "SAME", method) - exact) ** 2))

    assert error("fourier") < 1.5 * error("lax")
    assert error("patches") < 1.5 * error("lax")


def _primitives(function, *arrays):
    return {equation.primitive.name for equation in jax.make_jaxpr(function)(*arrays).eqns}


def test_auto_takes_matrix_products_on_cpu_and_the_spectrum_where_it_saves_work():
    wide = _primitives(convolution, *_arrays((9, 9, 200, 200, 5, 5), np.float32, n=128))
    first = _primitives(convolution, *_arrays((28, 28, 3, 200, 5, 5), np.float32, n=128))
    half = _primitives(convolution, *_arrays((9, 9, 200, 200, 5, 5), jnp.bfloat16, n=128))
    assert "complex" in wide
    assert "complex" not in first | half
    assert "conv_general_dilated" not in wide | first | half


def test_auto_takes_lax_on_accelerators(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    arrays = _arrays(SHAPES[0], np.float32)
    assert "conv_general_dilated" in _primitives(convolution, *arrays)


def test_layer_starts_as_that_of_flax():
    images, _ = _arrays(SHAPES[0], np.float32)
    variables, expected = (
        layer(4, (3, 5)).init(jax.random.key(0), images) for layer in (Conv, nn.Conv)
    )
    jax.tree.map(np.testing.assert_array_equal, variables, expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_layer_computes_what_that_of_flax_does(method, padding):
    images, kernel = _arrays(SHAPES[0], np.float32)
    variables = {"params": {"kernel": kernel, "bias": jnp.arange(5.0)}}
    np.testing.assert_allclose(
        jax.jit(Conv(5, (5, 5), padding, method=method).apply)(variables, images),
        jax.jit(nn.Conv(5, (5, 5), padding=padding).apply)(variables, images),
        rtol=1e-5,
        atol=1e-5,
    )


def test_layer_keeps_half_precision():
    images, kernel = _arrays((5, 5, 2, 3, 3, 3), jnp.bfloat16)
    variables = {"params": {"kernel": kernel}}
    assert Conv(3, (3, 3), use_bias=False).apply(variables, images).dtype == jnp.bfloat16


def test_unknown_method_and_padding_are_refused():
    images, kernel = _arrays(SHAPES[0], np.float32)
    with pytest.raises(InputError, match=r"winograd.*fourier"):
        convolution(images, kernel, method="winograd")
    with pytest.raises(InputError, match=r"CIRCULAR.*SAME"):
        convolution(images, kernel, "CIRCULAR")
