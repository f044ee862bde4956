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

_loaded: dict[str, tuple[str, str]] = {}  # neighbours by module: folder and digest, as imported


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
    for file, digest in source_digests(folder, path).items():
        parts = pathlib.PurePath(file).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name in _loaded and _loaded[name] != (str(folder), digest):
            sys.modules.pop(name, None)
        _loaded[name] = str(folder), digest
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # for imports inside functions, behind all else


def source_digests(root: pathlib.Path, first: pathlib.Path) -> dict[str, str]:
    """Returns the hash of the file and of all that it imports below `root`, by relative path."""
    found: dict[pathlib.Path, str] = {}
    waiting = [first]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        source = path.read_bytes().replace(b"\r\n", b"\n")
        found[path] = hashlib.sha256(source).hexdigest()[:16]
        waiting += _imported_files(source, path, root, first)
    files = {path.relative_to(root).as_posix(): digest for path, digest in found.items()}
    return dict(sorted(files.items()))


def _imported_files(
    source: bytes, path: pathlib.Path, root: pathlib.Path, first: pathlib.Path
) -> Iterator[pathlib.Path]:
    """Yields the files below `root` that a file imports, with the packages they are in."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # what is wrong is said when the model is loaded
    own = first.relative_to(root).parts[0]
    for names in _imported_names(tree, path.relative_to(root).parts[:-1]):
        if not names or names[0] == "memjax":
            continue
        if _is_installed(root) and names[0] != own.removesuffix(".py"):
            continue
        for length in range(1, len(names) + 1):
            stem = root.joinpath(*names[:length])
            for candidate in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
                if candidate.is_file():
                    yield candidate
                    break


def _imported_names(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yields the dotted names that are imported; `from a import b` may mean the module a.b."""
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
