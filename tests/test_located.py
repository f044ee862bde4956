"""A relative path is looked for once: from the working folder, then beside the config file."""

import pytest

from memjax.config import resolve
from memjax.errors import InputError
from memjax.located import located


def config_of(path="", name="mlp"):
    dataset = {"source": "npz", "path": path} if path else {}
    return resolve({"dataset": dataset, "model": {"name": name}})


@pytest.fixture
def folders(tmp_path, monkeypatch):
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        folder.mkdir()
        (folder / "both.npz").write_text("")
    (beside / "data.npz").write_text("")
    (beside / "nets.py").write_text("")
    monkeypatch.chdir(here)
    return here, beside


def test_the_working_folder_comes_first_then_the_config_files(folders):
    here, beside = folders
    assert located(config_of("both.npz"), beside).dataset.path == str(here / "both.npz")
    assert located(config_of("data.npz"), beside).dataset.path == str(beside / "data.npz")
    found = located(config_of(name="nets.py:Net"), beside)
    assert found.model.name == f"{beside}/nets.py:Net"


def test_what_is_absolute_or_nowhere_or_no_file_stays(folders):
    _, beside = folders
    for path in ("nowhere.npz", "gs://bucket/data.npz", str(beside / "data.npz"), "a\0b"):
        assert located(config_of(path), beside).dataset.path == path
    for name in ("mlp", "package.module:Net", "nowhere.py:Net", f"{beside}/nets.py:Net"):
        assert located(config_of(name=name), beside).model.name == name


def test_located_twice_is_located_once_and_the_science_is_the_same(folders):
    _, beside = folders
    once = located(config_of("data.npz", "nets.py:Net"), beside)
    assert located(once) == once
    assert once.science_hash() == config_of("elsewhere/d.npz", "nets.py:Net").science_hash()


@pytest.mark.parametrize(
    ("path", "words"), [("~nosuchuser/x.npz", "no home folder"), ("x" * 300, "File name too long")]
)
def test_a_path_that_cannot_be_looked_up_is_one_line(folders, path, words):
    _, beside = folders
    with pytest.raises(InputError, match=rf"config\.dataset\.path='{path}': .*{words}"):
        located(config_of(path), beside)
    with pytest.raises(InputError, match=rf"config\.model\.name='{path}\.py': .*{words}"):
        located(config_of(name=f"{path}.py:Net"), beside)


def test_a_tilde_is_the_home(folders, monkeypatch):
    _, beside = folders
    monkeypatch.setenv("HOME", str(beside))
    assert located(config_of("~/data.npz")).dataset.path == str(beside / "data.npz")
