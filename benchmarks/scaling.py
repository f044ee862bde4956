"""Strong and weak scaling over forced CPU devices and over processes: what sharding itself costs.

    pip install .
    python -m benchmarks.scaling            # under a minute on 2 idle cores

Devices that are threads of one CPU cannot train faster together; with the work of a step fixed they
show what the split adds to it: sends, waits, smaller products. On real devices the same program
shares the work out. mlp: 784-512-512-10, float32. strong: 4096 examples a step; weak: 512 for each
device, beside one device with as many in all, for the cores are the same. What is added does not
grow with the batch (an all-reduce and an update of all parameters on every device): the row of 512
examples shows it. Rows and one device run
in turn in one process, so that a drifting machine cancels; each ratio is the median of the pairs,
in wall time and in CPU time of all threads, which other work on the machine disturbs less.
"""

import argparse
import os
import socket
import subprocess
import sys
import time

from benchmarks.rows import record

NUM_DEVICES, NUM_EXAMPLES = 8, 8192
TARGET = "at most 1.3"


def make_run(num_devices, batch_size, is_split=False):
    """Returns a function that trains some steps, and one that gives the parameters as a vector."""
    import jax
    import numpy as np

    from memjax import presets
    from memjax.config import resolve
    from memjax.data.dataset import Dataset, make_split
    from memjax.training.group import Group
    from memjax.training.setup import prepare

    images = np.random.default_rng(0).integers(0, 256, (NUM_EXAMPLES, 28, 28, 1), np.uint8)
    labels = np.random.default_rng(1).integers(0, 10, NUM_EXAMPLES).astype(np.int32)
    train = make_split(images, labels)
    names = tuple(map(str, range(10)))
    dataset = Dataset("random", 10, names, train, train.take(np.arange(0)))
    config = presets.mnist_mlp()
    config.model.widths, config.train.batch_size = (512, 512), batch_size
    config.run.num_devices = num_devices
    config.run.data_placement = "sharded" if is_split else "replicated"
    setup = prepare(resolve(config), dataset)
    with jax.set_mesh(setup.mesh):
        group = Group([setup], (), setup.mesh, 1)
        group.start([0])

    def run(num_steps):
        with jax.set_mesh(setup.mesh):
            group.train(0, num_steps)

    def params():
        return np.concatenate(
            [np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(group.states.params)]
        )

    return run, params


def timed(run, num_steps):
    """Returns (wall, CPU) milliseconds of a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    run(num_steps)
    scale = 1000 / num_steps
    return (time.perf_counter() - wall) * scale, (time.process_time() - cpu) * scale


def compare(words, one, other, rounds, num_steps):
    """Prints the row of a split run beside one device, and how far apart they end."""
    import numpy as np

    for run, _ in (one, other):
        run(num_steps)  # compiles
    pairs = np.array([[timed(run, num_steps) for run, _ in (one, other)] for _ in range(rounds)])
    wall, cpu = np.median(pairs[:, 1] / pairs[:, 0], axis=0)
    error = np.linalg.norm(other[1]() - one[1]()) / np.linalg.norm(one[1]())
    show(words, *np.median(pairs[:, 0], axis=0), wall, cpu, error)


def show(words, wall, cpu, wall_ratio, cpu_ratio, error):
    """Prints one row."""
    record(words, "one device, CPU time", 1 / cpu_ratio, 1 / 1.3)
    print(f"{words:<38}{wall:>9.1f}{cpu:>9.1f}{wall_ratio:>9.2f}{cpu_ratio:>9.2f}{error:>10.0e}"
          f"  {TARGET}", flush=True)  # fmt: skip


def processes(rounds, num_steps):
    """Prints the row of two processes of one device each, on loopback."""
    import numpy as np

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    one, params = make_run(1, 4096)
    one(num_steps)
    flags = "--xla_force_host_platform_device_count=1"
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scaling", f"--coordinator={address}",
             f"--process_id={index}", f"--rounds={rounds}", f"--steps={num_steps}"],
            env=os.environ | {"XLA_FLAGS": flags}, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in range(2)
    ]  # fmt: skip
    try:
        ended = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    if any(process.returncode for process in started):
        raise RuntimeError(ended[0][1][-2000:] + ended[1][1][-2000:])
    found = np.array([[float(v) for v in out.split("RESULT")[1].split()] for out, _ in ended])
    alone = np.median([timed(one, num_steps) for _ in range(rounds)], axis=0)
    ratios = found[:, 0].max() / alone[0], found[:, 1].sum() / alone[1]
    error = abs(found[0, 2] / np.linalg.norm(params()) - 1)
    show("strong: 2 processes (not in turn)", *alone, *ratios, error)


def worker(coordinator, process_id, rounds, num_steps):
    """One of two processes: prints wall and CPU milliseconds of a step, and the norm."""
    import numpy as np

    from memjax.runtime import distributed

    distributed.initialize(coordinator, 2, process_id)
    run, params = make_run(2, 4096)
    run(num_steps)
    wall, cpu = np.median([timed(run, num_steps) for _ in range(rounds)], axis=0)
    print("RESULT", wall, cpu, np.linalg.norm(params()), flush=True)
    distributed.leave(0)


def main():
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--coordinator", default="")
    parser.add_argument("--process_id", type=int, default=0)
    given = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if given.coordinator:
        worker(given.coordinator, given.process_id, given.rounds, given.steps)
        return
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={NUM_DEVICES}"
    print(f"{'':<38}{'one device, ms':>18}{'split / one':>18}{'params':>10}")
    print(f"{'what':<38}{'wall':>9}{'CPU':>9}{'wall':>9}{'CPU':>9}{'off by':>10}  target")
    for words, devices, batch, is_split in (
        ("strong: 2 devices", 2, 4096, False),
        ("strong: 4 devices", 4, 4096, False),
        ("strong: 8 devices", 8, 4096, False),
        ("strong: 8 devices, images split", 8, 4096, True),
        ("strong: 8 devices, 512 examples", 8, 512, False),
        ("weak: 2 devices, 1024 examples", 2, 1024, False),
    ):
        one, other = make_run(1, batch), make_run(devices, batch, is_split)
        compare(words, one, other, given.rounds, given.steps)
    processes(given.rounds, given.steps)


if __name__ == "__main__":
    main()
