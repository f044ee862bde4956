"""FLOPs are those of a count by hand; peaks are known by name, or measured."""

import jax
import jax.numpy as jnp
import optax
import pytest

from memjax.models.registry import build_model
from memjax.runtime import flops
from memjax.runtime.flops import count_flops, known_peak, peak_flops
from memjax.runtime.mesh import make_mesh
from memjax.training.state import init_state
from memjax.training.step import Adversarial, Batch, Network, make_train_step, step_flops


def test_an_mlp_step_is_three_products_a_layer_but_two_in_the_first():
    network = Network(build_model("mlp", 10, widths=(48, 32)))
    multiplications = 3 * (64 * 48 + 48 * 32 + 32 * 10) - 64 * 48
    assert step_flops(network, optax.sgd(0.1), (8, 8, 1), 16) == 2 * 16 * multiplications


@pytest.mark.parametrize("method", ["lax", "patches", "fourier"])
def test_a_cnn_step_counts_direct_convolutions_however_it_is_computed(method):
    model = build_model("alexnet", 10, width_factor=0.1, crop=0, pool=2, method=method)
    first, second = 8 * 8 * 25 * 1 * 20, 4 * 4 * 25 * 20 * 20
    dense = 2 * 2 * 20 * 38 + 38 * 19 + 19 * 10
    multiplications = 3 * (first + second + dense) - first
    found = step_flops(Network(model), optax.sgd(0.1), (8, 8, 1), 16)
    assert found == 2 * 16 * multiplications


def test_the_count_agrees_with_xlas_where_no_loop_hides_work():
    network, optimizer = Network(build_model("mlp", 10, widths=(256, 256))), optax.sgd(0.1)
    state = init_state(0, network.model, optimizer, (8, 8, 1))
    batch = Batch(jnp.zeros((128, 8, 8, 1)), jnp.zeros(128, jnp.int32))
    lowered = jax.jit(make_train_step(network, optimizer)).lower(state, batch, jax.random.key(0))
    ours = step_flops(network, optimizer, (8, 8, 1), 128)
    assert lowered.cost_analysis()["flops"] == pytest.approx(ours, rel=0.05)


def test_a_loop_counts_as_often_as_it_runs():
    x, w = jnp.zeros((3, 4)), jnp.zeros((4, 4))
    scanned = count_flops(
        lambda x, w: jax.lax.scan(lambda c, _: (c @ w, None), x, None, length=7)[0], x, w
    )
    assert scanned == 7 * count_flops(jnp.matmul, x, w) == 7 * 2 * 3 * 4 * 4
    branches = count_flops(
        lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x @ w @ w), x, w
    )
    assert branches == 2 * 2 * 3 * 4 * 4


def test_a_strided_convolution_and_its_gradients_cost_the_same():
    images, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((2, 2, 3, 5))

    def convolved(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    forward = count_flops(convolved, images, kernel)
    assert forward == 2 * 2 * 4 * 4 * 5 * 2 * 2 * 3
    gradients = jax.grad(lambda *args: convolved(*args).sum(), argnums=(0, 1))
    assert count_flops(gradients, images, kernel) == pytest.approx(3 * forward)


def test_adversarial_steps_count():
    plain = Network(build_model("mlp", 10, widths=(48,)))
    found = [
        step_flops(plain._replace(adversarial=Adversarial(0.5, 0.1, n)), optax.sgd(0.1), (8, 8), 4)
        for n in (1, 2, 3)
    ]
    assert found[2] - found[1] == found[1] - found[0] > 0


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v4", 275e12),
        ("TPU v4 lite", None),
        ("cpu", None),
    ],
)
def test_peaks_are_known_by_the_name_of_the_device(kind, peak):
    assert known_peak(kind, "bfloat16") == peak


def test_an_unknown_peak_is_measured(monkeypatch):
    mesh = make_mesh(1, 2)
    assert peak_flops(mesh, jnp.float32) > 1e9
    monkeypatch.setitem(flops.PEAKS, mesh.local_devices[0].device_kind, (3.0, 2.0))
    assert peak_flops(mesh, jnp.float32) == 2 * 2.0
    assert peak_flops(mesh, "bfloat16") == 2 * 3.0
