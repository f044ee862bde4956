"""Another process of the run is gone: how that is recognised and said."""

import os

import jax

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


def as_process_lost(error: Exception) -> ProcessLost | None:
    """Returns what an error says of a lost process, in one line; None where it is of another kind.

    Example:
      >>> as_process_lost(ValueError("shapes differ")) is None
      True
    """
    if jax.process_count() == 1 or not is_process_lost(error):
        return None
    return ProcessLost(
        f"process {jax.process_index()} of {jax.process_count()}: another process of this run is "
        f"gone ({' '.join(str(error).split())[:200]}); the same command goes on from what is saved"
    )
