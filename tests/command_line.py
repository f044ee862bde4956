"""The real command line, in its own process."""

import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
# A run of seconds that logs, evaluates and saves several times.
SMALL_RUN = [
    "--config=configs/digits_randlabel.py:quick",
    "--config.dataset.num_train=200",
    "--config.dataset.num_validation=100",
    "--config.model.widths=(16,)",
    "--config.train.num_epochs=8",
    "--config.checkpoint.every_epochs=2",
    "--config.checkpoint.powers_of_two=False",
]
# XLA flags for programs that run only once or twice.
QUICK_TO_COMPILE = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)


def environment(**extra):
    """One CPU device; the cache of compiled programs is that of the tests."""
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "COLUMNS")}
    return kept | {"JAX_PLATFORMS": "cpu", **extra}


def run(module, *flags, cwd=ROOT, timeout=300, **extra):
    """Runs `python -m MODULE FLAGS` and returns the finished process."""
    command = [sys.executable, "-m", module, *map(str, flags)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment(**extra), timeout=timeout
    )


def start(module, *flags, cwd=ROOT, **extra):
    """Starts `python -m MODULE FLAGS` and returns the running process."""
    command = [sys.executable, "-m", module, *map(str, flags)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(**extra),
    )


def wait_for(condition, process, timeout=120):
    """Waits until condition() holds; fails if the process ends before."""
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def kill(process, kind=signal.SIGKILL):
    """Sends a signal and returns (return code, stdout, stderr)."""
    process.send_signal(kind)
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


def assert_one_line_and_exit_2(finished, *words):
    """Checks the contract of bad input: one line, exit code 2."""
    assert finished.returncode == 2, (finished.returncode, finished.stdout, finished.stderr)
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1, finished.stderr
    for word in words:
        assert word in lines[0]
