"""Many processes that are one run: joining, agreeing, waiting with a time limit, and leaving.

JAX's own runtime does the work: it finds the other processes (Slurm, Open MPI, Cloud TPU,
Kubernetes), carries the collectives, and watches heartbeats. Here its waits get time limits and
its failures words. Every function does nothing, or the obvious, in a run of one process.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from memjax.errors import InputError, ToldByMain
from memjax.runtime import joining
from memjax.runtime.lost import ProcessLost

T = TypeVar("T")

HEARTBEAT_TIMEOUT_S = 40  # JAX ends a process whose peer was silent for so long, also in a hang
HOWEVER_LONG_S = 30 * 24 * 3600.0  # for waiting for work that may take days; heartbeats watch it
_LEAVE_TOGETHER_S = 10  # for an error that all processes find at the same time
_SAVE_S = 60  # after a signal: the others may still be saving


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


def share_of_process(task_index: int = 0, num_tasks: int = 1) -> tuple[int, int]:
    """Returns (task_index, num_tasks) of this process, where each task is a run of processes.

    Example:
      >>> share_of_process(2, 8)  # alone: the task is the process
      (2, 8)
    """
    num_processes = jax.process_count()
    return task_index * num_processes + jax.process_index(), num_tasks * num_processes


def on_main(work: Callable[[], T]) -> T:
    """Calls `work()` on process 0 alone and returns what it gave on every process; all call this.

    Args:
      work: returns what JSON can hold.

    Raises:
      InputError: on every process, where process 0 raised it.
      ProcessLost: on the others, where process 0 raised something else.

    Example:
      >>> on_main(lambda: [1, 2])
      [1, 2]
    """
    if jax.process_count() == 1:
        return work()
    value, error = None, None
    if is_main_process():
        try:
            value = work()
        except Exception as found:
            error = found
    words = "" if error is None else str(error) or type(error).__name__
    told = _from_main(json.dumps([value, words, isinstance(error, InputError)]))
    if error is not None:
        raise error
    value, words, is_input = json.loads(told)
    if words:
        raise ToldByMain(words) if is_input else ProcessLost(f"process 0 failed: {words}")
    return value


def on_all(work: Callable[[], T]) -> T:
    """Calls `work()` on every process; an InputError of one of them is raised on all of them.

    Raises:
      InputError: that of the first process that has one.

    Example:
      >>> on_all(lambda: "done")
      'done'
    """
    if jax.process_count() == 1:
        return work()
    value, words = None, ""
    try:
        value = work()
    except InputError as error:
        words = str(error)
    all_words = _exchange(words)
    if len(set(all_words)) == 1 and words:
        _raise_on_all(words)
    for process, found in enumerate(all_words):
        if found:
            _raise_on_all(f"process {process} of {len(all_words)}: {found}")
    return value  # type: ignore[return-value]


def largest(number: int) -> int:
    """Returns the largest of the numbers that the processes give; all call this.

    Example:
      >>> largest(15)
      15
    """
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


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
    raise_for(np.any(digests != digests[0], axis=1), f"not the same {what} as process 0")


def raise_for(is_wrong: np.ndarray, message: str) -> None:
    """Raises an InputError that names the processes of which something is wrong, if there are any.

    Args:
      is_wrong: bool [processes], the same on all.
      message: what is wrong.
    """
    wrong = np.flatnonzero(is_wrong).tolist()
    if wrong:
        names = ", ".join(map(str, wrong))
        _raise_on_all(f"process {names} of {len(is_wrong)}: {message}")


def _raise_on_all(message: str) -> None:
    raise InputError(message) if is_main_process() else ToldByMain(message)


def _from_main(text: str) -> str:
    """Returns process 0's text."""
    barrier("process 0 tells", HOWEVER_LONG_S)  # a collective might not wait for long work
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    return bytes(multihost_utils.broadcast_one_to_all(np.resize(data, length))).decode()


def _exchange(text: str) -> list[str]:
    """Returns the texts of all processes."""
    barrier("all tell", HOWEVER_LONG_S)
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.pad(data, (0, int(lengths.max()) - len(data)))
    if not padded.size:
        return [""] * len(lengths)
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


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


def leave(exit_code: int) -> None:
    """Lets go of the other processes; the last thing an entry point does, error or not.

    After a success it waits until all have come here: process 0 may still be writing. After an
    error it waits a few seconds, for the others to end of the same one, after a signal a minute,
    for they may be saving; then it ends this process at once: JAX would wait for hours, and abort
    with another exit code. The others stop within HEARTBEAT_TIMEOUT_S seconds.

    Args:
      exit_code: what this process is about to exit with.
    """
    if not jax.distributed.is_initialized():
        return
    never_joined = any(t.name == joining.THREAD_NAME for t in threading.enumerate())
    thread = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    if not never_joined:
        thread.start()
        thread.join(_leave_time_s(exit_code))
    if never_joined or thread.is_alive():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _leave_time_s(exit_code: int) -> float | None:
    if exit_code == 0:
        return None
    return _SAVE_S if exit_code > 128 else _LEAVE_TOGETHER_S
