"""The paper's CNN and its layers on CPU: memjax beside torch (channels last) and XLA's convolution.

    pip install . torch
    python -m benchmarks.convolution

Every side gets the same weights, images and labels, and loss and gradients are compared before
anything is timed. Rounds are interleaved, all in this process: a ratio is the median over rounds of
the ratio within a round, so that a busy machine disturbs both sides alike. Times are milliseconds
for one forward and backward pass of a batch of 128, the smallest of the rounds. A step of memjax
runs as in training, several steps in one compiled loop. XLA's convolution gets one call a step, for
inside a compiled loop its backward pass on CPU is tens of times slower (last row, batch of 8).
"""

import argparse
import importlib.util
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks.rows import record
from memjax.models.alexnet import AlexNet
from memjax.models.convolution import convolution
from memjax.models.pooling import max_pool
from memjax.training.state import TrainState
from memjax.training.step import Batch, Network, make_train_step

BATCH_SIZE, LEARNING_RATE, MOMENTUM = 128, 0.01, 0.9
FACTORS = (0.125, 0.25, 0.5, 1.0)
STEPS_PER_CALL = 3
TOLERANCE = 1e-3  # of the norm of the difference over the norm
KERNELS = ("Conv_0", "Conv_1")


class Row(NamedTuple):
    """One comparison: functions of no argument that return what is to be equal, and a target."""

    what: str
    peer: str
    ours: Any
    theirs: Any
    target: float | None
    passes: tuple[int, int] = (1, 1)  # how many passes one call of either side makes
    compared: Any = None  # what to compare with `theirs` instead of `ours`


def network_rows(rng: np.random.Generator, has_torch: bool, factor: float) -> list[Row]:
    """The train step: loss and all gradients through the paper's CNN, and the update.

    Args:
      rng: of images and labels.
      has_torch: whether torch is installed.
      factor: of all widths.
    """
    images = rng.uniform(size=(BATCH_SIZE, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(10, size=BATCH_SIZE).astype(np.int32)
    batch = Batch(jnp.asarray(images), jnp.asarray(labels))
    model = AlexNet(10, width_factor=factor)
    variables = jax.jit(lambda key: model.init(key, batch.images, train=False))(jax.random.key(0))

    def ours(method: str, num_steps: int):
        optimizer = optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
        train_step = make_train_step(Network(model.clone(method=method)), optimizer)

        @jax.jit
        def train(state, batch, key):
            if num_steps == 1:
                return train_step(state, batch, key)
            return jax.lax.scan(
                lambda state, _: train_step(state, batch, key), state, length=num_steps
            )

        start = {name: variables["params"][name]["kernel"] for name in KERNELS}
        state = TrainState(variables, optimizer.init(variables["params"]))

        def run():
            new_state, metrics = jax.block_until_ready(train(state, batch, jax.random.key(0)))
            changed = new_state.params["params"]
            return [metrics["loss"].ravel()[0], *(changed[k]["kernel"] - start[k] for k in KERNELS)]

        return run

    looped, one = ours("auto", STEPS_PER_CALL), ours("auto", 1)
    theirs = torch_step(variables["params"], images, labels) if has_torch else None
    what = f"CNN step, width {factor:g}"
    rows = [Row(what, "torch channels last", looped, theirs, 1.3, (STEPS_PER_CALL, 1), one)]
    if factor == 1:
        rows.append(Row(what, "lax, one call a step", one, ours("lax", 1), 1.0))
    return rows


def torch_step(params: Any, images: np.ndarray, labels: np.ndarray):
    """Returns a function that makes one step of the same network from the same weights."""
    import torch

    layers = torch.nn
    widths = [params[name]["kernel"].shape[-1] for name in (*KERNELS, "Dense_0", "Dense_1")]
    first, second, third, fourth = widths
    network = layers.Sequential(
        layers.Conv2d(3, first, 5, padding=2, bias=False),
        layers.BatchNorm2d(first),
        layers.MaxPool2d(3),
        layers.ReLU(),
        layers.Conv2d(first, second, 5, padding=2, bias=False),
        layers.BatchNorm2d(second),
        layers.MaxPool2d(3),
        layers.ReLU(),
        layers.Flatten(),
        layers.Linear(9 * second, third, bias=False),
        layers.BatchNorm1d(third),
        layers.ReLU(),
        layers.Linear(third, fourth, bias=False),
        layers.BatchNorm1d(fourth),
        layers.ReLU(),
        layers.Linear(fourth, 10),
    ).to(memory_format=torch.channels_last)
    kernels = [np.asarray(params[f"Conv_{i}"]["kernel"]).transpose(3, 2, 0, 1) for i in (0, 1)]
    # torch flattens [channels height width], flax [height width channels].
    dense = np.asarray(params["Dense_0"]["kernel"]).reshape(3, 3, second, third)
    kernels += [dense.transpose(3, 2, 0, 1).reshape(third, 9 * second)]
    kernels += [np.asarray(params[f"Dense_{i}"]["kernel"]).T for i in (1, 2)]
    weighted = [m for m in network if isinstance(m, layers.Conv2d | layers.Linear)]
    start = [torch.tensor(kernel) for kernel in kernels]
    batch = torch.tensor(images).permute(0, 3, 1, 2)  # channels last, as memjax has them
    targets = torch.tensor(labels).long()
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    torch.nn.init.zeros_(weighted[-1].bias)
    with torch.no_grad():
        for module, kernel in zip(weighted, start, strict=True):
            module.weight.copy_(kernel)

    def run():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(batch[:, :, 2:-2, 2:-2]), targets)
        loss.backward()
        optimizer.step()
        moved = [
            (module.weight.detach() - kernel).numpy().transpose(2, 3, 1, 0)
            for module, kernel in zip(weighted[:2], start[:2], strict=True)
        ]
        return [np.float32(loss.item()), *moved]

    return run


def convolution_rows(rng: np.random.Generator, has_torch: bool) -> list[Row]:
    """Each convolution alone: output and gradients (of the images in the second layer only)."""
    rows = []
    for what, size, channels, with_images, target in (
        ("first convolution", 28, 3, False, None),
        ("second convolution", 9, 200, True, 1.0),
    ):
        shapes = [(BATCH_SIZE, size, size, channels), (5, 5, channels, 200)]
        images, kernel = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
        cotangent = rng.normal(size=(BATCH_SIZE, size, size, 200)).astype(np.float32)

        auto = jax_convolution(images, kernel, cotangent, with_images, "auto")
        lax = jax_convolution(images, kernel, cotangent, with_images, "lax")
        theirs = torch_convolution(images, kernel, cotangent, with_images) if has_torch else None
        rows.append(Row(what, "torch channels last", auto, theirs, target))
        rows.append(Row(what, "lax", auto, lax, 1.0))
    return rows


def jax_convolution(images, kernel, cotangent, with_images, method):
    """Returns the passes of one convolution as a function of no argument."""

    @jax.jit
    def passes(images, kernel, cotangent):
        def convolve(images, kernel):
            return convolution(images, kernel, method=method)

        if with_images:
            outputs, pull = jax.vjp(convolve, images, kernel)
        else:
            outputs, pull = jax.vjp(lambda kernel: convolve(images, kernel), kernel)
        return [outputs, *pull(cotangent)]

    arrays = [jnp.asarray(array) for array in (images, kernel, cotangent)]
    return lambda: jax.block_until_ready(passes(*arrays))


def torch_convolution(images, kernel, cotangent, with_images):
    """Returns the same passes in torch, on channels-last tensors."""
    import torch

    kernel = torch.tensor(kernel).permute(3, 2, 0, 1)
    images, cotangent = (torch.tensor(array).permute(0, 3, 1, 2) for array in (images, cotangent))
    kernel = kernel.contiguous(memory_format=torch.channels_last).requires_grad_()
    images.requires_grad_(with_images)

    def run():
        kernel.grad = images.grad = None
        outputs = torch.nn.functional.conv2d(images, kernel, padding=2)
        outputs.backward(cotangent)
        results = [outputs.detach().numpy().transpose(0, 2, 3, 1)]
        if with_images:
            results.append(images.grad.numpy().transpose(0, 2, 3, 1))
        return [*results, kernel.grad.numpy().transpose(2, 3, 1, 0)]

    return run


def loop_and_pool_rows(rng: np.random.Generator) -> list[Row]:
    """XLA's convolution inside a compiled loop, and its pooling."""
    images = jnp.asarray(rng.normal(size=(8, 9, 9, 200)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(5, 5, 200, 200)), jnp.float32)

    def looped(method):
        @jax.jit
        def descend(images, kernel):
            def step(kernel, _):
                gradient = jax.grad(lambda k: jnp.sum(convolution(images, k, "SAME", method) ** 2))
                return kernel - 1e-9 * gradient(kernel), None

            return jax.lax.scan(step, kernel, length=2)[0]

        return lambda: [jax.block_until_ready(descend(images, kernel))]

    pooled = jnp.asarray(rng.normal(size=(BATCH_SIZE, 28, 28, 200)), jnp.float32)

    def pool(function):
        passes = jax.jit(jax.grad(lambda images: jnp.sum(jnp.sin(function(images)))))
        return lambda: [jax.block_until_ready(passes(pooled))]

    return [
        Row("max pooling", "flax", pool(lambda x: max_pool(x, 3)),
            pool(lambda x: nn.max_pool(x, (3, 3), (3, 3))), 1.0),
        Row("loop, batch of 8", "lax", looped("auto"), looped("lax"), 1.0, (2, 2)),
    ]  # fmt: skip


def measure(row: Row, rounds: int) -> str:
    """Compares the results, times both sides in turn, and returns a line of the table."""
    row.ours()  # compiles
    for mine, other in zip((row.compared or row.ours)(), row.theirs(), strict=True):
        # A rounding error may turn the choice of a maximum or of a ReLU here and there.
        error = np.linalg.norm(np.asarray(mine) - other) / np.linalg.norm(other)
        if not error < TOLERANCE:
            raise SystemExit(f"{row.what}, {row.peer}: results differ by {error:.1e} (relative)")
    times = np.empty((rounds, 2))
    for index in range(rounds):
        for side, call in enumerate((row.ours, row.theirs)):
            start = time.perf_counter()
            call()
            times[index, side] = (time.perf_counter() - start) * 1e3 / row.passes[side]
    best, ratio = times.min(axis=0), np.median(times[:, 1] / times[:, 0])
    record(row.what, row.peer, ratio, row.target)
    target = "" if row.target is None else f"{row.target:.1f}"
    return f"{row.what:22s} {row.peer:22s} {best[0]:9.1f} {best[1]:9.1f} {ratio:7.2f} {target:>7s}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    has_torch = importlib.util.find_spec("torch") is not None
    rng = np.random.default_rng(0)
    print(f"{'what':22s} {'peer':22s} {'ours ms':>9s} {'peer ms':>9s} {'ratio':>7s} {'target':>7s}")
    for rows in (
        *(network_rows(rng, has_torch, factor) for factor in FACTORS),
        convolution_rows(rng, has_torch),
        loop_and_pool_rows(rng),
    ):
        for row in rows:
            missing = f"{row.what:22s} {row.peer:22s} not installed"
            print(measure(row, rounds) if row.theirs else missing, flush=True)


if __name__ == "__main__":
    main()
