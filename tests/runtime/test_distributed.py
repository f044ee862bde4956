"""Runs of two real processes on loopback (gloo collectives, CPU), and what ends them."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from memjax.errors import InputError
from memjax.runtime import joining
from memjax.runtime.distributed import initialize
from memjax.runtime.lost import is_process_lost

pytestmark = pytest.mark.campaign

ENVIRONMENT_OF_PEERS = ("SLURM", "OMPI", "TPU_", "KUBERNETES", "JOB_COMPLETION", "JAX_")

PREAMBLE = """
import os, signal, sys, time
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from memjax.errors import InputError
from memjax.runtime import distributed
from memjax.runtime.lost import ProcessLost, is_process_lost
from memjax.runtime.shared_folder import check_shared_workdir

def attempt(what, *arguments):
    try:
        print(what.__name__, "gave", what(*arguments), flush=True)
    except (InputError, ProcessLost, ValueError) as error:
        kind = InputError if isinstance(error, InputError) else type(error)
        print(kind.__name__, str(error), flush=True)

def sum_over_processes():
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    local = np.arange(3.0, dtype=np.float32)[None] + jax.process_index()
    rows = jax.make_array_from_process_local_data(
        NamedSharding(mesh, PartitionSpec("data")), local
    )
    total = jax.jit(lambda x: x.sum(0), out_shardings=NamedSharding(mesh, PartitionSpec()))
    return rows, total(rows)

coordinator, process_id, argument = sys.argv[1], int(sys.argv[2]), sys.argv[3]
distributed._LEAVE_TOGETHER_S = 2
"""
JOIN = "distributed.initialize(coordinator, 2, process_id, timeout_s=60)\n"
# The loop of a run: one collective after another, and an error's words and exit code at its end.
TRAIN = """
try:
    for step in range(10**6):
        sum_over_processes()[1].block_until_ready()
        if step == 3:
            print("training", flush=True)
        fail_at(step)
except Exception as error:
    if not is_process_lost(error):
        raise
    print("another process is gone", flush=True)
    distributed.leave(ProcessLost.exit_code)
    sys.exit(ProcessLost.exit_code)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(script: str, process_id: int, coordinator: str, argument: str) -> subprocess.Popen:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(ENVIRONMENT_OF_PEERS) and name != "XLA_FLAGS"
    }
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, coordinator, str(process_id), argument],
        env={**environment, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_two(script: str, argument: str = "") -> tuple[list[int], list[str]]:
    """Returns the exit codes and the printed lines of two processes."""
    coordinator = f"127.0.0.1:{free_port()}"
    processes = [start(script, i, coordinator, argument) for i in range(2)]
    try:
        outputs = [process.communicate(timeout=100)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], outputs


def test_two_processes_agree_gather_and_leave_together(tmp_path: pathlib.Path):
    script = (
        JOIN
        + """
assert jax.process_count() == 2 and jax.process_index() == process_id
assert distributed.is_main_process() == (process_id == 0)
distributed.initialize(coordinator, 2, process_id)  # a second call does nothing
distributed.check_same_on_all_processes("one config", "--config")
check_shared_workdir(argument)
assert distributed.on_main(lambda: {"who": process_id}) == {"who": 0}
assert distributed.on_all(lambda: process_id) == process_id
assert distributed.largest(process_id * 15) == 15
assert distributed.share_of_process(1, 3) == (2 + process_id, 6)
for _ in range(2):  # a name may come again
    distributed.barrier("a barrier")
rows, total = sum_over_processes()
print(distributed.gather_to_main({"rows": rows, "total": total}), flush=True)
attempt(distributed.gather_to_main, jnp.ones(2))
if process_id == 0:
    time.sleep(1)  # the others wait while process 0 writes
distributed.leave(0)
"""
    )
    codes, (main, other) = run_two(script, str(tmp_path / "workdir"))
    assert codes == [0, 0]
    assert "'rows': array([[0., 1., 2.],\n       [1., 2., 3.]], dtype=float32)" in main
    assert "'total': array([1., 3., 5.], dtype=float32)" in main
    assert "\nNone\n" in other
    for output in (main, other):
        assert "ValueError gather_to_main: (2,) is on process" in output
    assert list((tmp_path / "workdir").iterdir()) == []  # no token is left behind


def test_every_process_is_told_what_is_wrong_and_keeps_its_exit_code(tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("")
    script = (
        JOIN
        + """
attempt(distributed.check_same_on_all_processes, f"config {process_id}", "--config")
attempt(check_shared_workdir, f"{argument}/{process_id}", 0.5)
attempt(check_shared_workdir, f"{argument}/file/run")
def fails_on_process_1():
    if process_id == 1:
        raise InputError("no data here")
def fails():
    raise OSError("no space")
attempt(distributed.on_all, fails_on_process_1)
try:
    distributed.on_main(fails)
except (OSError, ProcessLost) as error:
    print(type(error).__name__, error, flush=True)
if process_id == 0:
    attempt(distributed.barrier, "the tables", 1)
distributed.leave(2)
sys.exit(2)
"""
    )
    codes, (main, other) = run_two(script, str(tmp_path))
    assert codes == [2, 2]
    for output in (main, other):
        assert "InputError process 1 of 2: not the same --config as process 0" in output
        assert "InputError process 1 of 2: --workdir=" in output
        assert "it must lie where all hosts share it" in output
        assert "/file/run: not writable (Not a directory)" in output
        assert "InputError process 1 of 2: no data here" in output
    assert "OSError no space" in main
    assert "ProcessLost process 0 failed: no space" in other
    assert "ProcessLost not all 2 processes came to 'the tables' within 1 s" in main


@pytest.mark.parametrize("dead", [0, 1])
def test_when_one_process_is_killed_the_other_stops_within_a_minute(dead: int):
    script = (
        JOIN
        + f"""
def fail_at(step):
    if step == 5 and process_id == {dead}:
        os.kill(os.getpid(), signal.SIGKILL)
"""
        + TRAIN
    )
    coordinator = f"127.0.0.1:{free_port()}"
    processes = [start(script, i, coordinator, "") for i in range(2)]
    survivor = 1 - dead
    try:
        processes[dead].wait(timeout=300)
        output, _ = processes[survivor].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    codes = [process.returncode for process in processes]
    assert codes[dead] == -signal.SIGKILL
    # Without the coordinator (process 0) JAX may abort first, with a message of its own.
    allowed = [os.EX_TEMPFAIL] if dead == 1 else [os.EX_TEMPFAIL, -signal.SIGABRT]
    assert codes[survivor] in allowed
    if codes[survivor] == os.EX_TEMPFAIL:
        assert "another process is gone" in output


def test_when_one_process_hangs_the_other_stops():
    script = (
        "distributed.HEARTBEAT_TIMEOUT_S = 5\n"
        + JOIN
        + """
def fail_at(step):
    if step == 5 and process_id == 1:
        print("stopping", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
"""
        + TRAIN
    )
    coordinator = f"127.0.0.1:{free_port()}"
    processes = [start(script, i, coordinator, "") for i in range(2)]
    try:
        _, errors = processes[0].communicate(timeout=60)
    finally:
        for process in processes:
            process.kill()
    for process in processes:
        process.communicate()
    assert processes[0].returncode in (os.EX_TEMPFAIL, -signal.SIGABRT)
    assert "another task died" in errors or processes[0].returncode == os.EX_TEMPFAIL


def test_a_process_that_fails_alone_keeps_its_exit_code_and_the_other_stops():
    script = (
        JOIN
        + """
def fail_at(step):
    if step == 5 and process_id == 1:
        distributed.leave(3)
        sys.exit(3)
"""
        + TRAIN
    )
    codes, _ = run_two(script)
    assert codes == [os.EX_TEMPFAIL, 3]


def test_nobody_at_the_coordinator_and_missing_processes_are_told_within_the_time_limit():
    script = """
begin = time.monotonic()
try:
    distributed.initialize(coordinator, 2, process_id, timeout_s=2)
except InputError as error:
    print(error, f"after {time.monotonic() - begin:.0f} s", flush=True)
    distributed.leave(2)
    sys.exit(2)
"""
    coordinators = [f"127.0.0.1:{free_port()}" for _ in range(2)]  # they never meet
    processes = [start(script, i, coordinators[i], "") for i in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert f"--coordinator={coordinators[0]}: not all 2 processes came within 2 s" in outputs[0]
    assert f"--coordinator={coordinators[1]}: not reached within 2 s" in outputs[1]
    assert all("after 2 s" in output for output in outputs)


def test_a_pod_that_jax_cannot_read_is_refused_and_a_tpu_without_a_cluster_is_alone():
    script = """
os.environ.update(KUBERNETES_SERVICE_HOST="10.0.0.1", JOB_COMPLETION_INDEX="0")
sys.modules["kubernetes"] = None  # as if it were not installed
attempt(distributed.initialize)
del os.environ["JOB_COMPLETION_INDEX"], os.environ["KUBERNETES_SERVICE_HOST"]
os.environ["TPU_ML_PLATFORM"] = "JAX"
distributed.initialize()
print("processes:", jax.process_count())
"""
    process = start(script, 0, "", "")
    output = process.communicate(timeout=60)[0]
    assert "InputError a Kubernetes Job: pip install 'jax[k8s]'" in output
    assert "processes: 1" in output
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("host:1234", 0, -1), "--num_processes=0"),
        (("", 2, 0), "--coordinator="),
        (("host", 2, 0), "--coordinator=host: must be HOST:PORT"),
        (("host:99999", 2, 0), "must be HOST:PORT"),
        (("host:1234", 2, 2), "--process_id=2: must be from 0 to 1"),
        (("host:1234", 2, -1), "--process_id=-1"),
        (("host:1234", -2, 0), "--num_processes=-2"),
    ],
)
def test_incomplete_flags_are_refused(flags: tuple[str, int, int], message: str):
    with pytest.raises(InputError, match=message):
        initialize(*flags)


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(ENVIRONMENT_OF_PEERS):
            monkeypatch.delenv(name)
    return monkeypatch


def set_slurm(monkeypatch: pytest.MonkeyPatch, num_tasks: int, num_nodes: int = 1) -> None:
    values = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_NUM_NODES": str(num_nodes),
        "SLURM_NTASKS": str(num_tasks),
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_a_laptop_a_single_slurm_task_and_a_plain_pod_are_runs_of_one_process(bare_environment):
    assert joining.find_peers("", 0, -1) is None
    set_slurm(bare_environment, num_tasks=1)
    assert joining.find_peers("", 0, -1) is None
    bare_environment.delenv("SLURM_PROCID")  # the batch script itself, outside srun
    bare_environment.setenv("SLURM_NTASKS", "8")
    bare_environment.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert joining.find_peers("", 0, -1) is None


@pytest.mark.parametrize(
    "names",
    [
        ["OMPI_MCA_orte_hnp_uri"],
        ["TPU_ML_PLATFORM"],
        ["KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"],
    ],
)
def test_clusters_are_left_to_jax(bare_environment, names: list[str]):
    for name in names:
        bare_environment.setenv(name, "0")
    assert joining.find_peers("", 0, -1) == {"local_device_ids": None}


def test_one_slurm_task_per_node_takes_all_gpus_of_its_node(bare_environment):
    set_slurm(bare_environment, num_tasks=2, num_nodes=2)
    assert joining.find_peers("", 0, -1) == {"local_device_ids": None}  # no GPUs
    bare_environment.setenv("SLURM_GPUS_ON_NODE", "8")
    assert joining.find_peers("", 0, -1) == {"local_device_ids": list(range(8))}
    bare_environment.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert joining.find_peers("", 0, -1) == {"local_device_ids": [0, 1]}
    set_slurm(bare_environment, num_tasks=4, num_nodes=2)  # one per GPU: JAX's own choice
    assert joining.find_peers("", 0, -1) == {"local_device_ids": None}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:25013", True),
        ("UNAVAILABLE: Task 1 heartbeat timeout.", True),
        ("RESOURCE_EXHAUSTED: Out of memory", False),
    ],
)
def test_errors_of_a_lost_peer_are_told_from_others(message: str, expected: bool):
    outer = RuntimeError("a step failed")
    outer.__cause__ = ValueError(message)
    assert is_process_lost(outer) == expected
