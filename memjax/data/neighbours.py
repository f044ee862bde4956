"""What a user's file imports from its own folder: found, hashed, and imported with it."""

import ast
import contextlib
import hashlib
import importlib
import pathlib
import sys
import sysconfig
from collections.abc import Iterator

# What to say of a file that ends Python when it is imported or called.
EXITS = 'it calls sys.exit; what a script does belongs below `if __name__ == "__main__":`'

_loaded: dict[
    str, tuple[pathlib.Path, str]
] = {}  # neighbours by module: folder and digest, as imported


@contextlib.contextmanager
def imports_from_folder(path: pathlib.Path) -> Iterator[None]:
    """While a user's file is imported, lets it import its neighbours, whatever the working folder.

    A module of the same name from another file's folder, or from before it was changed, is
    imported anew.

    Args:
      path: the user's file.
    """
    path = path.resolve()
    folder = path.parent
    for file, source in _sources(folder, path).items():
        parts = pathlib.PurePath(file).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name in _loaded and _loaded[name] != source:
            sys.modules.pop(name, None)
        _loaded[name] = source
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # for imports inside functions, behind all else


def source_digests(root: pathlib.Path, first: pathlib.Path) -> dict[str, str]:
    """Returns the hash of the file and of all that it imports of the user's, by relative path.

    As in Python a module is that of the first folder that has it: `root`, then those of `sys.path`,
    the working folder for one. Installed packages but the file's own are left out.
    """
    return {file: digest for file, (_, digest) in _sources(root, first).items()}


def _sources(root: pathlib.Path, first: pathlib.Path) -> dict[str, tuple[pathlib.Path, str]]:
    """Returns of each file the folder that its path is relative to, and its hash."""
    own = first.relative_to(root).parts[0].removesuffix(".py")
    others = (pathlib.Path(place).resolve() for place in sys.path)
    folders = [root, *(f for f in others if f != root and f.is_dir() and not _is_installed(f))]
    found: dict[str, tuple[pathlib.Path, str]] = {}
    waiting = [(root, first)]
    while waiting:
        folder, path = waiting.pop()
        file = path.relative_to(folder)
        if file.as_posix() in found:
            continue
        source = path.read_bytes().replace(b"\r\n", b"\n")
        found[file.as_posix()] = folder, hashlib.sha256(source).hexdigest()[:16]
        for names in _imported_names(source, file.parts[:-1]):
            if names and names[0] != "memjax":
                waiting += _files_of(names, folders, own)
    return dict(sorted(found.items()))


def _files_of(
    names: tuple[str, ...], folders: list[pathlib.Path], own: str
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Returns the file of a dotted name, and the packages it is in, with the folder they are in."""
    for folder in folders:
        if _is_installed(folder) and names[0] != own:
            continue
        stems = [folder.joinpath(*names[:length]) for length in range(1, len(names) + 1)]
        pairs = ((stem / "__init__.py", stem.with_name(f"{stem.name}.py")) for stem in stems)
        files = [next((file for file in pair if file.is_file()), None) for pair in pairs]
        if any(files):
            return [(folder, file) for file in files if file]
    return []


def _imported_names(source: bytes, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yields the dotted names that are imported; `from a import b` may mean the module a.b."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # what is wrong is said when the model is loaded
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield tuple(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = (*above, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                yield (*base, *(() if alias.name == "*" else (alias.name,)))


def _is_installed(folder: pathlib.Path) -> bool:
    places = (sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib"))
    installed = {pathlib.Path(place).resolve() for place in places}
    return folder in installed or folder.name in ("site-packages", "dist-packages")
