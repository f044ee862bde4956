"""The train step against its own matrix products and against PyTorch, in one process.

    pip install . && pip install torch==2.13.0     # torch only for the peer's rows
    python benchmarks/train.py                     # about a minute on 2 cores

mlp: 784-4096-4096-10, batch 128, SGD. `products alone` are the eight matrix products of its forward
and backward pass, nothing else, in a loop of the same kind.
cnn: the paper's CNN on 32x32x3 images, batch 128, momentum .9; torch in channels-last.
Each row is the median of paired ratios: A and B run in turn, so that a drifting machine cancels.
"""

import argparse
import importlib.util
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from memjax import presets
from memjax.config import resolve
from memjax.data.dataset import Dataset, make_split
from memjax.training.group import Group
from memjax.training.setup import prepare

NUM_EXAMPLES, BATCH = 2048, 128


def our_program(preset, image_shape, steps):
    """Returns a function that trains `steps` steps and blocks, and the data."""
    images = np.random.default_rng(0).integers(0, 256, (NUM_EXAMPLES, *image_shape), np.uint8)
    labels = np.random.default_rng(1).integers(0, 10, NUM_EXAMPLES).astype(np.int32)
    train = make_split(images, labels)
    names = tuple(map(str, range(10)))
    dataset = Dataset("random", 10, names, train, train.take(np.arange(0)))
    config = preset()
    config.train.batch_size, config.run.num_devices = BATCH, 1
    setup = prepare(resolve(config), dataset)
    with jax.set_mesh(setup.mesh):
        group = Group([setup], (), setup.mesh, 1)
        group.start([0])

    def run():
        with jax.set_mesh(setup.mesh):
            group.train(0, steps)

    return run, images, labels


def products_alone(steps, widths=(784, 4096, 4096, 10)):
    """Returns a function that computes the MLP's matrix products, `steps` times."""
    keys = iter(jax.random.split(jax.random.key(0), 3 * len(widths)))
    pairs = list(itertools.pairwise(widths))
    kernels = [jax.random.normal(next(keys), pair) / 100 for pair in pairs]
    inputs = [jax.random.normal(next(keys), (BATCH, width)) for width in widths[:-1]]
    cotangents = [jax.random.normal(next(keys), (BATCH, width)) for width in widths[1:]]

    def body(_, carry):
        kernels, inputs, cotangents, _ = carry
        forward = [x @ w for x, w in zip(inputs, kernels, strict=True)]
        gradients = [x.T @ c for x, c in zip(inputs, cotangents, strict=True)]
        backward = [c @ w.T for c, w in zip(cotangents[1:], kernels[1:], strict=True)]
        # Every product becomes an operand of the next round, so that none can be left out.
        return gradients, [inputs[0], *backward], forward, 0

    def loop(carry, steps):
        return jax.lax.fori_loop(0, steps, body, carry)

    products = jax.jit(loop, donate_argnums=0)
    carry = kernels, inputs, cotangents, 0

    def run():
        nonlocal carry
        carry = jax.block_until_ready(products(carry, jnp.int32(steps)))

    return run


def torch_mlp(images, labels, steps):
    """Returns the same MLP step in torch."""
    import torch

    model = torch.nn.Sequential(
        torch.nn.Linear(784, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 4096), torch.nn.ReLU(),
        torch.nn.Linear(4096, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return _torch_steps(model, optimizer, images.reshape(NUM_EXAMPLES, -1), labels, steps)


def torch_cnn(images, labels, steps):
    """Returns the same CNN step in torch, channels-last."""
    import torch
    from torch import nn

    def block(channels):
        return [nn.Conv2d(channels, 200, 5, padding=2, bias=False), nn.BatchNorm2d(200), nn.ReLU(),
                nn.MaxPool2d(3)]  # fmt: skip

    def dense(inputs, units):
        return [nn.Linear(inputs, units, bias=False), nn.BatchNorm1d(units), nn.ReLU()]

    layers = [*block(3), *block(200), nn.Flatten(), *dense(1800, 384), *dense(384, 192)]
    model = nn.Sequential(*layers, nn.Linear(192, 10)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    cropped = np.moveaxis(images[:, 2:-2, 2:-2], 3, 1)
    return _torch_steps(model, optimizer, cropped, labels, steps, channels_last=True)


def _torch_steps(model, optimizer, images, labels, steps, channels_last=False):
    import torch

    pixels, classes = torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels)
    if channels_last:
        pixels = pixels.to(memory_format=torch.channels_last)
    loss_fn = torch.nn.CrossEntropyLoss()

    def run():
        for start in range(0, steps * BATCH, BATCH):
            rows = torch.arange(start, start + BATCH) % NUM_EXAMPLES
            batch = (pixels[rows].float() / 255 - 0.5) / 0.5
            optimizer.zero_grad()
            loss_fn(model(batch), classes[rows].long()).backward()
            optimizer.step()

    return run


def paired(ours, other, steps, rounds):
    """Returns median milliseconds a step of both, and the median of the paired ratios."""
    ours(), other()
    times = []
    for _ in range(rounds):
        pair = []
        for run in (ours, other):
            began = time.perf_counter()
            run()
            pair.append((time.perf_counter() - began) / steps * 1000)
        times.append(pair)
    times = np.array(times)
    return *np.median(times, axis=0), np.median(times[:, 0] / times[:, 1])


def main():
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    has_torch = importlib.util.find_spec("torch") is not None
    print(f"{'what':<34}{'ours ms':>9}{'other ms':>10}{'ours/other':>12}  target")
    mlp, images, labels = our_program(presets.mnist_mlp, (28, 28, 1), 5)
    rows = [("mlp step / its products alone", mlp, products_alone(5), 5, "at most 1.15")]
    if has_torch:
        peer = torch_mlp(images, labels, 5)
        rows.append(("mlp step / torch", mlp, peer, 5, "at most .71 (1.4 times as fast)"))
        cnn, images, labels = our_program(presets.cifar_cnn, (32, 32, 3), 2)
        peer = torch_cnn(images, labels, 2)
        rows.append(("cnn step / torch channels-last", cnn, peer, 2, "1 is aimed at"))
    for words, ours, other, steps, target in rows:
        mine, theirs, ratio = paired(ours, other, steps, rounds)
        print(f"{words:<34}{mine:>9.1f}{theirs:>10.1f}{ratio:>12.2f}  {target}", flush=True)
    if not has_torch:
        print("torch is not installed: its rows are left out")


if __name__ == "__main__":
    main()
