"""What a user's own model is: the source of its file, and of what it imports from the same folder.

The fingerprints stand in config.json, so that a run whose code has changed is not gone on with in
silence. Where the files lie does not count, what they hold does.
"""

import importlib.util
import pathlib

from memjax.data.neighbours import source_digests
from memjax.errors import InputError


def code_fingerprints(name: str) -> dict[str, str]:
    """Returns the fingerprints of the files that a model's code is in.

    Args:
      name: of the model, as in `config.model.name`. A registered one has no code of the user's.

    Returns:
      {"code.FILE": 16 hex digits}, FILE relative to the folder that imports begin at, sorted.
      Files are found from the import statements, also those inside functions; installed packages
      but the model's own, and memjax, are left out.

    Raises:
      InputError: if the file or the module is not there.
    """
    if ":" not in name:
        return {}
    root, first = _root_and_file(name)
    return {f"code.{file}": digest for file, digest in source_digests(root, first).items()}


def import_folder(name: str) -> str:
    """Returns the folder that the imports of a model's code begin at; empty for a registered one.

    Args:
      name: of the model, as in `config.model.name`.
    """
    return str(_root_and_file(name)[0]) if ":" in name else ""


def _root_and_file(name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the folder that the model's imports begin at, and the model's file."""
    module, _, _ = name.rpartition(":")
    if module.endswith(".py"):
        path = pathlib.Path(module).expanduser().resolve()
        if not path.is_file():
            raise InputError(f"config.model.name={name!r}: no file {path}")
        return path.parent, path
    try:
        spec = importlib.util.find_spec(module)
    except Exception as error:  # the packages above are imported: the user's code
        raise InputError(f"config.model.name={name!r}: {type(error).__name__}: {error}") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise InputError(f"config.model.name={name!r}: no module {module} with a Python source")
    path = pathlib.Path(spec.origin).resolve()
    depth = module.count(".") + (path.name == "__init__.py")
    return path.parents[depth], path
