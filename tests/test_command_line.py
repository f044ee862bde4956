"""What the entry points share: which file --config means."""

import pytest

from memjax import command_line
from memjax.errors import InputError

SHIPPED = command_line.config_folder()


@pytest.mark.parametrize("name", ["digits_real.py", "configs/digits_real.py"])
@pytest.mark.parametrize("variant", ["", ":quick"])
def test_a_bare_name_or_configs_means_the_shipped_file(name, variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command_line.find_config(name + variant) == f"{SHIPPED / 'digits_real.py'}{variant}"


def test_a_file_that_is_there_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_real.py").write_text("")
    assert command_line.find_config("digits_real.py") == "digits_real.py"
    path = tmp_path / "digits_real.py"
    assert command_line.find_config(f"{path}:quick") == f"{path}:quick"


@pytest.mark.parametrize(
    "path",
    [
        "/some/where/digits_real.py",
        "./digits_real.py",
        "../digits_real.py",
        "mine/digits_real.py",
        "mine/configs/digits_real.py",
        "configs/mine/digits_real.py",
        "~/digits_real.py",
        "digits_real",
        "configs",
    ],
)
def test_another_path_that_does_not_exist_is_an_error(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"--config={path}: no such config file"):
        command_line.find_config(path)


def test_the_error_names_the_nearest():
    with pytest.raises(InputError, match=r"did you mean configs/digits_real\.py"):
        command_line.find_config("configs/digits_reel.py")
