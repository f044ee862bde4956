"""Would the tests notice? Random mutants of memjax/, one after the other, each with its tests.

    python -m tests.mutation --mutants=40 --seed=0
    python -m tests.mutation --mutants=40 --seed=0 --only=7      # one of them, with pytest's words

A mutant is memjax with one comparison, operation, number, condition or boolean changed, drawn so
that every such place of the code has the same chance. What only words an error, annotates a type or
stands in a docstring is left out. The tests of the changed module run first (those that mirror it,
its doctests, those that name it), then the rest of its folder's; the first failure catches it. One
whose tests do not end in --seconds is not counted as caught. The original is never touched: mutants
are made in a copy.
"""

import argparse
import ast
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
_COMPARISONS = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
_OPERATIONS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*"}


class Mutant(NamedTuple):
    """One change: of `path`, the characters from `start` to `end` become `new`."""

    path: pathlib.Path
    line: int
    start: int
    end: int
    old: str
    new: str

    def apply(self, folder):
        """Writes the changed file into a copy of the project."""
        target = folder / self.path.relative_to(ROOT)
        source = self.path.read_text()
        target.write_text(source[: self.start] + self.new + source[self.end :])

    def restore(self, folder):
        """Puts the file back."""
        shutil.copy(self.path, folder / self.path.relative_to(ROOT))


def mutants_of(path):
    """Yields every mutant of a file."""
    source = path.read_text()
    begins = [0]
    for line in source.splitlines(keepends=True):
        begins.append(begins[-1] + len(line))
    lines = source.splitlines(keepends=True)

    def offset(line, column):
        return begins[line - 1] + len(lines[line - 1].encode()[:column].decode())

    def between(left, right):
        """Where the operator between two nodes stands, and what it is."""
        start, end = (
            offset(left.end_lineno, left.end_col_offset),
            offset(right.lineno, right.col_offset),
        )
        gap = source[start:end]
        found = re.search(
            r"(<=|>=|==|!=|//|not\s+in|is\s+not|\bin\b|\bis\b|\band\b|\bor\b|[-+*/<>])", gap
        )
        return (start + found.start(), start + found.end(), found[0]) if found else None

    def whole(node):
        start, end = (
            offset(node.lineno, node.col_offset),
            offset(node.end_lineno, node.end_col_offset),
        )
        return start, end, source[start:end]

    for node in _places(ast.parse(source)):
        at, new = None, None
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            at, new = between(node.left, node.comparators[0]), _COMPARISONS[type(node.ops[0])]
        elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            at, new = between(node.left, node.right), _OPERATIONS[type(node.op)]
        elif isinstance(node, ast.BoolOp):
            at = between(node.values[0], node.values[1])
            new = "or" if isinstance(node.op, ast.And) else "and"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            at = whole(node)
            new = f"({at[2].removeprefix('not').strip()})"
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            at, new = whole(node), str(not node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            at = whole(node)
            new = str(node.value + 1) if node.value in (0, 1) else str(node.value * 2)
        if at and new is not None:
            yield Mutant(path, node.lineno, *at, new)


def _places(tree):
    """Yields the nodes inside functions, but for annotations, docstrings, and errors' words."""
    waiting = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    seen = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            continue
        seen.add(id(node))
        yield node
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            children = value if isinstance(value, list) else [value]
            waiting += [child for child in children if isinstance(child, ast.AST)]


def tests_of(path):
    """The test files to run for a module, the nearest first; and its doctests."""
    relative = path.relative_to(ROOT / "memjax")
    folder = ROOT / "tests" / relative.parent
    while not folder.is_dir():
        folder = folder.parent
    mirrored = [folder / f"test_{relative.stem}.py"]
    dotted = ".".join(("memjax", *relative.with_suffix("").parts))
    parent, _, name = dotted.rpartition(".")
    naming = re.compile(rf"{re.escape(dotted)}\b|from {re.escape(parent)} import [^\n]*\b{name}\b")
    every = sorted((ROOT / "tests").rglob("test_*.py"))
    named = [test for test in every if naming.search(test.read_text())]
    rest = sorted(folder.glob("test_*.py")) if folder != ROOT / "tests" else []
    slow = [f"test_{kind}" for kind in ("notebook", "processes", "faults", "same_bits", "mutation")]
    found = [test for test in dict.fromkeys([*mirrored, *named, *rest]) if test.exists()]
    found = [test for test in found if not any(test.stem.endswith(k[5:]) for k in slow)]
    return [path, *found]


def fate(mutant, folder, seconds, show):
    """Returns what became of a mutant: "caught: TEST", "SURVIVED", or that there was no end."""
    mutant.apply(folder)
    try:
        names = [str(test.relative_to(ROOT)) for test in tests_of(mutant.path)]
        if re.fullmatch(r"memjax/(main|analyze|sweep|reproduce|audit|compare)\.py", names[0]):
            names = names[1:]
        options = ["-x", "-q", "-p", "no:cacheprovider", "-o"]
        command = [sys.executable, "-m", "pytest", *options]
        command += ["addopts=--doctest-modules --import-mode=importlib", *names]
        environment = os.environ | {"PYTHONPATH": str(folder)}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, timeout=seconds, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"no end in {seconds} s"
        if show:
            print(done.stdout)
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
        if done.returncode in (1, 2):
            return f"caught: {failed[1] if failed else 'error'}"
        return "SURVIVED"
    finally:
        mutant.restore(folder)


def drawn(number, seed):
    """The mutants of a seed."""
    every = [m for path in sorted((ROOT / "memjax").rglob("*.py")) for m in mutants_of(path)]
    return random.Random(seed).sample(every, number)


def main():
    """Prints a line a mutant; exit code 1 if fewer than nine of ten are caught."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--only", type=int, default=None)
    given = parser.parse_args()
    caught, chosen = 0, list(enumerate(drawn(given.mutants, given.seed)))
    chosen = [chosen[given.only]] if given.only is not None else chosen
    with tempfile.TemporaryDirectory(prefix="memjax_mutants_") as scratch:
        folder = pathlib.Path(scratch) / "memjax"
        tracked = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, text=True,
            capture_output=True,
        ).stdout.split("\n")  # fmt: skip
        for name in filter(None, tracked):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        for number, mutant in chosen:
            began = time.monotonic()
            found = fate(mutant, folder, given.seconds, given.only is not None)
            caught += found.startswith("caught")
            where = f"{mutant.path.relative_to(ROOT)}:{mutant.line}"
            took = f"{time.monotonic() - began:.0f} s"
            print(f"{number:3d} {where}: {mutant.old!r} -> {mutant.new!r}: "
                  f"{found} ({took})", flush=True)  # fmt: skip
    print(f"{caught} of {len(chosen)} caught")
    raise SystemExit(caught < 0.9 * len(chosen))


if __name__ == "__main__":
    main()
