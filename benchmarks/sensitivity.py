"""Loss-sensitivity beside separate backward passes and beside torchopt's unrolled SGD.

    pip install . torchopt==0.7.3 torch
    python -m benchmarks.sensitivity

A 196-16-16-10 network, 1000 examples, batches of 100, 1000 updates, probes after 20, 40, ..., 1000.
Every side gets the same weights, data and batches, and the sensitivities are compared before
anything is timed.

The rivals differentiate one probe at a time, in a time proportional to its step. They are timed at
five probes whose mean is that of the fifty, and the table gives ten times the sum; `--all_probes`
times the separate passes at all fifty. torchopt is timed at the third of the five, in proportion
to the steps, with one thread, which is its fastest on so small a network. Rounds are interleaved in
this process and a ratio is the median of the rounds' ratios.

Memory is the growth of the process's peak (Linux), in a process of its own, after a run that
compiles.
"""

import argparse
import contextlib
import ctypes
import functools
import gc
import importlib.util
import itertools
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.rows import record
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.sensitivity import loss_sensitivity

NUM_EXAMPLES, BATCH_SIZE, NUM_STEPS, LEARNING_RATE = 1000, 100, 1000, 0.1
PROBES = list(range(20, NUM_STEPS + 1, 20))
TIMED_PROBES = [100, 300, 520, 720, 910]  # their mean is 510, that of PROBES
ROUNDS = 3


def logits_fn(params, images):
    """Returns the logits [n classes] of a ReLU network."""
    for weights, bias in params[:-1]:
        images = jax.nn.relu(images @ weights + bias[None])
    weights, bias = params[-1]
    return images @ weights + bias[None]


def make_run(widths, num_examples=NUM_EXAMPLES, batch_size=BATCH_SIZE):
    """Returns params, images, labels and batches [steps batch_size]."""
    rng = np.random.default_rng(0)
    params = [
        (rng.normal(scale=np.sqrt(2 / fan_in), size=(fan_in, fan_out)), np.zeros(fan_out))
        for fan_in, fan_out in itertools.pairwise(widths)
    ]
    images = rng.uniform(size=(num_examples, widths[0]))
    params, images = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, images))
    labels = jnp.asarray(rng.integers(widths[-1], size=num_examples), jnp.int32)
    num_epochs = NUM_STEPS * batch_size // num_examples
    batches = [rng.permutation(num_examples).reshape(-1, batch_size) for _ in range(num_epochs)]
    return params, images, labels, jnp.asarray(np.concatenate(batches), jnp.int32)


def ours(run, probes=PROBES, checkpoint_every=None):
    params, images, labels, batches = run
    return loss_sensitivity(
        logits_fn, params, images, labels, batches, LEARNING_RATE, probes,
        checkpoint_every=checkpoint_every,
    ).per_step  # fmt: skip


@functools.partial(jax.jit, static_argnums=4)
def separate_pass(params, images, labels, batches, probe):
    """Returns the sensitivities [n] at one probe: jax.grad through a scan over the updates."""

    def average_loss(params, images, labels):
        return jnp.mean(jax.vmap(softmax_cross_entropy)(logits_fn(params, images), labels))

    def loss_after_training(images):
        def update(params, batch):
            gradient = jax.grad(average_loss)(params, images[batch], labels[batch])
            return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradient), None

        trained, _ = jax.lax.scan(update, params, batches[:probe])
        return average_loss(trained, images, labels)

    return jnp.abs(jax.grad(loss_after_training)(images)).sum(-1)


def torchopt_pass(run, probe):
    """Returns the sensitivities [n] at one probe, through torchopt's differentiable SGD."""
    import torch
    import torchopt

    torch.set_num_threads(1)  # on so small a network more threads only wait for each other
    params, images, labels, batches = jax.tree.map(np.array, run)
    layers = []
    for weights, bias in params:
        linear = torch.nn.Linear(*weights.shape)
        linear.weight.data, linear.bias.data = torch.tensor(weights.T), torch.tensor(bias)
        layers += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    images = torch.tensor(images, requires_grad=True)
    labels, batches = torch.tensor(labels).long(), torch.tensor(batches).long()
    optimizer = torchopt.MetaSGD(net, lr=LEARNING_RATE)
    for batch in batches[:probe]:
        loss = torch.nn.functional.cross_entropy(net(images[batch]), labels[batch])
        optimizer.step(loss)
    loss = torch.nn.functional.cross_entropy(net(images), labels)
    (gradient,) = torch.autograd.grad(loss, images)
    return gradient.abs().sum(-1).numpy()


def seconds(fn, *arguments):
    start = time.perf_counter()
    jax.block_until_ready(fn(*arguments))
    return time.perf_counter() - start


def relative_error(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    return np.abs(found - expected).max() / np.abs(expected).max()


def row(what, our_time, peer, peer_time, ratio, target):
    measured = f"{our_time:>10} {peer:<34} {peer_time:>10} {ratio:>8}"
    print(f"{what:<34} {measured} {target:>8}", flush=True)
    with contextlib.suppress(ValueError):  # the header, and what is not installed
        record(what, peer, float(ratio), float(target.lstrip(">= ")) if target else None)


def time_separate_passes(run, timed):
    """Prints the rows beside separate jitted backward passes, compilation left out and in."""
    scale = len(PROBES) / len(timed)
    our_first = seconds(ours, run)
    compile_time, passes = 0.0, []
    for probe in timed:
        start = time.perf_counter()
        compiled = separate_pass.lower(*run, probe).compile()
        compile_time += scale * (time.perf_counter() - start)
        passes.append(functools.partial(compiled, *run))
    found = ours(run, timed)
    errors = [relative_error(mine, one()) for mine, one in zip(found, passes, strict=True)]
    print(f"largest relative difference from separate passes: {max(errors):.1e}")
    assert max(errors) < 1e-3

    our_times, peer_times = [], []
    for _ in range(ROUNDS):
        our_times.append(seconds(ours, run))
        peer_times.append(scale * sum(seconds(one) for one in passes))
    ratio = np.median(np.divide(peer_times, our_times))
    ours_text, peer_text = f"{np.median(our_times):.2f} s", f"{np.median(peer_times):.1f} s"
    name = f"{len(PROBES)} separate passes"
    row("50 probes, compiled", ours_text, name, peer_text, f"{ratio:.1f}", ">= 2")
    peer_first = compile_time + np.median(peer_times)
    row("50 probes, with compilation", f"{our_first:.2f} s", name, f"{peer_first:.0f} s",
        f"{peer_first / our_first:.1f}", ">= 15")  # fmt: skip


def time_torchopt(run):
    if any(importlib.util.find_spec(name) is None for name in ("torch", "torchopt")):
        row("50 probes, compiled", "", "torchopt: not installed", "", "", ">= 10")
        return
    probe = TIMED_PROBES[2]
    error = relative_error(ours(run, [probe])[0], torchopt_pass(run, probe))
    print(f"largest relative difference from torchopt: {error:.1e}")
    assert error < 1e-3
    our_times, peer_times = [], []
    for _ in range(ROUNDS):
        our_times.append(seconds(ours, run))
        peer_times.append(seconds(torchopt_pass, run, probe) * sum(PROBES) / probe)
    ratio = np.median(np.divide(peer_times, our_times))
    row("50 probes, compiled", f"{np.median(our_times):.2f} s", "torchopt MetaSGD",
        f"{np.median(peer_times):.0f} s", f"{ratio:.0f}", ">= 10")  # fmt: skip


def small_run_memory(checkpoint_every):
    return functools.partial(ours, make_run((196, 16, 16, 10)), checkpoint_every=checkpoint_every)


def wide_run_memory(checkpoint_every):
    run = make_run((784, 512, 512, 10), num_examples=200, batch_size=20)
    return functools.partial(ours, run, [NUM_STEPS], checkpoint_every)


MEASURED_MEMORY = {
    "small_whole": lambda: small_run_memory(NUM_STEPS),
    "small_segments": lambda: small_run_memory(32),
    "small_separate": lambda: lambda: separate_pass(*make_run((196, 16, 16, 10)), NUM_STEPS),
    "wide_whole": lambda: wide_run_memory(NUM_STEPS),
    "wide_segments": lambda: wide_run_memory(32),
}


def print_peak_growth(what):
    """Prints by how many MB a compiled run raises this process's memory at its highest."""

    def status(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

    fn = MEASURED_MEMORY[what]()
    jax.block_until_ready(fn())
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status("VmRSS")
    jax.block_until_ready(fn())
    print(status("VmHWM") - before)


def measure_memory():
    def peak(what):
        command = [sys.executable, "-m", "benchmarks.sensitivity", f"--memory={what}"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return float(output)

    small = {name: peak(f"small_{name}") for name in ("segments", "whole", "separate")}
    for peer, name in (("whole", "all parameters kept"), ("separate", "one separate pass")):
        row("memory, 50 probes, segments", f"{small['segments']:.0f} MB", name,
            f"{small[peer]:.0f} MB", f"{small[peer] / small['segments']:.1f}", "")  # fmt: skip
    segments, whole = peak("wide_segments"), peak("wide_whole")
    row("memory, 784-512-512-10, 1 probe", f"{segments:.0f} MB", "all parameters kept",
        f"{whole:.0f} MB", f"{whole / segments:.1f}", "")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all_probes", action="store_true", help="time all 50 separate passes")
    parser.add_argument("--skip_memory", action="store_true")
    parser.add_argument("--memory", choices=MEASURED_MEMORY, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print_peak_growth(options.memory)
        return
    row("what", "memjax", "peer", "peer", "ratio", "target")
    run = make_run((196, 16, 16, 10))
    time_separate_passes(run, PROBES if options.all_probes else TIMED_PROBES)
    time_torchopt(run)
    if not options.skip_memory:
        measure_memory()


if __name__ == "__main__":
    main()
