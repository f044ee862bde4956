"""The run folder: claimed by one run at a time, written so that a file is whole or absent."""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from memjax.errors import InputError, InUse

CONTENTS = (
    "config.json",
    "examples.parquet",
    "metrics.jsonl",
    "summary.json",
    "failure.json",
    "group.json",
    "checkpoints",
    "resume",
    "dynamics",
    "analysis",
    "figures",
    "tensorboard",
    "profile",
)


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether a path lies in an object store (gs://)."""
    return "://" in os.fspath(path)


def write_atomically(path: epath.PathLike, write: Callable[[Any], None]) -> None:
    """Writes a file that is whole or absent, whenever the process is killed.

    Args:
      path: the file; its folder is made.
      write: called with the path to write to: a temporary name beside it, fsynced and renamed.
        An object store has no half-written objects, so there it is the path itself.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_remote(path):
        write(path)
        return
    # Processes of different machines, or containers, can have the same number.
    temporary = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    _fsync_folder(path.parent)


def _fsync_folder(folder: epath.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes indented JSON atomically."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda name: epath.Path(name).write_text(text))


def read_json(path: epath.PathLike) -> Any:
    """Reads a JSON file.

    Raises:
      InputError: if it is not there or is no JSON.
    """
    try:
        return json.loads(epath.Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; is this a memjax run folder?") from None
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None


def difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Returns in words where two flat configs differ; empty when they do not."""
    names = sorted(set(there) | set(here))
    return ", ".join(
        f"{name} is {there.get(name)!r} there, {here.get(name)!r} here"
        for name in names
        if there.get(name) != here.get(name)
    )


def check_same_run(workdir: epath.Path, config: dict[str, Any]) -> bool:
    """Returns whether the folder already holds this run.

    Args:
      workdir: the run folder, which may not exist.
      config: what config.json would hold; its "science" part is compared.

    Raises:
      InputError: if the folder holds another run, with the difference.
    """
    if not (workdir / "config.json").exists():
        return False
    there = read_json(workdir / "config.json").get("science", {})
    found = difference(there, config["science"])
    if found:
        raise InputError(
            f"--workdir={workdir}: holds a run of another config ({found}); "
            "choose another --workdir, or --overwrite to delete what is there"
        )
    return True


@contextlib.contextmanager
def claim(workdir: epath.Path) -> Iterator[None]:
    """Holds the folder for this process alone; the system lets go of it however the process ends.

    Raises:
      InputError: if the folder cannot be made or written, or is of a store without checkpoints.
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
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "a")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"--workdir={workdir}: not writable ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(f"--workdir={workdir}: another process is at work in it") from None
        yield


def clear(workdir: epath.Path) -> None:
    """Deletes what a run wrote into the folder, and nothing else."""
    for name in CONTENTS:
        path = workdir / name
        if path.is_dir():
            path.rmtree()
        elif path.exists():
            path.unlink()
