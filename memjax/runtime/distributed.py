"""Many processes that are one run: joining, agreeing, waiting with a time limit, and leaving.

JAX's own runtime does the work: it finds the other processes (Slurm, Open MPI, Cloud TPU,
Kubernetes), carries the collectives, and watches heartbeats. Here its waits get time limits and
its failures words. Every function does nothing, or the obvious, in a run of one process.
"""

import contextlib
import hashlib
import os
import secrets
import sys
import threading
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from memjax.errors import InputError
from memjax.runtime import joining

HEARTBEAT_TIMEOUT_S = 40  # JAX ends a process whose peer was silent for so long, also in a hang
_LEAVE_TOGETHER_S = 10  # for an error that all processes find at the same time

# How JAX, gloo, gRPC and NCCL say that the other end is gone.
_LOST_SIGNS = (
    "connection closed by peer",
    "connection reset by peer",
    "socket closed",
    "heartbeat timeout",
    "stopped sending heartbeats",
    "barrier timed out",
    "ncclremoteerror",
    "remote process exited",
)


class ProcessLost(RuntimeError):
    """Another process of the run died or hangs; starting all again goes on from the checkpoint."""

    exit_code = os.EX_TEMPFAIL


def initialize(
    coordinator_address: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    timeout_s: float = 120.0,
) -> None:
    """Joins this process to the others of its run; call it before anything else of JAX.

    With no arguments the environment decides: a task of a Slurm or Open MPI step of several, a
    worker of a Cloud TPU slice, a pod of an indexed Kubernetes Job join their peers; anything else
    is a run of one process, and nothing happens.

    Args:
      coordinator_address: "host:port", where process 0 listens. With it come the next two.
      num_processes: how many processes form the run; 1 means this one alone, whatever the
        environment says (independent runs in one Slurm step or Kubernetes Job).
      process_id: which one this is, from 0.
      timeout_s: seconds to wait until all have joined.

    Raises:
      InputError: if the flags are incomplete or out of range, if the coordinator is not reached or
        peers are missing when the time is up, or if the environment is one that JAX cannot read.

    Example:
      >>> initialize(num_processes=1)  # alone: nothing to join
      >>> is_main_process()
      True
    """
    if num_processes == 1 or jax.distributed.is_initialized():
        return
    arguments = joining.find_peers(coordinator_address, num_processes, process_id)
    if arguments is not None:
        joining.connect(arguments, timeout_s, HEARTBEAT_TIMEOUT_S)


def is_main_process() -> bool:
    """Returns whether this is process 0, the one that writes tables, metrics and figures."""
    return jax.process_index() == 0


def check_same_on_all_processes(value: str, what: str) -> None:
    """Checks that every process was started with the same `value`; every process calls this.

    Args:
      value: any text, such as the resolved config as JSON; only its SHA-256 travels.
      what: what it is, for the message: "--config".

    Raises:
      InputError: on every process, naming those that differ from process 0.

    Example:
      >>> check_same_on_all_processes("a config", "--config")
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    digests = multihost_utils.process_allgather(digest)
    _raise_for(np.any(digests != digests[0], axis=1), f"not the same {what} as process 0")


def _raise_for(is_wrong: np.ndarray, message: str) -> None:
    wrong = np.flatnonzero(is_wrong).tolist()
    if wrong:
        names = ", ".join(map(str, wrong))
        raise InputError(f"process {names} of {len(is_wrong)}: {message}")


def check_shared_workdir(workdir: epath.PathLike, timeout_s: float = 10.0) -> None:
    """Checks that all processes see what process 0 writes into the run folder; all call this.

    Args:
      workdir: the run folder, made by process 0 if it is not there; a path or a gs:// address.
      timeout_s: seconds that a file may take to appear on the other hosts.

    Raises:
      InputError: on every process, naming those that do not see it.
    """
    if jax.process_count() == 1:
        return
    name = f".shared-{secrets.token_hex(8) if is_main_process() else ''}"
    name = _from_main(name.ljust(32))
    token = epath.Path(workdir) / name
    failure = ""
    if is_main_process():
        try:
            token.parent.mkdir(parents=True, exist_ok=True)
            token.write_text("all processes of one run must see this file")
        except Exception as error:  # an object store has errors of its own
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            failure = f"--workdir={workdir}: not writable ({reason})"
    failure = _from_main(failure[:1000].ljust(1000))
    if failure:
        raise InputError(failure)
    is_hidden = multihost_utils.process_allgather(np.array(not _appears(token, timeout_s)))
    if is_main_process():
        token.unlink(missing_ok=True)
    _raise_for(
        is_hidden,
        f"--workdir={workdir} does not show what process 0 wrote there; it must lie where all "
        "hosts share it (NFS, Lustre, gs://)",
    )


def _from_main(text: str) -> str:
    """Returns process 0's text, of one length everywhere in characters, stripped."""
    codes = np.array([ord(character) for character in text], np.int32)
    codes = multihost_utils.broadcast_one_to_all(codes)
    return "".join(map(chr, codes.tolist())).strip()


def _appears(path: epath.Path, timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            list(path.parent.iterdir())  # makes an NFS client look again
            if path.exists():
                return True
        time.sleep(0.1)
    return False


def barrier(name: str, timeout_s: float = 30.0) -> None:
    """Waits until every process is here, but not for longer than `timeout_s` seconds.

    Raises:
      ProcessLost: if one has not come by then.

    Example:
      >>> barrier("before the tables")  # alone: does not wait
    """
    if jax.process_count() == 1:
        return
    try:
        ocp.multihost.get_barrier_sync_fn()(key=name, timeout_ms=int(timeout_s * 1000))
    except jax.errors.JaxRuntimeError as error:
        raise ProcessLost(
            f"not all {jax.process_count()} processes came to {name!r} within {timeout_s:g} s: "
            "one died, hangs, or is slow"
        ) from error


def gather_to_main(tree: Any) -> Any:
    """Returns a pytree of global arrays as numpy arrays on process 0, and None elsewhere.

    Every process calls it. Leaf after leaf, so that one whole leaf at a time is in memory.

    Args:
      tree: jax.Arrays that are sharded over, or replicated on, the devices of all processes.

    Raises:
      ValueError: for a leaf that lives on this process alone: which one would be meant?

    Example:
      >>> gather_to_main({"loss": jax.numpy.arange(3.0)})
      {'loss': array([0., 1., 2.], dtype=float32)}
    """
    gathered = jax.tree.map(_gather_leaf, tree)
    return gathered if is_main_process() else None


def _gather_leaf(array: jax.Array) -> np.ndarray | None:
    if jax.process_count() > 1:
        if array.is_fully_addressable:
            raise ValueError(f"gather_to_main: {array.shape} is on process {jax.process_index()}")
        if not array.is_fully_replicated:
            array = multihost_utils.process_allgather(array, tiled=True)
        else:
            array = array.addressable_data(0)
    return np.asarray(array) if is_main_process() else None


def is_process_lost(error: BaseException | None) -> bool:
    """Returns whether an error, or what caused it, says that another process is gone.

    Example:
      >>> is_process_lost(ValueError("Gloo AllGather failed: Connection closed by peer [::1]:9"))
      True
      >>> is_process_lost(ValueError("shapes differ"))
      False
    """
    while error is not None:
        text = str(error).lower()
        if isinstance(error, ProcessLost) or any(sign in text for sign in _LOST_SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


def leave(exit_code: int) -> None:
    """Lets go of the other processes; the last thing an entry point does, error or not.

    After a success it waits until all have come here: process 0 may still be writing. After an
    error it waits a few seconds, for the others to end of the same one, and then ends this process
    at once: JAX would wait for hours, then abort with another exit code. The others stop within
    HEARTBEAT_TIMEOUT_S seconds.

    Args:
      exit_code: what this process is about to exit with.
    """
    if not jax.distributed.is_initialized():
        return
    never_joined = any(t.name == joining.THREAD_NAME for t in threading.enumerate())
    thread = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    if not never_joined:
        thread.start()
        thread.join(_LEAVE_TOGETHER_S if exit_code else None)
    if never_joined or thread.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
