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
    dataset, model = config.dataset, config.model
    path, source = _absolute(dataset.path, folders), _in_file(dataset.source, folders)
    return dataclasses.replace(
        config,
        dataset=dataclasses.replace(dataset, path=path, source=source),
        model=dataclasses.replace(model, name=_in_file(model.name, folders)),
    )


def _in_file(name: str, folders: tuple[str | os.PathLike, ...]) -> str:
    """Returns FILE.py:NAME with an absolute file; another name as it is."""
    return _absolute(name, folders) if name.rpartition(":")[0].endswith(".py") else name


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
