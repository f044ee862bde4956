"""Per-example gradient norms beside opacus, BackPACK and jax_privacy, and beside a batch gradient.

    pip install . opacus==1.6.0 backpack-for-pytorch==1.7.1 jax-privacy==2.0.0 torch
    python -m benchmarks.gradients

Every side gets the same weights, images and labels. The norms are compared before anything is
timed. Rounds are interleaved, all in this process: a ratio is the median over rounds of the ratio
within a round, so that a busy machine disturbs both alike. A turn takes a quarter of a second, of
which the second half is timed: waiting threads of the side before keep the cores for a while.
Memory is what XLA's compiled program needs: arguments, results and temporaries. A peer that is not
installed is said to be so.
"""

import argparse
import functools
import importlib.util
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.rows import record
from memjax.analysis.gradients import gradient_norms
from memjax.analysis.losses import softmax_cross_entropy

PEERS = ("opacus", "backpack", "jax_privacy")
SECONDS_A_TURN = 0.25


class Case(NamedTuple):
    """One network: its layers, its data, and how many times as fast as the best peer to be."""

    name: str
    image_shape: tuple[int, ...]
    channels: tuple[int, ...]  # of the 5x5 convolutions, each followed by ReLU and pooling by 2
    widths: tuple[int, ...]  # of the dense layers, the classes last
    num_examples: int
    target: float


CASES = [
    Case("196-16-16-10, n 1000", (14, 14, 1), (), (16, 16, 10), 1000, 4.0),
    Case("784-512-512-10, n 256", (28, 28, 1), (), (512, 512, 10), 256, 2.2),
    Case("CNN 32-64-128-10, n 128", (28, 28, 1), (32, 64), (128, 10), 128, 1.0),
]


def init(case: Case, rng: np.random.Generator) -> tuple[list, list]:
    """Returns (kernel, bias) of every convolution and of every dense layer."""
    height, width, previous = case.image_shape
    convolutions, dense = [], []
    for channels in case.channels:
        kernel = rng.normal(scale=math.sqrt(2 / (25 * previous)), size=(5, 5, previous, channels))
        convolutions.append((kernel, rng.normal(scale=0.1, size=channels)))
        previous, height, width = channels, (height - 4) // 2, (width - 4) // 2
    previous *= height * width
    for units in case.widths:
        kernel = rng.normal(scale=math.sqrt(2 / previous), size=(previous, units))
        dense.append((kernel, rng.normal(scale=0.1, size=units)))
        previous = units
    return jax.tree.map(lambda x: np.asarray(x, np.float32), (convolutions, dense))


def logits_fn(params: tuple[list, list], images: jax.Array) -> jax.Array:
    """Returns the logits [n classes] of images [n height width channels]."""
    convolutions, dense = params
    hidden = images
    for kernel, bias in convolutions:
        hidden = jax.lax.conv_general_dilated(
            hidden, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        hidden = jax.nn.relu(hidden + bias)
        window = (1, 2, 2, 1)
        hidden = jax.lax.reduce_window(hidden, -jnp.inf, jax.lax.max, window, window, "VALID")
    hidden = hidden.reshape(len(hidden), -1)
    for layer, (kernel, bias) in enumerate(dense):
        hidden = hidden @ kernel + bias
        if layer < len(dense) - 1:
            hidden = jax.nn.relu(hidden)
    return hidden


@jax.jit
def batch_gradient(params: Any, images: jax.Array, labels: jax.Array) -> Any:
    """Returns the gradient of the mean loss, as a training step computes it."""

    def loss(params: Any) -> jax.Array:
        return jax.vmap(softmax_cross_entropy)(logits_fn(params, images), labels).mean()

    return jax.grad(loss)(params)


def jax_privacy_norms(params: Any, images: np.ndarray, labels: np.ndarray) -> Callable:
    """Returns a function without arguments that computes the norms with jax_privacy."""
    import jax_privacy

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        return jax.vmap(softmax_cross_entropy)(logits_fn(params, images), labels).sum()

    clipped = jax_privacy.clipped_grad(
        loss, l2_clip_norm=1.0, batch_argnums=(1, 2), return_grad_norms=True
    )
    compiled = jax.jit(lambda *inputs: clipped(*inputs)[1].grad_norms)
    inputs = jax.device_put((params, images, labels))
    return lambda: jax.block_until_ready(compiled(*inputs))


def torch_model(params: tuple[list, list], case: Case) -> Any:
    """Returns the same network in torch, channels first."""
    from torch import nn

    layers: list[nn.Module] = []
    previous = case.image_shape[-1]
    for channels in case.channels:
        layers += [nn.Conv2d(previous, channels, 5), nn.ReLU(), nn.MaxPool2d(2)]
        previous = channels
    layers.append(nn.Flatten())
    for kernel, _ in params[1]:
        layers += [nn.Linear(*kernel.shape), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    _copy_weights(model, params, case)
    return model


def _copy_weights(model: Any, params: tuple[list, list], case: Case) -> None:
    import torch

    convolutions, dense = params
    kernels = [(kernel.transpose(3, 2, 0, 1), bias) for kernel, bias in convolutions]
    for layer, (kernel, bias) in enumerate(dense):
        if layer == 0 and convolutions:  # flattened [channels height width] there
            channels = case.channels[-1]
            side = math.isqrt(len(kernel) // channels)
            kernel = kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3)
            kernel = kernel.reshape(-1, kernel.shape[-1])
        kernels.append((kernel.T, bias))
    with torch.no_grad():
        for parameter, values in zip(model.parameters(), sum(kernels, ()), strict=True):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def _torch_data(images: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    import torch

    # A copy: a mere view of one channel has the strides of channels last, which opacus's conv
    # gradients take for contiguous.
    channels_first = images.transpose(0, 3, 1, 2).copy(order="C")
    return torch.from_numpy(channels_first), torch.from_numpy(labels.astype(np.int64))


def opacus_norms(params: Any, images: np.ndarray, labels: np.ndarray, case: Case) -> Callable:
    """Returns a function that computes the norms with opacus's ghost clipping."""
    from opacus.grad_sample import GradSampleModuleFastGradientClipping
    from torch.nn.functional import cross_entropy

    model = GradSampleModuleFastGradientClipping(
        torch_model(params, case), loss_reduction="sum", use_ghost_clipping=True
    )
    inputs, targets = _torch_data(images, labels)

    def norms() -> np.ndarray:
        model.zero_grad()
        cross_entropy(model(inputs), targets, reduction="sum").backward()
        return model.get_norm_sample().numpy()

    return norms


def backpack_norms(params: Any, images: np.ndarray, labels: np.ndarray, case: Case) -> Callable:
    """Returns a function that computes the norms with BackPACK's BatchL2Grad."""
    import torch
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    model = extend(torch_model(params, case))
    loss_function = extend(torch.nn.CrossEntropyLoss(reduction="sum"))
    inputs, targets = _torch_data(images, labels)

    def norms() -> np.ndarray:
        model.zero_grad()
        with backpack(BatchL2Grad()):
            loss_function(model(inputs), targets).backward()
        squares = [parameter.batch_l2 for parameter in model.parameters()]
        return torch.stack(squares).sum(0).sqrt().numpy()

    return norms


def contestants(case: Case) -> dict[str, Callable]:
    """Returns what is timed, by name: 'memjax', 'batch gradient', and the peers installed here."""
    rng = np.random.default_rng(0)
    params = init(case, rng)
    images = rng.uniform(size=(case.num_examples, *case.image_shape)).astype(np.float32)
    labels = rng.integers(0, case.widths[-1], case.num_examples).astype(np.int32)
    inputs = jax.device_put((params, images, labels))
    found: dict[str, Callable] = {
        "memjax": lambda: jax.block_until_ready(gradient_norms(logits_fn, *inputs)),
        "batch gradient": lambda: jax.block_until_ready(batch_gradient(*inputs)),
    }
    makers: dict[str, Callable] = {
        "opacus": functools.partial(opacus_norms, case=case),
        "backpack": functools.partial(backpack_norms, case=case),
        "jax_privacy": jax_privacy_norms,
    }
    for peer in PEERS:
        if importlib.util.find_spec(peer):
            found[peer] = makers[peer](params, images, labels)
    ours = found["memjax"]()
    for peer in found.keys() & set(PEERS):
        np.testing.assert_allclose(found[peer](), ours, rtol=1e-4, err_msg=peer)
    return found


def time_rounds(functions: dict[str, Callable], seconds: float) -> dict[str, np.ndarray]:
    """Returns seconds per call, [rounds] for each function, in interleaved rounds."""
    repeats = {}
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        repeats[name] = max(1, round(SECONDS_A_TURN / 2 / (time.perf_counter() - start)))
    rounds: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds["memjax"]) < 5:
        for name, function in functions.items():
            for call in range(2 * repeats[name]):
                if call == repeats[name]:
                    start = time.perf_counter()
                function()
            rounds[name].append((time.perf_counter() - start) / repeats[name])
    return {name: np.array(times) for name, times in rounds.items()}


def memory_ratio(case: Case) -> tuple[float, float]:
    """Returns the megabytes of our program and of the batch gradient's."""
    inputs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
        (
            init(case, np.random.default_rng(0)),
            np.zeros((case.num_examples, *case.image_shape), np.float32),
            np.zeros(case.num_examples, np.int32),
        ),
    )
    megabytes = []
    for program in (jax.jit(functools.partial(gradient_norms, logits_fn)), batch_gradient):
        memory = program.lower(*inputs).compile().memory_analysis()
        total = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        megabytes.append((total + memory.output_size_in_bytes) / 2**20)
    return megabytes[0], megabytes[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="of timing, for each network")
    seconds = parser.parse_args().seconds
    header = ("what", "memjax", "other", "ratio", "target")
    print("{:<42} {:>10} {:>10} {:>7} {:>8}".format(*header))
    for case in CASES:
        functions = contestants(case)
        times = time_rounds(functions, seconds)
        ours = times["memjax"]
        peers = [peer for peer in PEERS if peer in times]
        fastest = min(peers, key=lambda peer: np.median(times[peer] / ours), default=None)
        for name in (*PEERS, "batch gradient"):
            what = f"{case.name}: {name}"
            if name not in times:
                print(f"{what:<42} not installed")
                continue
            ratio, target = np.median(times[name] / ours), ""
            if name == "batch gradient":
                ratio, target = np.median(ours / times[name]), "<= 1.5"
            elif name == fastest:
                target = f">= {case.target}"
            numbers = f"{1e3 * np.median(ours):8.2f}ms {1e3 * np.median(times[name]):8.2f}ms"
            print(f"{what:<42} {numbers} {ratio:7.2f} {target:>8}")
            if name == "batch gradient":
                record(f"gradient norms, {case.name}", "one batch gradient", 1 / ratio, 1 / 1.5)
            else:
                aim = case.target if name == fastest else None
                record(f"gradient norms, {case.name}", name, ratio, aim)
        ours_mb, other_mb = memory_ratio(case)
        what = f"{case.name}: memory of batch gradient"
        print(f"{what:<42} {ours_mb:8.1f}MB {other_mb:8.1f}MB {ours_mb / other_mb:7.2f}   <= 1.5")
        record(f"memory of norms, {case.name}", "one batch gradient", other_mb / ours_mb, 1 / 1.5)


if __name__ == "__main__":
    main()
