"""GPUs are told to be deterministic before JAX begins; nothing changes on CPU.

On a machine with a GPU, this checks the promise itself (twice the same run, bit by bit):

    MEMJAX_TEST_GPU=1 pytest -n 0 tests/runtime/test_determinism.py
"""

import json
import os
import subprocess
import sys

import pytest

from memjax.runtime.determinism import FLAGS, deterministic_kernels
from tests import command_line

SMALL = ["--config=configs/digits_randlabel.py:quick", "--config.train.num_epochs=2"]


def test_flags_are_added_once_and_the_users_own_stay():
    environment = {"XLA_FLAGS": "--xla_gpu_autotune_level=2 --xla_dump_to=/x"}
    added = deterministic_kernels(True, environment)
    assert added == {"--xla_gpu_exclude_nondeterministic_ops": "true"}
    words = environment["XLA_FLAGS"].split()
    assert words[:2] == ["--xla_gpu_autotune_level=2", "--xla_dump_to=/x"]
    assert deterministic_kernels(True, environment) == {}
    assert environment["XLA_FLAGS"].split() == words


def test_nothing_is_added_where_it_is_not_wanted():
    environment = {}
    assert deterministic_kernels(False, environment) == {}
    assert environment == {}


def test_a_cpu_takes_the_flags_and_computes_the_same_bits():
    code = (
        "import jax, jax.numpy as jnp, numpy as np\n"
        "x = jax.random.normal(jax.random.key(0), (64, 64))\n"
        "step = jax.jit(jax.grad(lambda w: jnp.tanh(x @ w).sum()))\n"
        "print(np.asarray(step(x)).tobytes().hex())"
    )
    flags = " ".join(f"{name}={value}" for name, value in FLAGS.items())
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=command_line.environment(XLA_FLAGS=xla_flags),
            capture_output=True,
            text=True,
        )
        for xla_flags in ("", flags)
    ]
    assert [run.returncode for run in found] == [0, 0], found[1].stderr  # XLA knows both flags
    assert found[0].stdout == found[1].stdout


# What runs before JAX looks for devices: the flags must be there by then.
WATCH = """
import os, sys
from jax._src import xla_bridge
look = xla_bridge.backends
def watched():
    if not xla_bridge._backends:
        print("AT THE START:", os.environ.get("XLA_FLAGS", ""), file=sys.stderr)
        os._exit(7)
    return look()
xla_bridge.backends = watched
sys.argv = sys.argv[1:]
import runpy
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["memjax.main", *SMALL], True),
        (["memjax.main", *SMALL, "--config.run.deterministic=False"], False),
        (["memjax.sweep", "--sweep=configs/sweeps/seeds.py:quick"], True),
        (["memjax.reproduce", "--scale=smoke"], True),
        (["memjax.reproduce", "--scale=smoke", "--nodeterministic"], False),
        (["memjax.analyze", "--passes=gradients"], True),
    ],
)
def test_every_entry_point_sets_the_flags_before_jax_looks_for_devices(tmp_path, flags, wanted):
    found = subprocess.run(
        [sys.executable, "-c", WATCH, *flags, f"--workdir={tmp_path / 'run'}"],
        env=command_line.environment(),
        cwd=command_line.ROOT,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 7, found.stderr
    assert ("--xla_gpu_exclude_nondeterministic_ops=true" in found.stderr) == wanted
    assert ("--xla_gpu_autotune_level=0" in found.stderr) == wanted


@pytest.mark.skipif("MEMJAX_TEST_GPU" not in os.environ, reason="needs a GPU, and to be asked for")
@pytest.mark.parametrize(
    "config", ["configs/digits_randlabel.py:quick", "configs/cifar_randlabel.py:quick"]
)
def test_two_runs_on_a_gpu_have_the_same_bits(tmp_path, config):
    checksums = []
    for name in ("one", "other"):
        workdir = tmp_path / name
        flags = [f"--config={config}", "--config.train.num_epochs=3", f"--workdir={workdir}"]
        command = [sys.executable, "-m", "memjax.main", *flags]
        ran = subprocess.run(command, cwd=command_line.ROOT, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert "cpu device" not in ran.stdout
        newest = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
        checksums.append(json.loads((newest / "metadata/metadata").read_text())["checksum"])
    assert checksums[0] == checksums[1]
