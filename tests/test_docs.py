"""What the README and docs/ say is there: files, flags, fields, columns."""

import ast
import importlib
import importlib.util
import pathlib
import re
import shlex

import pytest
import yaml

from memjax import cli, config
from memjax.auditing import files
from memjax.config_effects import EFFECTS
from memjax.passes import PASSES
from memjax.training import dynamics

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
# Written by memjax, with the words of the version that wrote it.
REPORT = DOCS / "report" / "report.md"

_FLAG = re.compile(r"--([A-Za-z]\w*(?:\.\w+)*)")
_PROCESS_FLAGS = {"coordinator", "num_processes", "process_id"}
_EVERYWHERE = {"compilation_cache", "lock", "nolock", "help", "helpfull", "helpshort"}


def module_flags():
    """The flags of each entry point, from its text: importing one would take seconds."""
    found = {}
    shared = (ROOT / "memjax/command_line.py").read_text()
    for path in cli.commands().values():
        text = path.read_text()
        names = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', text))
        names |= set(re.findall(r'add_argument\(\s*"--(\w+)"', text))
        for helper in ("config", "deterministic", "process"):
            if re.search(rf"define_{helper}_flags?\(\)", text):
                [body] = re.findall(rf"def define_{helper}_flags?\(.*?(?=\ndef )", shared, re.S)
                names |= set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', body))
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        booleans = set(re.findall(r'DEFINE_bool\(\s*"(\w+)"', text + shared))
        found[module] = names | {f"no{name}" for name in booleans & names} | _EVERYWHERE
    return found


def command_lines(text):
    """Yields the words after `python -m memjax.NAME` or `memjax NAME`, and that NAME's module."""
    text = text.replace("\\\n", " ")
    modules = {name: ".".join(p.relative_to(ROOT).with_suffix("").parts)
               for name, p in cli.commands().items()}  # fmt: skip
    for line in re.findall(r"(?:python -m memjax[. ]|\bmemjax )[^\n`|]*", text):
        line = line.partition("   #")[0]
        by_module = re.match(r"python -m (memjax(?:\.\w+)+)", line)
        by_command = re.match(r"memjax (\w+)", line)
        if by_module:
            yield by_module[1], line[by_module.end() :]
        elif by_command and by_command[1] in modules:
            yield modules[by_command[1]], line[by_command.end() :]


def all_commands():
    for page in PAGES:
        for module, rest in command_lines(page.read_text()):
            yield page, module, rest


def fields():
    """Every field of the config, dotted; those of networks are their classes' own."""
    return set(config.flat_values(config.Config())) | {"model.name"}


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", text, flags=re.S))


def anchors(page):
    """The anchors that mkdocs gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    plain = [re.sub(r"[^\w\s-]", "", h.replace("`", "")).strip().lower() for h in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


def test_the_readme_has_fewer_than_200_lines():
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


@pytest.mark.parametrize("page", [*PAGES, REPORT], ids=lambda page: page.name)
def test_every_relative_link_and_picture_exists(page):
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text()))
    assert links or page.name not in ("README.md", "index.md")
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place) if place else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_every_flag_of_every_command_is_one_of_its_entry_point():
    known, seen = module_flags(), 0
    for page, module, rest in all_commands():
        if module.startswith("memjax.") and module in known:
            for flag in _FLAG.findall(rest):
                if not flag.startswith("config."):
                    assert flag in known[module], f"{page.name}: {module} --{flag}"
                    seen += 1
        else:
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), f"{page.name}: {module}"
    assert seen > 50


def test_every_config_field_is_a_real_one():
    known, seen = fields(), 0
    for page in PAGES:
        for name in re.findall(r"config\.((?:[a-z_]+\.)+[a-z_]+)\b(?!\()", page.read_text()):
            section = name.partition(".")[0]
            if section == "model" or not hasattr(config.Config(), section):
                continue  # fields of the network's own; config.json and the like
            assert name in known, f"{page.name}: config.{name}"
            seen += 1
    assert seen > 20
    assert set(EFFECTS) <= known


def test_configs_and_sweeps_that_are_named_are_there():
    for page, _, rest in all_commands():
        for word in shlex.split(rest, comments=True):
            flag, _, value = word.partition("=")
            if flag in ("--config", "--sweep") or flag == "--config.model.name":
                path = value.partition(":")[0]
                if path.startswith(("configs/", "examples/")):
                    assert (ROOT / path).is_file(), f"{page.name}: {value}"


def test_every_column_of_every_pass_stands_in_the_tables_page_with_its_meaning():
    text = (DOCS / "tables.md").read_text().replace("&#124;", "|")
    for name, each in PASSES.items():
        assert f"#### {name}\n" in text
        for column, meaning in each.columns.items():
            assert f"| `{column}` | {meaning} |" in text, f"{name}: {column}"
    for column, meaning in [*dynamics.COLUMNS.items(), *files.COLUMNS.items()]:
        assert f"| `{column}` | {meaning} |" in text


def test_every_page_is_in_the_navigation_and_begins_with_a_command():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    named = set(re.findall(r"[\w/]+\.md", str(site["nav"])))
    left_out = set(site.get("not_in_nav", "").replace("/", "").split())
    pages = {
        str(page.relative_to(DOCS))
        for page in [*DOCS.glob("*.md"), *DOCS.glob("report/**/report.md")]
    }
    assert named == pages - left_out
    reports = {name for name in named if name.startswith("report/")}
    for name in named - {"changelog.md", "protocol.md", *reports}:
        before, fence, _ = (DOCS / name).read_text().partition("```")
        assert fence, name
        assert len(before.splitlines()) < 12, f"{name}: the command comes late"


def python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M)


def test_every_python_example_and_function_of_the_reference_is_there():
    imports = set()
    for page in PAGES:
        for block in python_blocks(page):
            for node in ast.walk(ast.parse(block, page.name)):
                if isinstance(node, ast.ImportFrom):
                    imports |= {(node.module, each.name) for each in node.names}
    names = re.findall(r"^::: (\S+)\.(\w+)$", (DOCS / "api.md").read_text(), re.M)
    assert len(names) > 40
    for module, name in imports | set(names):
        here = importlib.import_module(module)
        assert hasattr(here, name) or importlib.util.find_spec(f"{module}.{name}"), (module, name)


def test_the_example_of_pure_functions_prints_what_the_page_says(capsys):
    page = (DOCS / "own_model.md").read_text()
    [(code, printed)] = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", page, re.S)
    exec(compile(code, "own_model.md", "exec"), {})
    numbers = [float(x) for x in re.findall(r"[\d.]+", printed)]
    found = [float(x) for x in re.findall(r"[\d.]+", capsys.readouterr().out)]
    assert found == pytest.approx(numbers, abs=0.011)


def test_no_page_has_a_place_that_was_never_filled():
    for page in PAGES:
        assert not re.findall(r"@[A-Z_]+@|TODO|TBD", page.read_text()), page.name
