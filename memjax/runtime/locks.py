"""One process at a time on a run folder."""

import contextlib
import errno
import fcntl
import os
import resource
from collections.abc import Iterator
from typing import IO

from etils import epath

from memjax.errors import InputError, InUse
from memjax.runtime.workdir import TEMPORARY, end_clearing, is_remote

# What flock says where a file system has no locks (Lustre without -o flock, some NFS and FUSE).
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}
_OTHER_FILES = 128  # that a process has open besides the locks: libraries, tables, checkpoints


_locks = True


def use_locks(wanted: bool) -> None:
    """Says whether `claim` locks folders, in this process; without, the user takes care of it."""
    global _locks
    _locks = wanted


@contextlib.contextmanager
def claim(workdir: epath.Path) -> Iterator[None]:
    """Holds the folder for this process alone; the system lets go of it however the process ends.

    What an interrupted deletion, or a file that was being written, left is deleted first.

    Raises:
      InputError: if the folder cannot be made, written or locked, or is of a store without
        checkpoints.
      InUse: if another process holds it.
    """
    if is_remote(workdir):
        if not os.fspath(workdir).startswith("gs://"):
            raise InputError(
                f"--workdir={workdir}: must be a folder or gs://: checkpoints (orbax) go to no "
                "other store; mount the bucket as a folder"
            )
        bucket = epath.Path("gs://" + os.fspath(workdir).split("/")[2])
        if not bucket.exists():  # to make a folder in it would make the bucket
            raise InputError(
                f"--workdir={workdir}: {bucket}: no such bucket, or no right to see it"
            )
        end_clearing(workdir)
        yield
        return
    with _lock_file(workdir, ".lock") as lock:
        if _locks:
            _lock(lock, workdir)
        end_clearing(workdir)
        _delete_half_written(workdir)
        yield


@contextlib.contextmanager
def hold_together(workdir: epath.Path) -> Iterator[None]:
    """Holds the folder of a sweep together with the other processes that are at work in it.

    The first of them deletes what an earlier one was writing when it was killed; without locks
    nobody knows who is the first.

    Raises:
      InputError: if the folder cannot be made, written or locked.
    """
    if is_remote(workdir) or not _locks:
        yield
        return
    with _lock_file(workdir, ".sweep.lock") as lock:
        with contextlib.suppress(InUse):
            _lock(lock, workdir)
            _delete_half_written(workdir)
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _lock_file(workdir: epath.Path, name: str) -> IO[str]:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / name, "a")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"--workdir={workdir}: not writable ({error.strerror})") from None
    try:
        _allow_files(lock.fileno() + _OTHER_FILES)  # a file has the lowest number that is free
    except InputError:
        lock.close()
        raise
    return lock


def _allow_files(number: int) -> None:
    """Lets this process have so many files open; a sweep holds one for each point of a group."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or number <= soft:
        return
    if hard != resource.RLIM_INFINITY and number > hard:
        raise InputError(
            f"ulimit -n {hard}: must be at least {number}: a process has a file open for each "
            f"point that it trains, and {_OTHER_FILES} others (--num_tasks shares the points out)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


def _delete_half_written(workdir: epath.Path) -> None:
    """Deletes what `write_atomically` was writing when its process was killed."""
    for folder in (workdir, workdir / "dynamics", workdir / "figures"):
        for path in folder.iterdir() if folder.exists() else ():
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _lock(file: IO[str], workdir: epath.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUse(f"--workdir={workdir}: another process is at work in it") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise InputError(f"--workdir={workdir}: cannot be locked ({error.strerror})") from None
        raise InputError(
            f"--workdir={workdir}: its file system has no file locks ({error.strerror}); give "
            "--nolock, and see to it yourself that no other process works in the folder"
        ) from None
