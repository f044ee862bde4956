"""Arrays that took long to make, kept as plain .npy files and mapped into memory when read."""

import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np

_LOGGER = logging.getLogger(__name__)


def cache_folder(cache_dir: str = "") -> pathlib.Path:
    """Returns the folder of the cache: the given one, $MEMJAX_CACHE, or ~/.cache/memjax."""
    return pathlib.Path(cache_dir or os.environ.get("MEMJAX_CACHE", "~/.cache/memjax")).expanduser()


def cached_arrays(
    folder: pathlib.Path, names: Sequence[str], make: Callable[[], Mapping[str, np.ndarray]]
) -> Mapping[str, np.ndarray]:
    """Reads arrays from a folder, or makes them and writes them there.

    Processes may do so at the same time: a folder appears whole, by renaming. What cannot be
    written (no space, no permission) is said in the log, and the arrays are used all the same.

    Args:
      folder: holds these arrays only; its name says what they depend on.
      names: names of the arrays.
      make: returns the arrays by name, without Python objects in them.

    Returns:
      The arrays by name, read-only maps of the files where there are files.
    """
    if folder.exists():
        try:
            return _read(folder, names)
        except (OSError, ValueError, EOFError) as error:
            _LOGGER.warning("%s is damaged (%s); it is made again", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    arrays = make()
    try:
        _write(folder, {name: arrays[name] for name in names})
        return _read(folder, names)
    except OSError as error:
        _LOGGER.warning("decoded arrays are not kept for the next start: %s", error)
        return arrays


def _read(folder: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    return {
        name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(np.ndarray)
        for name in names
    }


def _write(folder: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = pathlib.Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp.", dir=folder.parent))
    try:
        for name, array in arrays.items():
            with open(unfinished / f"{name}.npy", "wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        unfinished.chmod(0o755)  # mkdtemp's folders are closed to others
        try:
            unfinished.rename(folder)
        except OSError:
            # Another process was first, and wrote the same.
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
