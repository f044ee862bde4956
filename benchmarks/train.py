"""The train step against its own matrix products and against PyTorch, in one process.

    pip install . && pip install torch==2.13.0     # torch only for the peer's rows
    python -m benchmarks.train                     # about a minute on 2 cores

784-4096-4096-10, batch 128, SGD. `products alone` are the eight matrix products of its forward and
backward pass, nothing else, in a loop of the same kind. torch starts from the same parameters and
sees the same batches; the parameters of both are compared after the first five steps. Each row is
the median of paired ratios: A and B run in turn, so that a drifting machine cancels. The paper's
CNN is in convolution.py.
"""

import argparse
import importlib.util
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.rows import record
from benchmarks.torch_mlp import torch_mlp
from memjax import presets
from memjax.config import resolve
from memjax.data.batching import epoch_order
from memjax.data.dataset import Dataset, make_split
from memjax.training.group import Group
from memjax.training.setup import prepare
from memjax.training.state import member_keys

NUM_EXAMPLES, BATCH = 2048, 128


def our_program(preset, image_shape, steps):
    """Returns a function that trains `steps` steps and blocks, the group and its setup."""
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

    return run, group, setup


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


def torch_steps(group, setup, steps):
    """Returns the same steps in torch, from the same parameters, on the same batches in order."""
    import torch

    network = torch_mlp(kernels_and_biases(group))
    optimizer = torch.optim.SGD(network.parameters(), lr=setup.config.optimizer.learning_rate)
    pixels = torch.from_numpy(setup.examples.images.reshape(NUM_EXAMPLES, -1).copy())
    classes = torch.from_numpy(setup.examples.labels.copy()).long()
    mean, std = float(setup.network.mean), float(setup.network.std)
    order = torch.tensor(np.array(epoch_order(member_keys(0).order, 0, NUM_EXAMPLES))).long()
    loss_fn = torch.nn.CrossEntropyLoss()

    def run():
        for rows in order[: steps * BATCH].split(BATCH):
            batch = (pixels[rows].float() / 255 - mean) / std
            optimizer.zero_grad()
            loss_fn(network(batch), classes[rows]).backward()
            optimizer.step()

    return run, network


def kernels_and_biases(group):
    """Returns the parameters of each layer, on the host."""
    params = group.saved([0]).state.params["params"]
    return [
        tuple(np.asarray(params[name][leaf][0]) for leaf in ("kernel", "bias"))
        for name in sorted(params)
    ]


def check(group, network):
    """Fails unless both sides have the same parameters after the same steps."""
    for place, (kernel, bias) in zip((0, 2, 4), kernels_and_biases(group), strict=True):
        np.testing.assert_allclose(
            kernel, network[place].weight.detach().numpy().T, rtol=1e-3, atol=1e-5
        )
        np.testing.assert_allclose(bias, network[place].bias.detach().numpy(), rtol=1e-3, atol=1e-5)


def paired(ours, other, steps, rounds):
    """Returns median milliseconds a step of both, and the median of the paired other / ours."""
    times = []
    for _ in range(rounds):
        pair = []
        for run in (ours, other):
            began = time.perf_counter()
            run()
            pair.append((time.perf_counter() - began) / steps * 1000)
        times.append(pair)
    times = np.array(times)
    return *np.median(times, axis=0), np.median(times[:, 1] / times[:, 0])


def main():
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    has_torch = importlib.util.find_spec("torch") is not None
    print(f"{'what':<34}{'ours ms':>9}{'other ms':>10}{'other/ours':>12}  target")
    mlp, group, setup = our_program(presets.mnist_mlp, (28, 28, 1), 5)
    rows = [("mlp step / its products alone", mlp, products_alone(5), 5, 1 / 1.15)]
    if has_torch:
        peer, network = torch_steps(group, setup, 5)
        mlp(), peer()
        check(group, network)
        rows.append(("mlp step / torch", mlp, peer, 5, 1.4))
    for words, ours, other, steps, target in rows:
        ours(), other()
        mine, theirs, ratio = paired(ours, other, steps, rounds)
        print(f"{words:<34}{mine:>9.1f}{theirs:>10.1f}{ratio:>12.2f}  {target:.2f}", flush=True)
        record(*words.split(" / "), ratio, target)
    if not has_torch:
        print("torch is not installed: its rows are left out")


if __name__ == "__main__":
    main()
