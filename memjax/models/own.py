"""Networks of one's own, found by import path or file."""

import hashlib
import importlib
import importlib.machinery
import inspect
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax import linen as nn

from memjax.data.neighbours import EXITS, imports_from_folder
from memjax.errors import InputError
from memjax.models.adapters import Model
from memjax.models.construction import Maker
from memjax.models.functions import MadeModel
from memjax.models.source import code_fingerprints

_SHAPES = (
    "must be a flax linen, flax nnx or equinox module class, or a function that returns a pair of "
    "functions (init, apply)"
)


def load_maker(name: str) -> Callable[..., Any]:
    """Returns the class or function that `config.model.name` names.

    Args:
        name: 'package.module:Name' or 'path/to/file.py:Name'.

    Raises:
        InputError: it cannot be imported, or is neither a class nor a function.
    """
    path, _, attribute = name.rpartition(":")
    try:
        module = _import_file(Path(path)) if path.endswith(".py") else importlib.import_module(path)
    except SystemExit as error:
        raise InputError(f"model {name!r}: {EXITS}") from error
    except Exception as error:  # the user's module may fail in any way
        raise InputError(f"model {name!r}: {one_line(error)}") from error
    maker = getattr(module, attribute, None)
    if maker is None:
        from memjax.config import nearest

        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise InputError(
            f"model {name!r}: {path} has no {attribute!r}; {nearest(attribute, names)}"
        )
    if isinstance(maker, type):
        if issubclass(maker, nn.Module) or _is_of("flax.nnx", maker) or _is_of("equinox", maker):
            return maker
    elif inspect.isfunction(maker):
        return maker
    raise InputError(f"model {name!r}: {attribute!r} {_SHAPES}")


def own_model(maker: Callable[..., Any], num_classes: int, fields: dict[str, Any]) -> Model:
    """Returns a network that is no flax linen module behind the interface.

    Args:
        maker: from `load_maker`.
        num_classes: width of the output.
        fields: checked.
    """
    make = Maker(maker, num_classes, tuple(sorted(fields.items())))
    if not isinstance(maker, type):
        return MadeModel(make)
    if _is_of("flax.nnx", maker):
        from memjax.models.nnx import NnxModel

        return NnxModel(make)
    from memjax.models.equinox import EquinoxModel

    return EquinoxModel(make)


def one_line(error: BaseException) -> str:
    """Returns what an error of the user's code says, in one line."""
    words = " ".join(str(error).split())
    if isinstance(error, InputError):
        return words
    return f"{type(error).__name__}: {words[:300]}" if words else type(error).__name__


def _is_of(library: str, maker: type) -> bool:
    # Whoever defined such a module has imported its library, which takes others half a second.
    module = sys.modules.get(library)
    return module is not None and issubclass(maker, module.Module)


_imported: dict[Path, tuple[str, types.ModuleType]] = {}


def _import_file(path: Path) -> types.ModuleType:
    """Imports a file, once as long as it stays the same: its classes are then the same too."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    path = path.resolve()
    digest = str(code_fingerprints(f"{path}:"))
    if path in _imported and _imported[path][0] == digest:
        return _imported[path][1]
    # Under a name of its own, so that it hides no installed module; flax looks classes up there.
    place = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    module_name = f"memjax_model_{path.stem}_{place}"
    loader = importlib.machinery.SourceFileLoader(module_name, str(path))
    module = types.ModuleType(module_name)
    module.__file__ = str(path)
    sys.modules[module_name] = module
    with imports_from_folder(path):
        loader.exec_module(module)
    _imported[path] = digest, module
    return module
