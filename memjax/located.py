"""Files that a config names, found once: what is kept works from any working folder."""

import dataclasses
import os
import pathlib

from memjax.config import Config


def located(config: Config, *folders: str | os.PathLike) -> Config:
    """Returns the config with the data's path and the model's file absolute.

    Args:
      config: checked.
      *folders: where a relative path is looked for, after the working folder: that of the config
        file. What is in none of them stays as it is, for whoever reads it to say so.
    """
    path = _absolute(config.dataset.path, folders)
    name = config.model.name
    file, colon, attribute = name.rpartition(":")
    if file.endswith(".py"):
        name = f"{_absolute(file, folders)}{colon}{attribute}"
    return dataclasses.replace(
        config,
        dataset=dataclasses.replace(config.dataset, path=path),
        model=dataclasses.replace(config.model, name=name),
    )


def _absolute(path: str, folders: tuple[str | os.PathLike, ...]) -> str:
    file, colon, attribute = path.rpartition(":")
    if file.endswith(".py"):  # a function of a file: FILE.py:NAME
        return f"{_absolute(file, folders)}{colon}{attribute}"
    if not path or "://" in path or "\0" in path:
        return path
    expanded = pathlib.Path(path).expanduser()
    for folder in ("", *folders):
        candidate = pathlib.Path(folder) / expanded
        if candidate.exists():
            return os.path.abspath(candidate)
    return path
