"""A file is whole or absent; a folder belongs to one run, and to one process at a time."""

import contextlib
import errno
import fcntl
import json
import os
import resource
import subprocess
import sys

import pytest
from etils import epath

from memjax.errors import InputError
from memjax.runtime import locks, workdir as workdir_lib


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
        "import sys; from etils import epath; from memjax.runtime.locks import claim\n"
        "with claim(epath.Path(sys.argv[1])): print('held', flush=True)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with locks.claim(epath.Path(tmp_path)):
        refused = subprocess.run(command, capture_output=True, text=True)
    assert "another process is at work" in refused.stderr
    assert subprocess.run(command, capture_output=True, text=True).stdout == "held\n"


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    claim = locks.claim(epath.Path(tmp_path / "file" / "run"))
    with pytest.raises(InputError, match="not writable"), claim:
        pass


@pytest.mark.parametrize("name", workdir_lib.CONTENTS)
def test_what_a_run_wrote_without_a_config_is_refused_and_kept(tmp_path, name):
    if name in ("config.json", "failure.json"):  # a point that could not be begun has a failure
        return
    path = tmp_path / name
    path.mkdir() if "." not in name else path.write_text("{}")
    with pytest.raises(InputError, match=f"holds {name} but no config.json") as error:
        workdir_lib.check_same_run(epath.Path(tmp_path), {"science": {"seed": 0}})
    assert "\n" not in str(error.value)
    assert path.exists()


def run_folder(path, science):
    (path / "checkpoints" / "8").mkdir(parents=True)
    (path / "checkpoints" / "8" / "state").write_text("weights")
    (path / "metrics.jsonl").write_text("{}\n")
    (path / "summary.json").write_text("{}\n")
    workdir_lib.write_json(path / "config.json", {"science": science})


class Killed(BaseException):
    """Ends a process where it stands, as SIGKILL does."""


@pytest.mark.parametrize("deletions", range(6))
def test_a_deletion_killed_anywhere_leaves_nothing_to_go_on_from(tmp_path, monkeypatch, deletions):
    """Killed before the n-th deletion; the next run of another config finds no old checkpoint."""
    folder = epath.Path(tmp_path / "run")
    run_folder(tmp_path / "run", {"seed": 0})
    count = iter(range(100))

    def killing(delete):
        def until(path, *rest, **names):
            if next(count) == deletions:
                raise Killed
            return delete(path, *rest, **names)

        return until

    with monkeypatch.context() as patched:
        for name in ("unlink", "rmtree"):
            patched.setattr(type(folder), name, killing(getattr(type(folder), name)))
        try:
            with locks.claim(folder):
                workdir_lib.clear(folder)
            assert deletions == 5  # 4 things and the mark
        except Killed:
            config_left = (folder / "config.json").exists()
            assert config_left or not (folder / "checkpoints").exists()  # it goes last
    another = {"science": {"seed": 1}}
    assert not workdir_lib.check_same_run(folder, another)  # not a reason to refuse
    with locks.claim(folder):
        assert not workdir_lib.check_same_run(folder, another)
        assert sorted(path.name for path in folder.iterdir()) == [".lock"]


def test_an_older_memjax_counted_where_data_lie_and_a_run_of_it_is_known(tmp_path):
    there = {"seed": 0, "dataset.path": "/old/data.npz", "model.name": "/old/nets.py:Net"}
    run_folder(tmp_path, there)
    same = {"science": {"seed": 0, "model.name": "nets.py:Net"}}
    assert workdir_lib.check_same_run(epath.Path(tmp_path), same)


def test_a_run_is_this_jobs_own_where_the_job_has_the_same_name(tmp_path, monkeypatch):
    folder = epath.Path(tmp_path)
    monkeypatch.delenv("MEMJAX_JOB", raising=False)
    workdir_lib.write_json(folder / "config.json", {"science": {}, "job": ""})
    assert not workdir_lib.was_begun_by_this_job(folder)  # no job is not the same job
    monkeypatch.setenv("MEMJAX_JOB", "one")
    assert not workdir_lib.was_begun_by_this_job(folder)
    workdir_lib.write_json(folder / "config.json", {"science": {}, "job": "one"})
    assert workdir_lib.was_begun_by_this_job(folder)
    monkeypatch.setenv("MEMJAX_JOB", "another")
    assert not workdir_lib.was_begun_by_this_job(folder)
    (tmp_path / "config.json").write_text("{")
    assert not workdir_lib.was_begun_by_this_job(folder)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_line_and_a_flag_takes_care_of_it(
    tmp_path, monkeypatch, number
):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(InputError, match=r"no file locks .*--nolock") as error,
        locks.claim(epath.Path(tmp_path)),
    ):
        pass
    assert os.strerror(number) in str(error.value)
    assert "\n" not in str(error.value)
    locks.use_locks(False)
    try:
        with locks.claim(epath.Path(tmp_path)):
            pass
    finally:
        locks.use_locks(True)


def test_another_error_of_the_lock_is_one_line_too(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", flock)
    claim = locks.claim(epath.Path(tmp_path))
    with pytest.raises(InputError, match=r"cannot be locked .Input/output error."), claim:
        pass


def test_clear_deletes_what_a_run_wrote_and_nothing_else(tmp_path):
    (tmp_path / "checkpoints" / "0").mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    workdir_lib.clear(epath.Path(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_what_was_being_written_at_a_kill_is_deleted_by_the_next_start(tmp_path):
    left = tmp_path / "dynamics" / ".0000000008.parquet.71-0a1b2c3d.tmp"
    own = tmp_path / ".mine.tmp"
    left.parent.mkdir()
    for path in (left, own):
        path.write_text("half")
    with locks.claim(epath.Path(tmp_path)):
        assert not left.exists()
        assert own.exists()


def test_what_sweeps_were_writing_is_deleted_by_the_first_to_come_alone(tmp_path):
    left = tmp_path / ".results.parquet.71-0a1b2c3d.tmp"
    left.write_text("half")
    with locks.hold_together(epath.Path(tmp_path)):
        assert not left.exists()
        left.write_text("half")
        with locks.hold_together(epath.Path(tmp_path)):  # it may be the other one's
            assert left.exists()
    with locks.hold_together(epath.Path(tmp_path)):
        assert not left.exists()


def test_claims_leave_room_for_other_files(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, before[1]))
    try:
        with contextlib.ExitStack() as held:
            for number in range(100):
                held.enter_context(locks.claim(epath.Path(tmp_path / f"{number}")))
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 100 + 128
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_damage_to_what_a_later_start_relies_on_is_one_line(tmp_path):
    folder = epath.Path(tmp_path)
    workdir_lib.write_config(folder, {"science": {}, "derived": {"records_dynamics": True}})
    workdir_lib.write_group(folder, ["a1b2"], "point")
    assert workdir_lib.read_config(folder)["derived"] == {"records_dynamics": True}
    assert workdir_lib.read_group(folder) == (["a1b2"], "point")
    for name, old, new in (("config.json", "true", "false"), ("group.json", "a1b2", "a1b3")):
        path = tmp_path / name
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=r"damaged.*begins the run anew"):
        workdir_lib.read_config(folder)
    with pytest.raises(InputError, match="damaged; delete the point's folder"):
        workdir_lib.read_group(folder)
