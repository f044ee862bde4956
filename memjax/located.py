"""Files that a config names, found once: what is kept works from any working folder."""

import dataclasses
import os
import pathlib

from memjax.config import Config
from memjax.errors import InputError


def located(config: Config, *folders: str | os.PathLike) -> Config:
    """Returns the config with the data's path and the model's file absolute.

    Args:
      config: checked.
      *folders: where a relative path is looked for, after the working folder: that of the config
        file. What is in none of them stays as it is, for whoever reads it to say so.

    Raises:
      InputError: for a path that the system cannot look up.
    """
    dataset, model = config.dataset, config.model
    path = _absolute("dataset.path", dataset.path, folders)
    source = _in_file("dataset.source", dataset.source, folders)
    return dataclasses.replace(
        config,
        dataset=dataclasses.replace(dataset, path=path, source=source),
        model=dataclasses.replace(model, name=_in_file("model.name", model.name, folders)),
    )


def _in_file(field: str, name: str, folders: tuple[str | os.PathLike, ...]) -> str:
    """Returns FILE.py:NAME with an absolute file; another name as it is."""
    return _absolute(field, name, folders) if name.rpartition(":")[0].endswith(".py") else name


def _absolute(field: str, path: str, folders: tuple[str | os.PathLike, ...]) -> str:
    file, colon, attribute = path.rpartition(":")
    if file.endswith(".py"):  # a function of a file: FILE.py:NAME
        return f"{_absolute(field, file, folders)}{colon}{attribute}"
    if not path or "://" in path or "\0" in path:
        return path
    try:
        expanded = pathlib.Path(path).expanduser()
        for folder in ("", *folders):
            candidate = pathlib.Path(folder) / expanded
            if candidate.exists():
                return os.path.abspath(candidate)
    except RuntimeError:
        raise InputError(f"config.{field}={path!r}: no home folder of such a user") from None
    except OSError as error:  # a name that is too long, a folder that nobody may look into
        raise InputError(
            f"config.{field}={path!r}: cannot be looked up: {error.strerror}"
        ) from None
    return path
