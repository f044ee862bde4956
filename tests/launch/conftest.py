"""Stand-ins for the programs that the launchers call: they record, and run commands here."""

import json
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
LAUNCH = HERE.parents[1] / "launch"
# All that the launchers use besides: one that needs more fails here as on a bare machine.
TOOLS = (
    *("bash", "sh", "env", "cat", "sed", "grep", "tail", "head"),
    *("dirname", "basename", "mkdir", "rm", "sleep", "seq", "kill", "mktemp", "date"),
)
SECRET = "hunter2-do-not-show"

# A run of all processes, small: they join, add up what each has, and process 0 writes the answer.
JOINED_RUN = """
import pathlib, sys
import numpy as np
from memjax.runtime import distributed
distributed.initialize(timeout_s=60)
import jax
from jax.experimental import multihost_utils
total = multihost_utils.process_allgather(np.array([jax.process_index() + 1.0])).sum()
if distributed.is_main_process():
    workdir = pathlib.Path(sys.argv[1].removeprefix("--workdir="))
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "total").write_text(f"{total:g} of {jax.process_count()}")
distributed.leave(0)
"""


def exits_with(*codes: int) -> str:
    """Returns a program that exits with one code after the other, start after start."""
    return f"""
import os, pathlib, sys
starts = pathlib.Path(os.environ["STAND_IN_FOLDER"]) / f"starts{{os.environ.get('WORKER', '')}}"
count = len(starts.read_text()) if starts.exists() else 0
starts.write_text("." * (count + 1))
sys.exit({list(codes)}[count])
"""


# Writes the name of its job, start after start, then exits as `exits_with`.
NOTES_JOB = """
with open(pathlib.Path(os.environ["STAND_IN_FOLDER"]) / "jobs", "a") as file:
    file.write(os.environ["MEMJAX_JOB"] + "\\n")
"""


def notes_job_and_exits_with(*codes: int) -> str:
    """Returns a program that writes $MEMJAX_JOB into `jobs` before it exits with the next code."""
    return exits_with(*codes).replace("count = ", NOTES_JOB + "count = ", 1)


def began(pid: int) -> str:
    """Returns what tpu_vm.sh knows a process by: its number, its beginning, the machine's boot."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{pid} {fields[19]} {boot}"


class Cluster:
    """A folder with stand-ins on PATH, and the record of what they were asked."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.bin = folder / "bin"
        for tool in TOOLS:
            self.add(tool, shutil.which(tool) or tool)
        self.add("python", sys.executable)
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(folder),
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(HERE.parents[1]),
            "STAND_IN_FOLDER": str(folder),
            "WANDB_API_KEY": SECRET,  # a launcher must neither show nor pass on what it finds
            "GOOGLE_APPLICATION_CREDENTIALS": f"/keys/{SECRET}.json",
        }

    def add(self, name: str, *words: str) -> None:
        """Puts an executable on PATH that runs `words` with its own arguments after them."""
        self.bin.mkdir(exist_ok=True)
        path = self.bin / name
        path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        path.chmod(0o755)

    def add_stand_in(self, name: str) -> None:
        self.add(name, sys.executable, str(HERE / "stand_ins.py"), name)

    def script(self, source: str) -> str:
        path = self.folder / "run.py"
        path.write_text(source)
        return str(path)

    def set(self, name: str, value: str) -> None:
        """Sets what a stand-in answers: a line per call, the last one from then on."""
        (self.folder / name).write_text(value)

    def calls(self, name: str) -> list[list[str]]:
        path = self.folder / f"{name}.calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def call(self, *words: str | os.PathLike) -> subprocess.CompletedProcess:
        result = subprocess.run(
            [str(word) for word in words],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        recorded = "".join(path.read_text() for path in self.folder.glob("*.calls"))
        assert SECRET not in result.stdout + result.stderr + recorded
        return result


@pytest.fixture
def cluster(tmp_path: pathlib.Path) -> Cluster:
    cluster = Cluster(tmp_path)
    cluster.environment["STAND_IN_JOB_ID"] = str(slurm_job_id())
    return cluster


def slurm_job_id() -> int:
    """Returns a job id whose port, as JAX derives it, is free."""
    for job_id in range(os.getpid(), os.getpid() + 4096):
        with socket.socket() as probe:
            try:
                probe.bind(("", 61440 + job_id % 4096))
            except OSError:
                continue
        return job_id
    raise RuntimeError("no free port")
