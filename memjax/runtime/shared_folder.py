"""Whether all processes see what one of them writes."""

import contextlib
import secrets
import time

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from memjax.errors import InputError
from memjax.runtime.distributed import is_main_process, on_main, raise_for
from memjax.runtime.workdir import is_remote


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
    token = epath.Path(workdir) / on_main(lambda: _write_token(epath.Path(workdir)))
    is_hidden = multihost_utils.process_allgather(np.array(not appears(token, timeout_s)))
    if is_main_process():
        token.unlink(missing_ok=True)
    raise_for(
        is_hidden,
        f"--workdir={workdir} does not show what process 0 wrote there; it must lie where all "
        "hosts share it (NFS, Lustre, gs://)",
    )


def _write_token(workdir: epath.Path) -> str:
    token = workdir / f".shared-{secrets.token_hex(8)}"
    try:
        if not is_remote(workdir):  # gcsfs would make the bucket
            workdir.mkdir(parents=True, exist_ok=True)
        token.write_text("all processes of one run must see this file")
    except Exception as error:  # an object store has errors of its own
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"--workdir={workdir}: not writable ({reason})") from error
    return token.name


def appears(path: epath.Path, timeout_s: float = 60.0) -> bool:
    """Returns whether a file that another process wrote can be seen within `timeout_s` seconds."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            list(path.parent.iterdir())  # makes an NFS client look again
            if path.exists():
                return True
        time.sleep(0.1)
    return False
