"""ResNet-18 for CIFAR, step by step beside torch: the same weights, batches, recipe; loss by loss.

    pip install . && pip install torch==2.13.0
    python -m benchmarks.torch_resnet                          # 200 steps of a batch of 16
    python -m benchmarks.torch_resnet --dtype=float32          # as a run computes it

The recipe is that of configs/cifar_resnet_real.py: Nesterov momentum, weight decay of the kernels
alone, warm-up and cosine, label smoothing, random crops and flips (torch is given the images that
memjax's own step makes), the rate scaled with the batch. In float64 the two curves must agree to
1e-6 over all steps; in float32 training amplifies rounding, and the table shows how fast. The
images are random: what is compared needs no data set.
"""

import argparse
import time
from typing import Any

import jax
import numpy as np

EVERY = 20


def memjax_losses(args: argparse.Namespace, images: np.ndarray, labels: np.ndarray):
    """Trains with memjax's own step; returns losses, batches as trained on, and the parameters."""
    import jax.numpy as jnp

    from memjax import presets
    from memjax.config import resolve
    from memjax.data.batching import make_batches
    from memjax.keys import tagged
    from memjax.training.setup import make_network, make_optimizer_of
    from memjax.training.state import TrainState, init_state
    from memjax.training.step import (
        Batch,
        make_train_step,
        standardize,
        step_flops,
        training_images,
    )

    preset = presets.cifar_resnet()
    preset.model.width_factor = args.width_factor
    preset.optimizer.warmup_epochs = 1.0
    preset.train.num_epochs = 10
    preset.train.batch_size = args.batch_size
    # Scaled with the batch, as usual: at the full rate a small batch trains so chaotically that
    # differences of a rounding grow threefold a step.
    preset.optimizer.learning_rate *= args.batch_size / 128
    config = resolve(preset)
    batches = make_batches(args.steps * args.batch_size // 10, args.batch_size)
    network = make_network(config, 10, 0.5, 0.25)
    optimizer = make_optimizer_of(config, batches)
    start = jax.jit(lambda: init_state(0, network.model, optimizer, (32, 32, 3)))()
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, args.dtype), start.params)
    state = TrainState(params, optimizer.init(params["params"]))
    step = jax.jit(make_train_step(network, optimizer))
    seen = jax.jit(
        lambda batch, key: standardize(
            network, training_images(network, batch, tagged(key, "augmentation"))[0]
        )
    )
    losses, trained_on, seconds = [], [], []
    for index in range(args.steps):
        rows = slice(index * args.batch_size, (index + 1) * args.batch_size)
        batch = Batch(jnp.asarray(images[rows]), jnp.asarray(labels[rows]))
        key = jax.random.fold_in(jax.random.key(1), index)
        began = time.perf_counter()
        state, metrics = step(state, batch, key)
        losses.append(float(metrics["loss"]))
        seconds.append(time.perf_counter() - began)
        trained_on.append(np.asarray(seen(batch, key)))
    flops = step_flops(network, optimizer, (32, 32, 3), args.batch_size) / args.batch_size
    count = sum(leaf.size for leaf in jax.tree.leaves(params["params"]))
    print(f"memjax: {count:,} parameters, {flops / 6e9:.3f} GMAC an image (training FLOPs / 6)")
    return losses, trained_on, start.params["params"], state.params["params"], seconds, config


def torch_network(params: Any):
    """Returns the network in torch, as it is usually written, with weights from flax."""
    import torch
    from torch import nn

    def conv(kernel, stride):
        out, inside, size = kernel.shape[3], kernel.shape[2], kernel.shape[0]
        layer = nn.Conv2d(inside, out, size, stride, padding=size // 2, bias=False)
        layer.weight.data = torch.tensor(np.asarray(kernel).transpose(3, 2, 0, 1))
        return layer

    class Block(nn.Module):
        def __init__(self, params, stride):
            super().__init__()
            self.conv1, self.conv2 = (
                conv(params["Conv_0"]["kernel"], stride),
                conv(params["Conv_1"]["kernel"], 1),
            )
            width = self.conv1.out_channels
            self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
            self.shortcut = nn.Sequential()
            if "Conv_2" in params:
                shortcut = conv(params["Conv_2"]["kernel"], stride)
                self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(width))

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + self.shortcut(x))

    strides = [1, 1, 2, 1, 2, 1, 2, 1]
    blocks = [Block(params[f"BasicBlock_{i}"], stride) for i, stride in enumerate(strides)]
    head = nn.Linear(*params["Dense_0"]["kernel"].shape)
    head.weight.data = torch.tensor(np.asarray(params["Dense_0"]["kernel"]).T)
    head.bias.data = torch.tensor(np.asarray(params["Dense_0"]["bias"]))
    stem = conv(params["Conv_0"]["kernel"], 1)
    return nn.Sequential(
        stem, nn.BatchNorm2d(stem.out_channels), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), head,
    )  # fmt: skip


def torch_losses(args: argparse.Namespace, trained_on, labels, params, config):
    """Trains the same network with torch.optim.SGD; returns losses, network and seconds a step."""
    import torch

    from memjax.training.optimizers import make_schedule

    network = torch_network(params).to(getattr(torch, args.dtype))
    network = network.to(memory_format=torch.channels_last)
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"torch:  {count:,} parameters")
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.regularizer.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True)
    # Compiled, as in memjax's step: otherwise the rates differ by a float32 rounding.
    schedule = jax.jit(make_schedule(config.optimizer, args.steps // 10, 10))
    losses, seconds = [], []
    for index, images in enumerate(trained_on):
        batch = torch.tensor(images.astype(args.dtype)).permute(0, 3, 1, 2)
        rows = slice(index * args.batch_size, (index + 1) * args.batch_size)
        targets = torch.tensor(labels[rows]).long()
        began = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = float(schedule(np.int32(index)))
        optimizer.zero_grad()
        smoothing = config.train.label_smoothing
        loss = torch.nn.functional.cross_entropy(network(batch), targets, label_smoothing=smoothing)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.item()))
        seconds.append(time.perf_counter() - began)
    return losses, network, seconds


def main() -> None:
    """Prints both curves and how far they are from each other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--width_factor", type=float, default=1.0)
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", args.dtype == "float64")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.steps * args.batch_size, 32, 32, 3), np.uint8)
    labels = rng.integers(10, size=len(images)).astype(np.int32)
    # Something to learn: the class is in the brightness of one of ten patches.
    for label in range(10):
        row, column = divmod(label, 4)
        images[labels == label, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] //= 2
    ours, trained_on, start, end, our_seconds, config = memjax_losses(args, images, labels)
    theirs, network, their_seconds = torch_losses(args, trained_on, labels, start, config)
    print(f"{'step':>5s} {'memjax':>12s} {'torch':>12s} {'difference':>11s}")
    differences = np.abs(np.subtract(ours, theirs))
    for index in sorted(
        {1, 5, 10, *range(0, args.steps, EVERY), args.steps - 1} & set(range(args.steps))
    ):
        mine, other = ours[index], theirs[index]
        print(f"{index:5d} {mine:12.8f} {other:12.8f} {differences[index]:11.1e}")
    last = np.asarray(end["Dense_0"]["kernel"]).T
    other = network[-1].weight.detach().numpy()
    error = np.linalg.norm(last - other) / np.linalg.norm(other)
    print(f"largest difference of a loss {differences.max():.1e}; of the last layer {error:.1e}")
    ratio = np.median(their_seconds) / np.median(our_seconds)
    print(
        f"a step: memjax {np.median(our_seconds):.3f} s, torch {np.median(their_seconds):.3f} s,"
        f" ratio {ratio:.2f}"
    )
    if args.dtype == "float64" and not differences.max() < 1e-6:
        raise SystemExit("the curves differ")


if __name__ == "__main__":
    main()
