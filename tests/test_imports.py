"""Data flow in one direction: no module, and no package, needs one that needs it."""

import ast
import collections
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent / "memjax"
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
# Networks take the strengths of training/regularizers.py; training builds networks.
KNOWN = [{"memjax.models", "memjax.training"}]


def imports(module):
    """The modules of memjax that a module imports when it is imported itself."""
    found, nodes = set(), list(ast.parse(MODULES[module].read_text()).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("memjax"):
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= whole or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & set(MODULES)
        elif isinstance(node, ast.Try | ast.If | ast.With):
            nodes += node.body
    return found - {module, "memjax"}


def package_of(module):
    return ".".join(module.split(".")[:2])


def cycles(graph):
    """Groups of names that all need each other."""

    def reached(start):
        seen, left = set(), [start]
        while left:
            for name in graph[left.pop()] - seen:
                seen.add(name)
                left.append(name)
        return seen

    reach = {name: reached(name) for name in list(graph)}
    groups = [{other for other in reach[name] if name in reach.get(other, ())} for name in reach]
    return [group for place, group in enumerate(groups) if group and group not in groups[:place]]


@pytest.mark.parametrize("name_of", [str, package_of], ids=["modules", "packages"])
def test_nothing_is_imported_in_a_circle(name_of):
    graph = collections.defaultdict(set)
    for module in MODULES:
        for other in imports(module):
            if name_of(other) != name_of(module):
                graph[name_of(module)].add(name_of(other))
    assert [group for group in cycles(graph) if group not in KNOWN] == []
