"""`memjax COMMAND`: the same as the module, quick to list, and one line for a mistake."""

import shutil
import subprocess
import sys

import pytest

from memjax import cli, command_line
from memjax.errors import InputError
from tests import command_line as shell


def test_help_lists_the_commands_that_there_are_in_under_a_second_of_work_and_without_jax():
    code = (
        "import sys, time; sys.argv = ['memjax', '--help']\n"
        "from memjax.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: code = stop.code\n"
        "print(code, {'jax', 'flax', 'ml_collections', 'numpy'} & set(sys.modules))\n"
        "print(time.process_time())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    *listed, end, seconds = found.stdout.splitlines()
    assert end == "0 set()"
    assert float(seconds) < 1
    for command in ("train", "analyze", "sweep", "reproduce", "prepare"):
        assert any(line.split()[:1] == [command] for line in listed), found.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "'trian': no such command; did you mean train?"),
        (["main"], "did you mean train?"),
        (["xyz"], "there are: train, analyze"),
        (["completion", "fish"], "must be one of bash, zsh"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["memjax", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_command_has_the_modules_flags_output_and_exit_code(tmp_path):
    bad = ["--config=configs/digits_real.py", "--config.corruption.fraction=2"]
    bad.append(f"--workdir={tmp_path / 'run'}")
    refused = shell.run("memjax.cli", "train", *bad)
    shell.assert_one_line_and_exit_2(refused, "config.corruption.fraction=2.0")
    assert shell.run("memjax.main", *bad).stderr == refused.stderr
    assert (
        "unknown flag; did you mean passes?" in shell.run("memjax.cli", "analyze", "--pases").stderr
    )
    listed = shell.run("memjax.cli", "train", "--list_configs")
    assert (listed.returncode, "digits_real.py" in listed.stdout) == (0, True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "offered"), [("memjax tr", "train"), ("memjax analyze --pas", "--passes=")]
)
def test_bash_completes_commands_and_flags(line, offered):
    words = line.split()
    script = (
        f"{cli.completion('bash')}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _memjax; "
        'echo "${COMPREPLY[@]}"'
    )
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert found.stdout.split() == [offered], found.stderr


def test_fields_of_the_model_are_taken_out_of_the_command_line():
    words = ["main", "--config=c.py", "--config.model.name=my.py:Net", "--config.model.depth", "3"]
    words += ["--config.model.fields.widths=(8, 8)", "-config.model.act=relu", "--config.seed=1"]
    words += ["--config.model.bias=false", "--config.model.rate=1e-3"]
    rest, fields = command_line.take_model_fields(words)
    assert rest == ["main", "--config=c.py", "--config.seed=1"]
    assert fields.pop("name") == "my.py:Net"
    assert fields == {"depth": 3, "widths": (8, 8), "act": "relu", "bias": False, "rate": 1e-3}
    with pytest.raises(InputError, match=r"config\.model\.depth: needs a value"):
        command_line.take_model_fields(["main", "--config.model.depth"])


def test_another_model_drops_the_fields_of_the_files_own():
    from memjax.presets import digits_mlp

    config = digits_mlp("quick")
    command_line.set_model_fields(config, {"depth": 3, "name": "my.py:Net"})
    assert config.model.to_dict() == {"name": "my.py:Net", "depth": 3}
    config = digits_mlp("quick")
    command_line.set_model_fields(config, {"activation": "tanh"})
    assert config.model.to_dict() == {"name": "mlp", "widths": (128, 128), "activation": "tanh"}
