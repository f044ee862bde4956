"""How a process finds the others of its run, and what went wrong when it does not."""

import os
import socket
import threading
from typing import Any

import jax

from memjax.errors import InputError

THREAD_NAME = "memjax-joining"
_NO_CLUSTER = "coordinator_address should be defined"  # JAX knows no cluster here

# What the environment holds where several processes may form one run.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_OPEN_MPI = ("OMPI_MCA_orte_hnp_uri",)
_CLOUD_TPU = ("TPU_ML_PLATFORM",)  # set by `import jax` where it finds chips; some stand alone
_KUBERNETES = ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX")  # a pod of an indexed Job


def find_peers(
    coordinator_address: str, num_processes: int, process_id: int
) -> dict[str, Any] | None:
    """Returns the arguments of jax.distributed.initialize, or None for a run of one process.

    Raises:
      InputError: if the flags are incomplete or out of range.
    """
    if coordinator_address or num_processes != 0 or process_id != -1:
        _check_flags(coordinator_address, num_processes, process_id)
        return {
            "coordinator_address": coordinator_address,
            "num_processes": num_processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",
        }
    if _environment_has_peers():
        return {"local_device_ids": _slurm_local_devices()}
    return None


def _check_flags(coordinator_address: str, num_processes: int, process_id: int) -> None:
    together = "--coordinator=HOST:PORT, --num_processes and --process_id go together"
    host, colon, port = coordinator_address.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"--coordinator={coordinator_address}: must be HOST:PORT; {together}")
    if num_processes < 2:
        raise InputError(f"--num_processes={num_processes}: must be at least 1; {together}")
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id={process_id}: must be from 0 to {num_processes - 1}; {together}"
        )


def _has(names: tuple[str, ...]) -> bool:
    return all(name in os.environ for name in names)


def _environment_has_peers() -> bool:
    if _has(_SLURM):
        return int(os.environ["SLURM_NTASKS"]) > 1
    return _has(_OPEN_MPI) or _has(_CLOUD_TPU) or _has(_KUBERNETES)


def _slurm_local_devices() -> list[int] | None:
    """Returns the GPUs of this task where JAX would take only one of them, else None.

    JAX gives every Slurm task the GPU of its number in the node: right for one task per GPU, but
    one task per node would leave all GPUs but the first idle.
    """
    nodes = os.environ.get("SLURM_STEP_NUM_NODES")
    one_per_node = _has(_SLURM) and nodes == os.environ["SLURM_NTASKS"]
    if not one_per_node or "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    num_gpus = len(visible.split(",")) if visible else int(os.environ.get("SLURM_GPUS_ON_NODE", 0))
    return list(range(num_gpus)) or None


def connect(arguments: dict[str, Any], timeout_s: float, heartbeat_timeout_s: int) -> None:
    """Calls jax.distributed.initialize in a thread: when JAX's own limit passes, it aborts.

    Raises:
      InputError: if the others are not found in time, or JAX cannot tell who they are.
    """
    failures: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                **arguments,
                initialization_timeout=int(timeout_s) + 600,
                heartbeat_timeout_seconds=heartbeat_timeout_s,
                # Process 0 may write tables for long after the others; heartbeats watch it.
                shutdown_timeout_seconds=24 * 3600,
            )
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=initialize, name=THREAD_NAME, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise InputError(_who_is_missing(arguments, timeout_s))
    if failures and not (_has(_CLOUD_TPU) and _NO_CLUSTER in str(failures[0])):
        raise InputError(_why_not_joined(failures[0], arguments))


def _who_is_missing(arguments: dict[str, Any], timeout_s: float) -> str:
    address = arguments.get("coordinator_address")
    if address is None:
        return f"the processes of this run did not find each other within {timeout_s:g} s"
    if arguments["process_id"] == 0:
        return (
            f"--coordinator={address}: not all {arguments['num_processes']} processes came within "
            f"{timeout_s:g} s"
        )
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        reason = error.strerror or str(error)
        return f"--coordinator={address}: not reached within {timeout_s:g} s ({reason})"
    return f"--coordinator={address}: it answers, but processes are missing after {timeout_s:g} s"


def _why_not_joined(error: Exception, arguments: dict[str, Any]) -> str:
    alone = "--num_processes=1 makes this process a run of its own"
    if _has(_KUBERNETES) and _NO_CLUSTER in str(error):
        return f"a Kubernetes Job: pip install 'jax[k8s]' so that its pods find each other; {alone}"
    address = arguments.get("coordinator_address")
    place = f"--coordinator={address}: " if address else ""
    return f"{place}this process could not join its run ({' '.join(str(error).split())}); {alone}"
