"""The run folder: claimed by one run at a time, written so that a file is whole or absent."""

import contextlib
import json
import os
import re
import secrets
import zlib
from collections.abc import Callable
from typing import Any

from etils import epath

from memjax.config import saved_science
from memjax.errors import InputError

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
_OF_RUNS_ALONE = ("checkpoints", "metrics.jsonl")  # the other names may be of anything
TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")
# There while a run is being deleted: whoever claims the folder next ends the deletion.
_CLEARING = ".clearing"
_ANEW = "--overwrite, or for a point of a sweep deleting its folder, begins the run anew"


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


def write_config(workdir: epath.Path, document: dict[str, Any]) -> None:
    """Writes config.json, with a checksum of the part that no later run is compared with."""
    write_json(workdir / "config.json", document | {"checksum": _crc(document["derived"])})


def read_config(workdir: epath.Path) -> dict[str, Any]:
    """Returns config.json of a run folder.

    Raises:
      InputError: if it is not there or damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise InputError(f"{path}: no such file; is this a memjax run folder?")
    try:
        document = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; {_ANEW}") from None
    if not isinstance(document, dict) or not isinstance(document.get("science"), dict):
        raise InputError(f"{path}: not that of a memjax run; {_ANEW}")
    # A run of an older memjax has none.
    if "checksum" in document and document["checksum"] != _crc(document.get("derived")):
        raise InputError(f"{path}: damaged (derived); {_ANEW}")
    return document


def write_group(workdir: epath.Path, groups: list[str], name: str) -> None:
    """Writes group.json of a sweep's point: the folders in groups/ with states of it.

    Args:
      workdir: of the point.
      groups: names of the folders.
      name: of the point among the rows of these states.
    """
    document = {"groups": groups, "name": name}
    write_json(workdir / "group.json", document | {"checksum": _crc(document)})


def read_group(workdir: epath.Path) -> tuple[list[str], str]:
    """Returns what `write_group` was given; no folders if nothing was.

    Raises:
      InputError: if it is damaged.
    """
    path = workdir / "group.json"
    if not path.exists():
        return [], ""
    with contextlib.suppress(InputError, AttributeError):
        document = read_json(path)
        if document.pop("checksum", None) == _crc(document):
            return document["groups"], document["name"]
    raise InputError(
        f"{path}: damaged; delete the point's folder, and the sweep trains that point anew"
    )


def _crc(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


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
      InputError: if the folder holds another run, with the difference, or what is no longer
        known to be of which.
    """
    if is_being_cleared(workdir):
        return False
    if not has_config(workdir):
        return False
    there = read_config(workdir)["science"]
    found = difference(saved_science(there, config["science"]), config["science"])
    if found:
        raise InputError(
            f"--workdir={workdir}: holds a run of another config ({found}); "
            "choose another --workdir, or --overwrite to delete what is there"
        )
    return True


def has_config(workdir: epath.Path) -> bool:
    """Returns whether the folder holds a config.json.

    Raises:
      InputError: if it does not, but what a run wrote, so that nobody knows which run.
    """
    if (workdir / "config.json").exists():
        return True
    # A sweep's point that could not be begun left its failure and nothing else.
    for name in CONTENTS:
        if name != "failure.json" and (workdir / name).exists():
            words = "delete it (memjax.main does with --overwrite)"
            raise InputError(
                f"--workdir={workdir}: holds {name} but no config.json, so it is not known of what "
                f"run; choose another --workdir, or {words if _holds_a_run(workdir) else 'move it'}"
            )
    return False


def check_overwrite(workdir: epath.Path) -> None:
    """Raises InputError if the folder holds what `clear` deletes, and maybe no run wrote it."""
    found = [name for name in CONTENTS if (workdir / name).exists()]
    if found and not is_being_cleared(workdir) and not _holds_a_run(workdir):
        raise InputError(
            f"--workdir={workdir}: holds {', '.join(found)}, and neither config.json of a run nor "
            f"{' nor '.join(_OF_RUNS_ALONE)}, so --overwrite deletes nothing; choose another "
            "--workdir, or delete it yourself"
        )


def _holds_a_run(workdir: epath.Path) -> bool:
    if any((workdir / name).exists() for name in _OF_RUNS_ALONE):
        return True
    try:
        read_config(workdir)
    except InputError:
        return False
    return True


def clear(workdir: epath.Path) -> None:
    """Deletes what a run wrote into the folder, and nothing else.

    However it is interrupted, no checkpoint is left for a run of another config to go on from:
    config.json goes last, and a mark stays until all is gone, of which `claim` takes notice.
    """
    write_atomically(workdir / _CLEARING, lambda path: epath.Path(path).write_text(""))
    for name in (*(name for name in CONTENTS if name != "config.json"), "config.json"):
        path = workdir / name
        if path.is_dir():
            path.rmtree()
        elif path.exists():
            path.unlink()
    (workdir / _CLEARING).unlink()


def is_being_cleared(workdir: epath.Path) -> bool:
    """Returns whether a deletion was begun in the folder and has not come to its end."""
    return (workdir / _CLEARING).exists()


def end_clearing(workdir: epath.Path) -> None:
    """Deletes what an interrupted `clear` left."""
    if is_being_cleared(workdir):
        clear(workdir)


def job() -> str:
    """Returns the name of the job that this process was started by; empty if nothing says one.

    Launchers set MEMJAX_JOB, to the same name however often they start the job again.
    """
    return os.environ.get("MEMJAX_JOB", "")


def was_begun_by_this_job(workdir: epath.Path) -> bool:
    """Returns whether the run in the folder is one that this very job began.

    --overwrite then has nothing to delete: what is there is the job's own progress.
    """
    if not job():
        return False
    try:
        return read_json(workdir / "config.json").get("job") == job()
    except InputError:
        return False
