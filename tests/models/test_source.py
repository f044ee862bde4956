"""A model of one's own is known by its code: the file, and what it imports from its folder."""

import sys
import textwrap

import pytest

from memjax.errors import InputError
from memjax.models.source import code_fingerprints, import_folder


def write(folder, files):
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))


FILES = {
    "nets.py": """
        import json
        import numpy as np
        import memjax
        import layers
        from parts import wide
        from parts.deep import Deep as D

        class Net:
            def __call__(self):
                import late  # inside a function
    """,
    "layers.py": "import settings\n",
    "settings.py": "WIDTH = 8\n",
    "parts/__init__.py": "",
    "parts/wide.py": "from . import common\n",
    "parts/deep.py": "from .common import depth\nfrom .. import settings\n",
    "parts/common.py": "depth = 3\n",
    "parts/unused.py": "",
    "late.py": "",
    "unused.py": "",
    "notes.txt": "",
}
USED = {name for name in FILES if "unused" not in name and name.endswith(".py")}


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, FILES)
    return tmp_path


def test_the_file_and_all_it_imports_from_its_folder_count(folder):
    found = code_fingerprints(f"{folder}/nets.py:Net")
    assert set(found) == {f"code.{name}" for name in USED}
    assert list(found) == sorted(found)
    assert all(len(digest) == 16 for digest in found.values())


@pytest.mark.parametrize("name", sorted(USED))
def test_a_change_in_any_of_them_is_seen_and_in_that_file_alone(folder, name):
    before = code_fingerprints(f"{folder}/nets.py:Net")
    (folder / name).write_text((folder / name).read_text() + "# changed\n")
    after = code_fingerprints(f"{folder}/nets.py:Net")
    assert {key for key in after if after[key] != before[key]} == {f"code.{name}"}


def test_what_comes_from_the_working_folder_counts_too(tmp_path, monkeypatch):
    """`python -m` lets imports begin there as well."""
    source = {"models/nets.py": "import helper_of_test\n"}
    source["models/helper_of_test.py"] = "from common_of_test.act import act\n"
    write(tmp_path, {**source, "common_of_test/act.py": "from . import more\nact = 1\n"})
    write(tmp_path, {"common_of_test/more.py": "", "common_of_test/unused.py": ""})
    name = f"{tmp_path}/models/nets.py:Net"
    own = {"code.nets.py", "code.helper_of_test.py"}
    assert set(code_fingerprints(name)) == own
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.chdir(tmp_path)
    before = code_fingerprints(name)
    assert set(before) == {*own, "code.common_of_test/act.py", "code.common_of_test/more.py"}
    (tmp_path / "common_of_test/act.py").write_text("from . import more\nact = 2\n")
    after = code_fingerprints(name)
    assert [file for file in before if before[file] != after[file]] == [
        "code.common_of_test/act.py"
    ]


def test_what_is_not_imported_does_not_count(folder):
    before = code_fingerprints(f"{folder}/nets.py:Net")
    for name in ("unused.py", "parts/unused.py", "notes.txt"):
        (folder / name).write_text("changed = True\n")
    assert code_fingerprints(f"{folder}/nets.py:Net") == before


def test_where_the_files_lie_does_not_count_nor_how_lines_end(folder, tmp_path, monkeypatch):
    before = code_fingerprints(f"{folder}/nets.py:Net")
    elsewhere = tmp_path / "elsewhere"
    for name in FILES:
        path = elsewhere / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((folder / name).read_bytes().replace(b"\n", b"\r\n"))
    assert code_fingerprints(f"{elsewhere}/nets.py:Net") == before
    monkeypatch.chdir(elsewhere)
    assert code_fingerprints("nets.py:Net") == before
    assert import_folder("nets.py:Net") == str(elsewhere)


def test_a_module_by_name_counts_likewise(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "parts", raising=False)
    by_name = code_fingerprints("parts.deep:Deep")
    assert set(by_name) == {f"code.{name}" for name in (
        "parts/__init__.py", "parts/deep.py", "parts/common.py", "settings.py"
    )}  # fmt: skip
    assert import_folder("parts.deep:Deep") == str(folder)
    monkeypatch.delitem(sys.modules, "parts", raising=False)


def test_of_an_installed_package_that_package_alone_counts():
    found = code_fingerprints("flax.linen.linear:Dense")
    assert "code.flax/linen/linear.py" in found
    assert all(name.startswith("code.flax/") for name in found)


def test_a_registered_model_has_no_code_of_the_users():
    assert code_fingerprints("mlp") == {}
    assert import_folder("mlp") == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/nets.py:Net", "no file /no/such/nets.py"),
        ("no_such_module:Net", "no module no_such_module"),
        ("no_such_package.nets:Net", "No module named 'no_such_package'"),
        ("sys:Net", "no module sys with a Python source"),
    ],
)
def test_what_is_not_there_is_one_line(name, words):
    with pytest.raises(InputError) as error:
        code_fingerprints(name)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_with_an_error_still_has_a_fingerprint(tmp_path):
    (tmp_path / "nets.py").write_text("class Net(:\n")
    assert set(code_fingerprints(f"{tmp_path}/nets.py:Net")) == {"code.nets.py"}
