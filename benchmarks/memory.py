"""Memory of the analysis where it was large: many classes, many examples, many checkpoints.

    pip install .
    python -m benchmarks.memory
    python -m benchmarks.memory --passes --data_dir=DIR --epochs=3 --members=3 --examples=10000

The first prints what XLA's compiled programs need beside arguments and results, with the memory
budget of this machine and with one without bounds, where everything is computed at once. The second
trains an MLP 512-512 on MNIST and runs `--passes=gradients,difficulty` in a process of its own: its
peak resident memory, and its time beside that of the bare forward and backward passes over the same
images, checkpoints and members (with the time to start and compile in both). Target: 3 GB and 1.3
times that time, at `--epochs=19 --members=10 --examples=60000`.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

import memjax
from benchmarks.rows import record
from memjax.analysis import losses
from memjax.analysis.jacobians import empirical_ntk, input_jacobians, parameter_jacobian_norms
from memjax.analysis.sharpness import hessian_eigenvalue

UNBOUNDED = 2**60


def network(num_classes: int) -> tuple[Callable, Any]:
    """Returns a CNN on 32x32 colour images, and its params."""

    def logits_fn(params: Any, images: jax.Array) -> jax.Array:
        hidden = images
        for kernel in params["kernels"]:
            dimensions = ("NHWC", "HWIO", "NHWC")
            hidden = jax.lax.conv_general_dilated(
                hidden, kernel, (2, 2), "SAME", dimension_numbers=dimensions
            )
            hidden = jax.nn.relu(hidden)
        return hidden.mean((1, 2)) @ params["last"]

    widths = (3, 64, 128, 256)
    kernels = [jnp.ones((3, 3, a, b)) for a, b in itertools.pairwise(widths)]
    return logits_fn, {"kernels": kernels, "last": jnp.ones((widths[-1], num_classes))}


def cases() -> dict[str, tuple[int, int, Callable]]:
    """Returns name -> (classes, examples, (logits_fn, params, images, labels) -> result)."""

    def eigenvalue(logits_fn, params, images, labels):
        key = jax.random.key(0)
        return hessian_eigenvalue(key, logits_fn, params, images, labels, num_iterations=3)

    def kernel(logits_fn, params, images, labels):
        return empirical_ntk(logits_fn, params, images, images)

    def by_params(logits_fn, params, images, labels):
        return parameter_jacobian_norms(logits_fn, params, images)

    def by_images(logits_fn, params, images, labels):
        return jnp.square(input_jacobians(logits_fn, params, images)).sum((2, 3, 4))

    return {
        "parameter_jacobian_norms": (1000, 4, by_params),
        "input_jacobians, squared and summed": (1000, 4, by_images),
        "empirical_ntk": (1000, 2, kernel),
        "hessian_eigenvalue": (10, 50_000, eigenvalue),
    }


def temporary_bytes(num_classes: int, num_examples: int, fn: Callable) -> int:
    """Returns what the compiled program keeps beside its arguments and results."""
    logits_fn, params = network(num_classes)
    images = jax.ShapeDtypeStruct((num_examples, 32, 32, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((num_examples,), jnp.int32)
    program = jax.jit(lambda params, images, labels: fn(logits_fn, params, images, labels))
    compiled = program.lower(params, images, labels).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def print_programs() -> None:
    """Prints a table of the cases."""
    print("| function | classes | examples | temporaries | all at once |\n|---|---|---|---|---|")
    for name, (num_classes, num_examples, fn) in cases().items():
        bounded = temporary_bytes(num_classes, num_examples, fn)
        with (
            mock.patch("memjax.memory.working_bytes", return_value=UNBOUNDED),
            mock.patch("memjax.memory.memory_budget", return_value=UNBOUNDED),
        ):
            unbounded = temporary_bytes(num_classes, num_examples, fn)
        sizes = f"{bounded / 2**20:,.0f} MiB | {unbounded / 2**20:,.0f} MiB"
        print(f"| {name} | {num_classes} | {num_examples} | {sizes} |", flush=True)
        what = f"memory: {name}, {num_classes} classes, {num_examples} examples"
        record(what, "all at once", unbounded / max(bounded, 1))


def train(workdir: str, flags: argparse.Namespace) -> None:
    """Trains the members, a checkpoint an epoch."""
    settings = {
        "model.widths": "(512, 512)", "ensemble.size": flags.members, "run.progress": False,
        "dataset.num_train": flags.examples, "dataset.data_dir": flags.data_dir,
        "train.num_epochs": flags.epochs, "checkpoint.every_epochs": 1,
        "checkpoint.powers_of_two": False, "train.record_dynamics": "off",
    }  # fmt: skip
    given = [f"--config.{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "memjax.main", "--config=configs/mnist_real.py"]
    command.append(f"--workdir={workdir}")
    subprocess.run([*command, *given], check=True, stdout=subprocess.DEVNULL)


def bare(workdir: str) -> None:
    """Forward and backward passes over all training images, of all checkpoints and members."""
    run = memjax.load_run(workdir)
    images, labels = run.train.images, jnp.asarray(run.train.labels)

    @jax.jit
    def gradient(params: Any, images: jax.Array, labels: jax.Array) -> Any:
        def mean_loss(params: Any) -> jax.Array:
            logits = run.logits_fn(params, images)
            return jax.vmap(losses.softmax_cross_entropy)(logits, labels).mean()

        return jax.value_and_grad(mean_loss)(params)

    for step in run.steps:
        for member in range(run.num_members):
            params = run.params(step, member)
            for start in range(0, len(labels), 1000):
                batch = slice(start, start + 1000)
                jax.block_until_ready(gradient(params, images[batch], labels[batch]))


def print_passes(flags: argparse.Namespace) -> None:
    """Prints the peak memory and the time of the passes, and the time of the bare passes."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = flags.workdir or f"{folder}/run"
        if not flags.workdir:
            train(workdir, flags)
        bare_seconds, bare_peak = measured(["-m", "benchmarks.memory", f"--bare={workdir}"])
        seconds, peak = measured(
            ["-m", "memjax.analyze", f"--workdir={workdir}", "--passes=gradients,difficulty",
             "--splits=train", "--overwrite"]
        )  # fmt: skip
    print(f"bare forward and backward passes: {bare_seconds:.1f} s, peak {bare_peak:.2f} GiB")
    print(f"gradients and difficulty: {seconds:.1f} s, peak {peak:.2f} GiB")
    print(f"{seconds / bare_seconds:.2f} times as long")


def measured(arguments: list[str]) -> tuple[float, float]:
    """Runs Python in a process of its own; returns its seconds and its peak memory in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{arguments}: failed with status {status}")
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", action="store_true")
    parser.add_argument("--bare", default="")
    parser.add_argument("--workdir", default="")
    parser.add_argument("--data_dir", default="")
    for name, default in (("epochs", 3), ("members", 3), ("examples", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    flags = parser.parse_args()
    if flags.bare:
        bare(flags.bare)
    elif flags.passes:
        print_passes(flags)
    else:
        print_programs()


if __name__ == "__main__":
    main()
