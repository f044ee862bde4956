"""A file is whole or absent; a folder belongs to one run, and to one process at a time."""

import json
import subprocess
import sys

import pytest
from etils import epath

from memjax.errors import InputError
from memjax.runtime import workdir as workdir_lib


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "summary.json"
    workdir_lib.write_json(path, {"a": 1})

    def fail_half_way(name):
        epath.Path(name).write_text('{"a"')
        raise OSError("interrupted")

    with pytest.raises(OSError, match="interrupted"):
        workdir_lib.write_atomically(path, fail_half_way)
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_another_config_is_refused_with_the_difference(tmp_path):
    workdir = epath.Path(tmp_path)
    one = {"science": {"seed": 0, "train.batch_size": 64}}
    assert not workdir_lib.check_same_run(workdir, one)
    workdir_lib.write_json(workdir / "config.json", one)
    assert workdir_lib.check_same_run(workdir, one)
    with pytest.raises(InputError, match=r"train.batch_size is 64 there, 128 here"):
        workdir_lib.check_same_run(workdir, {"science": {"seed": 0, "train.batch_size": 128}})


def test_a_second_process_is_refused_while_the_first_works(tmp_path):
    code = (
        "import sys; from etils import epath; from memjax.runtime.workdir import claim\n"
        "with claim(epath.Path(sys.argv[1])): print('held', flush=True)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with workdir_lib.claim(epath.Path(tmp_path)):
        refused = subprocess.run(command, capture_output=True, text=True)
    assert "another process is at work" in refused.stderr
    assert subprocess.run(command, capture_output=True, text=True).stdout == "held\n"


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    claim = workdir_lib.claim(epath.Path(tmp_path / "file" / "run"))
    with pytest.raises(InputError, match="not writable"), claim:
        pass


def test_clear_deletes_what_a_run_wrote_and_nothing_else(tmp_path):
    (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    workdir_lib.clear(epath.Path(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
