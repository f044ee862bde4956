"""A user's file imports its neighbours: its own, and anew when they change."""

import pathlib
import sys

from memjax.data.neighbours import imports_from_folder
from tests.data.pictures import write_folder


def loaded(folder: pathlib.Path) -> int:
    """Runs nets.py of a folder as its loaders do; returns the width that it imported."""
    found: dict = {}
    with imports_from_folder(folder / "nets.py"):
        exec((folder / "nets.py").read_text(), found)
    return found["WIDTH"]


def test_each_file_imports_its_own_neighbours_and_anew_when_they_change(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for width, name in enumerate(("one", "other")):
        source = {"nets.py": b"from wide_of_test import WIDTH\n"}
        wide = f"WIDTH = {width}\n".encode()
        write_folder(tmp_path / name, {**source, "wide_of_test.py": wide})
    assert [loaded(tmp_path / name) for name in ("one", "other", "one")] == [0, 1, 0]
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    write_folder(tmp_path / "one", {"wide_of_test.py": b"WIDTH = 7777\n"})
    assert loaded(tmp_path / "one") == 7777
    sys.modules.pop("wide_of_test", None)
