"""A user's own function that returns arrays."""

import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from memjax.data.checks import Reading
from memjax.data.dataset import Dataset
from memjax.data.neighbours import EXITS, imports_from_folder
from memjax.data.npz_source import arrays_dataset
from memjax.errors import InputError


def load_module(source: str, reading: Reading | None = None) -> Dataset:
    """Calls `package.module:function` or `path/to/file.py:function`, without arguments.

    It returns a dict of arrays with the names that an .npz file would have: `images` or `features`,
    `labels` (integers or text), and optionally `true_labels`, `example_ids`, the same four with
    `validation_` before them, `class_names` and `num_classes`. A tuple `(images, labels)` or
    `(images, labels, validation_images, validation_labels)` will do as well. They are checked as an
    .npz file's are, and need not be NumPy's.

    Args:
      source: where the function is.
      reading: scale, layout and standardisation; None: the defaults.

    Raises:
      InputError: if there is no such function, if it fails, or if what it returns is not sound.
    """
    where = f"config.dataset.source={source!r}"
    function = _function(source, where)
    try:
        returned: Any = function()
    except SystemExit as error:
        raise InputError(f"{where}: {EXITS}") from error
    except Exception as error:  # the user's function may fail in any way
        if isinstance(error, InputError):
            raise
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: failed with {type(error).__name__}: {reason}") from error
    if isinstance(returned, tuple) and len(returned) in (2, 4):
        names = ("images", "labels", "validation_images", "validation_labels")
        returned = dict(zip(names, returned, strict=False))
    if not isinstance(returned, Mapping) or not all(isinstance(name, str) for name in returned):
        raise InputError(
            f"{where}: returned {type(returned).__name__}; must be a dict with arrays images and "
            "labels, or a tuple of 2 or 4 arrays"
        )
    arrays = {name: value for name, value in returned.items() if value is not None}
    reading = (reading or Reading())._replace(where=where)
    return arrays_dataset(source.rpartition(":")[2], arrays, reading)


def _function(source: str, where: str) -> Any:
    path, _, name = source.rpartition(":")
    try:
        module = _import_file(path) if path.endswith(".py") else importlib.import_module(path)
    except SystemExit as error:
        raise InputError(f"{where}: {EXITS}") from error
    except Exception as error:  # the user's module may fail in any way
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: {type(error).__name__}: {reason}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{where}: {path} has no function {name!r}")
    return function


def _import_file(path: str) -> Any:
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no file {path}")
    # Under a name of its own, so that it hides no installed module.
    spec = importlib.util.spec_from_file_location(f"memjax_source_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    with imports_from_folder(file):
        spec.loader.exec_module(module)
    return module
