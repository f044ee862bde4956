"""Who imports whom: asserts the layers and that there is no cycle, and draws the picture.

    python -m tests.architecture                 # asserts; prints the layers and their imports
    python -m tests.architecture --draw          # docs/architecture.png as well

A module may import its own package and what lies in a layer below, also inside functions. What
goes against that stands in `MEANT`, with its reason. At import, nothing goes in a circle but what
stands there.
"""

import argparse
import ast
import collections
import pathlib

ROOT = pathlib.Path(__file__).parent.parent / "memjax"
MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
# From the ground up; the names within one layer do not know of each other.
LAYERS = (
    ("ground", ("errors", "keys", "memory", "version")),
    ("kinds of corruption", ("corruption_kinds", "references")),
    ("fields, and where they count", ("config_sections", "config_effects")),
    ("fields together", ("config_checks",)),
    ("configuration", ("config",)),
    ("parts", ("data", "runtime", "analysis", "presets", "located", "model_flags")),
    ("networks; what reads tables", ("models", "reporting", "command_line")),
    ("one engine", ("training",)),
    ("what an opened run has", ("restoring", "split_arrays", "logits_functions")),
    ("an opened run", ("loading",)),
    ("tables", ("passes",)),
    ("many runs; scores", ("sweeps", "comparing")),
    ("the paper; the audit", ("experiments", "auditing")),
    ("the package", ("memjax",)),
    ("command line", ("main", "analyze", "sweep", "reproduce", "audit", "compare", "cli")),
)
MEANT = {
    ("loading", "passes"): "`run.attribution(query)` reads the pass's table",
}


def imports(module, inside_functions=False):
    """The modules of memjax that a module imports, when it is imported itself or at all."""
    tree = ast.parse(MODULES[module].read_text())
    found, nodes = set(), list(ast.walk(tree)) if inside_functions else list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("memjax"):
            whole = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= whole or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & set(MODULES)
        elif not inside_functions and isinstance(node, ast.Try | ast.If | ast.With):
            nodes += node.body
    return found - {module, "memjax"}


def package_of(module):
    """The name of a module in `LAYERS`."""
    return (*module.split("."), "memjax")[1]


def graph(name_of, inside_functions=False):
    """Who imports whom, by what `name_of` makes of a module's name."""
    found = collections.defaultdict(set)
    for module in MODULES:
        for other in imports(module, inside_functions):
            if name_of(other) != name_of(module):
                found[name_of(module)].add(name_of(other))
    return found


def cycles(edges):
    """Groups of names that all need each other."""
    reach = {name: _reached(edges, name) for name in list(edges)}
    groups = [{other for other in reach[name] if name in reach.get(other, ())} for name in reach]
    return [group for place, group in enumerate(groups) if group and group not in groups[:place]]


def _reached(edges, start):
    seen, left = set(), [start]
    while left:
        for name in edges.get(left.pop(), set()) - seen:
            seen.add(name)
            left.append(name)
    return seen


def upward(edges):
    """The imports (from, to) that go to the same layer or to one above."""
    level = {name: height for height, (_, names) in enumerate(LAYERS) for name in names}
    return {
        (name, other)
        for name, others in edges.items()
        for other in others
        if level[name] <= level[other]
    }


def problems():
    """What breaks the rules, a line each."""
    named = {name for _, names in LAYERS for name in names}
    found = [f"{name}: is in no layer" for name in {package_of(m) for m in MODULES} - named]
    if found:
        return found
    against = upward(graph(package_of, inside_functions=True))
    found += [f"{name} imports {other}, which is not below" for name, other in against - set(MEANT)]
    found += [
        f"{name} no longer imports {other}: not meant" for name, other in set(MEANT) - against
    ]
    found += [f"modules in a circle: {', '.join(sorted(group))}" for group in cycles(graph(str))]
    known = [{name, other} for name, other in MEANT]
    for group in cycles(graph(package_of)):
        if group not in known:
            found.append(f"packages in a circle: {', '.join(sorted(group))}")
    return sorted(found)


def draw(path):
    """Draws the layers, and an arrow to what a package imports and none of its imports does."""
    from matplotlib.figure import Figure

    edges = graph(package_of, inside_functions=True)
    for name, other in MEANT:
        edges[name].discard(other)
    reach = {name: _reached(edges, name) for name in list(edges)}
    nearest = {
        name: others - {far for other in others for far in reach.get(other, ())}
        for name, others in edges.items()
    }
    for name, other in MEANT:
        nearest[name] = nearest[name] | {other}
    edges = nearest
    places, rows = {}, LAYERS[3:-2]
    for height, (_, names) in enumerate(rows):
        for place, name in enumerate(names):
            places[name] = ((place + 1) / (len(names) + 1), height)
    figure = Figure((8, 7))
    axes = figure.subplots()
    for name, others in edges.items():
        for other in others & set(places):
            if name in places:
                meant = (name, other) in MEANT
                axes.annotate(
                    "",
                    places[other],
                    places[name],
                    arrowprops={
                        "arrowstyle": "->",
                        "color": "tab:red" if meant else "0.6",
                        "shrinkA": 14,
                        "shrinkB": 14,
                        "connectionstyle": "arc3,rad=0.08",
                    },
                )
    for name, (x, y) in places.items():
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "teal"}
        axes.text(x, y, name, ha="center", va="center", bbox=box)
    for height, (layer, _) in enumerate(rows):
        axes.text(-0.02, height, layer, ha="right", va="center", color="0.4", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_axis_off()
    axes.set_title(
        "an arrow: imports; what follows from other arrows is left out; red: up, and meant",
        fontsize=10,
    )
    figure.savefig(path, dpi=130, bbox_inches="tight")


def main():
    """Prints the layers, from the top; exit code 1 if a rule is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draw", action="store_true")
    given = parser.parse_args()
    edges = graph(package_of, inside_functions=True)
    for layer, names in reversed(LAYERS):
        print(f"{layer}:")
        for name in names:
            print(f"  {name:<17} -> {', '.join(sorted(edges.get(name, ())))}")
    found = problems()
    print("\n".join(found) or "every import goes down, but for those that are meant; no cycle")
    if given.draw:
        draw(ROOT.parent / "docs" / "architecture.png")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
