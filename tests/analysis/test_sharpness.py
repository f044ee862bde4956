"""Lanczos and Hutchinson against the dense Hessian in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.sharpness import hessian_eigenvalue, hessian_trace
from memjax.errors import InputError


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def _mlp(params, images):
    hidden = jnp.tanh(images @ params["weight"] + params["bias"][None])
    return hidden @ params["out"]


def _negative_cross_entropy(logits, label):
    return -softmax_cross_entropy(logits, label)


def _mlp_and_data(n=10):
    generator = np.random.default_rng(0)
    shapes = {"weight": (4, 5), "bias": (5,), "out": (5, 3)}
    params = {name: jnp.asarray(generator.normal(size=shape)) for name, shape in shapes.items()}
    images = jnp.asarray(generator.normal(size=(n, 4)))
    return params, images, jnp.asarray(generator.integers(0, 3, n))


def _dense_hessian(logits_fn, params, images, labels, example_loss=softmax_cross_entropy):
    flat, unravel = ravel_pytree(params)

    def mean_loss(flat):
        return jax.vmap(example_loss)(logits_fn(unravel(flat), images), labels).mean()

    return np.asarray(jax.jit(jax.hessian(mean_loss))(flat))


def _dense_eigenvalues(*arguments):
    return np.linalg.eigvalsh(_dense_hessian(*arguments))


def _largest(eigenvalues):
    return eigenvalues[np.abs(eigenvalues).argmax()]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("example_loss", "microbatch_size"),
    [
        (softmax_cross_entropy, None),
        (_negative_cross_entropy, None),
        (_negative_cross_entropy, 4),
    ],
)
def test_eigenvalue_equals_the_dense_one_of_either_sign(example_loss, microbatch_size):
    params, images, labels = _mlp_and_data()
    expected = _largest(_dense_eigenvalues(_mlp, params, images, labels, example_loss))
    assert (expected < 0) == (example_loss is _negative_cross_entropy)
    result = hessian_eigenvalue(
        jax.random.key(0),
        _mlp,
        params,
        images,
        labels,
        tolerance=1e-6,
        microbatch_size=microbatch_size,
        example_loss=example_loss,
    )
    assert result.eigenvalue.dtype == jnp.float64
    np.testing.assert_allclose(result.eigenvalue, expected, rtol=1e-6)
    assert result.residual <= 1e-6 * abs(expected)
    # It stopped because it had converged.
    assert result.num_iterations < 40


def _saddle(params, images):
    """The mean of `_first_logit` has the Hessian diag(-3, 2, 2, 1) in params."""
    return 0.5 * images @ jnp.square(params)[:, None]


def _first_logit(logits, label):
    return logits[0] + 0 * label


def test_negative_eigenvalue_of_a_saddle_and_its_trace_are_exact():
    images = jnp.array([[-2.0, 4.0, 1.0, 1.0], [-4.0, 0.0, 3.0, 1.0]])
    arguments = (_saddle, jnp.zeros(4), images, jnp.zeros(2, jnp.int32))
    result = hessian_eigenvalue(jax.random.key(0), *arguments, example_loss=_first_logit)
    # Four parameters, three distinct eigenvalues: the Krylov space is exhausted and must not
    # return noise.
    np.testing.assert_allclose(result.eigenvalue, -3, rtol=1e-5)
    assert result.num_iterations <= 4
    # A diagonal Hessian leaves Hutchinson's estimate without variance.
    trace, standard_error = hessian_trace(
        jax.random.key(0), *arguments, num_probes=2, example_loss=_first_logit
    )
    np.testing.assert_allclose(trace, 2, rtol=1e-5)
    assert standard_error < 1e-5


@pytest.mark.usefixtures("float64")
def test_all_iterations_beyond_convergence_stay_right():
    params, images, labels = _mlp_and_data()
    expected = _largest(_dense_eigenvalues(_mlp, params, images, labels))
    # 50 iterations are allowed; 40 parameters have no further direction.
    result = hessian_eigenvalue(jax.random.key(0), _mlp, params, images, labels, tolerance=0.0)
    assert result.num_iterations <= 40
    np.testing.assert_allclose(result.eigenvalue, expected, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_residual_bounds_the_distance_to_an_eigenvalue_before_convergence():
    params, images, labels = _mlp_and_data()
    eigenvalues = _dense_eigenvalues(_mlp, params, images, labels)
    result = hessian_eigenvalue(jax.random.key(1), _mlp, params, images, labels, num_iterations=3)
    assert result.num_iterations == 3
    distance = np.abs(eigenvalues - float(result.eigenvalue)).min()
    assert distance <= result.residual * (1 + 1e-9)
    assert result.residual > 1e-3 * abs(result.eigenvalue)


def _with_other_leaves(params, images):
    shifted = (images - jax.lax.stop_gradient(params["statistics"])[None]) * params["count"]
    return _mlp(params["network"], shifted)


@pytest.mark.usefixtures("float64")
def test_integer_and_stopped_leaves_do_not_count():
    network, images, labels = _mlp_and_data()
    expected = _dense_eigenvalues(_mlp, network, images - 0.25, labels)
    params = {"network": network, "count": jnp.int32(1), "statistics": jnp.full(4, 0.25)}
    arguments = (_with_other_leaves, params, images, labels)
    result = hessian_eigenvalue(jax.random.key(0), *arguments, tolerance=1e-6)
    np.testing.assert_allclose(result.eigenvalue, _largest(expected), rtol=1e-6)
    trace, standard_error = hessian_trace(jax.random.key(0), *arguments, num_probes=500)
    assert abs(trace - expected.sum()) < 4 * standard_error


def _constant(params, images):
    return jnp.zeros((images.shape[0], 3)) * params.sum()


def test_a_flat_loss_has_sharpness_zero():
    result = hessian_eigenvalue(
        jax.random.key(0), _constant, jnp.ones(7), jnp.ones((2, 4)), jnp.zeros(2, jnp.int32)
    )
    assert result.eigenvalue == result.residual == 0
    assert result.num_iterations == 1


@pytest.mark.usefixtures("float64")
def test_trace_is_right_within_its_standard_error_and_does_not_depend_on_microbatches():
    params, images, labels = _mlp_and_data()
    hessian = _dense_hessian(_mlp, params, images, labels)
    whole, cut = (
        hessian_trace(
            jax.random.key(0),
            _mlp,
            params,
            images,
            labels,
            num_probes=1000,
            microbatch_size=size,
        )
        for size in (None, 3)
    )
    np.testing.assert_allclose(cut, whole, rtol=1e-9)
    assert abs(whole.trace - np.trace(hessian)) < 4 * whole.standard_error
    # The standard error is that of Hutchinson's estimator.
    off_diagonal = hessian - np.diag(np.diag(hessian))
    exact = np.sqrt(2 * np.square(off_diagonal).sum() / 1000)
    np.testing.assert_allclose(whole.standard_error, exact, rtol=0.1)


class _ConvNet(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = nn.Conv(2, (3, 3))(images)
        hidden = nn.softplus(nn.BatchNorm(use_running_average=True)(hidden))
        hidden = nn.max_pool(hidden, (2, 2), (2, 2))
        return nn.Dense(3)(hidden.reshape(images.shape[0], -1))


def _conv_logits(params, images):
    statistics = jax.lax.stop_gradient(params["batch_stats"])
    return _ConvNet().apply({"params": params["params"], "batch_stats": statistics}, images)


def _conv_net_and_data():
    images = jax.random.uniform(jax.random.key(0), (8, 4, 4, 1))
    params = jax.jit(_ConvNet().init)(jax.random.key(1), images)
    return params, images, jnp.arange(8) % 3


def test_conv_net_on_four_devices_equals_the_dense_hessian():
    params, images, labels = _conv_net_and_data()
    expected = _largest(_dense_eigenvalues(_conv_logits, params, images, labels))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.device_put((images, labels), NamedSharding(mesh, PartitionSpec("data")))
    for size in (None, 4):
        result = hessian_eigenvalue(
            jax.random.key(0), _conv_logits, params, *sharded, microbatch_size=size
        )
        assert result.eigenvalue.dtype == jnp.float32
        np.testing.assert_allclose(result.eigenvalue, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("function", "wrong", "field"),
    [
        (hessian_eigenvalue, {"num_iterations": 0}, "num_iterations"),
        (hessian_eigenvalue, {"microbatch_size": 0}, "microbatch_size"),
        (hessian_eigenvalue, {"params": {"count": jnp.int32(1)}}, "params"),
        (hessian_eigenvalue, {"labels": jnp.zeros(3, jnp.int32)}, "labels"),
        (hessian_trace, {"num_probes": 1}, "num_probes"),
        (hessian_trace, {"images": jnp.zeros((0, 4)), "labels": jnp.zeros(0, int)}, "n at least 1"),
    ],
)
def test_bad_arguments_are_refused(function, wrong, field):
    arguments = {"params": jnp.ones(7), "images": jnp.ones((2, 4)), "labels": jnp.zeros(2, int)}
    with pytest.raises(InputError, match=field):
        function(jax.random.key(0), _constant, **arguments | wrong)


@pytest.mark.parametrize("budget", [1, 5000])
def test_whatever_memory_there_is_changes_nothing(budget, monkeypatch, float64):
    """One example at once, some, or all of them linearised: the same Hessian."""
    params, images, labels = _mlp_and_data()
    expected = _dense_eigenvalues(_mlp, params, images, labels)
    monkeypatch.setattr("memjax.memory.memory_budget", lambda device=None: budget)

    def again(params, images):  # another function object: programs are kept for each
        return _mlp(params, images)

    key = jax.random.key(0)
    found = hessian_eigenvalue(key, again, params, images, labels, tolerance=1e-6)
    largest = expected[np.argmax(np.abs(expected))]
    np.testing.assert_allclose(found.eigenvalue, largest, rtol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 45.0])
def test_the_eigenvalue_of_memorized_examples_keeps_its_digits(scale):
    """Of two examples at margin m the eigenvalue is p (1 - p), p = e^-m / (1 + e^-m)."""
    found = hessian_eigenvalue(
        jax.random.key(0), lambda params, images: images @ params, jnp.eye(2) * scale, jnp.eye(2),
        jnp.array([0, 1]),
    )  # fmt: skip
    expected = np.exp(-scale) / (1 + np.exp(-scale)) ** 2
    np.testing.assert_allclose(found.eigenvalue, expected, rtol=1e-5)


def test_a_seed_is_no_key():
    arguments = (lambda params, images: images @ params, jnp.eye(2), jnp.eye(2), jnp.array([0, 1]))
    with pytest.raises(InputError, match=r"key: must be one typed key, as jax\.random"):
        hessian_eigenvalue(0, *arguments)
    words = hessian_eigenvalue(jax.random.PRNGKey(3), *arguments)
    np.testing.assert_array_equal(
        words.eigenvalue, hessian_eigenvalue(jax.random.key(3), *arguments).eigenvalue
    )
