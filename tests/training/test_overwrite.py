"""Overwriting: never by half, never a second time in one job, never in silence."""

import json
import shutil
import sys

import pytest
from etils import epath

from memjax.config import resolve, with_values
from memjax.errors import InputError
from memjax.loading import load_run
from memjax.runtime import workdir as workdir_lib
from memjax.training.run import run
from memjax.training.setup import prepare


def setup_of(num_epochs=1, seed=0):
    return prepare(
        resolve(
            {
                "seed": seed,
                "dataset": {"num_train": 40, "num_validation": 10},
                "model": {"name": "mlp", "widths": (4,)},
                "train": {"num_epochs": num_epochs, "batch_size": 20},
                "checkpoint": {"powers_of_two": False, "every_epochs": 0},
                "run": {"progress": False, "num_devices": 1},
            }
        )
    )


@pytest.fixture(scope="module")
def setup():
    return setup_of()


@pytest.fixture(scope="module")
def other():
    return setup_of(seed=1)


def seed_of(workdir):
    return json.loads((workdir / "config.json").read_text())["science"]["seed"]


def contents(workdir):
    """Files of the run and when they were last written."""
    return {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}


def test_checkpoints_without_a_config_are_refused_and_kept(setup, other, tmp_path):
    run(setup, tmp_path)
    (tmp_path / "config.json").unlink()
    before = contents(tmp_path)
    for each in (setup, other):
        with pytest.raises(InputError, match=r"no config\.json"):
            run(each, tmp_path)
        assert contents(tmp_path) == before
    run(other, tmp_path, overwrite=True)
    assert seed_of(tmp_path) == 1


@pytest.mark.parametrize("left", ["config.json", "none"])
def test_after_a_killed_overwrite_any_run_begins_anew(setup, other, tmp_path, monkeypatch, left):
    """The process dies before it deletes `left`, or before config.json of the new run."""
    run(setup, tmp_path)

    class Killed(BaseException):
        pass

    folder = type(epath.Path(tmp_path))
    with monkeypatch.context() as patched:
        for name in ("unlink", "rmtree"):
            delete = getattr(folder, name)

            def dying(path, *rest, delete=delete, **names):
                if path.name == left:
                    raise Killed
                return delete(path, *rest, **names)

            patched.setattr(folder, name, dying)
        if left == "none":
            dying_config = killed_before_writing(Killed)
            patched.setattr("memjax.training.point_folder.write_config", dying_config)
        with pytest.raises(Killed):
            run(other, tmp_path, overwrite=True)
    if left != "none":
        assert seed_of(tmp_path) == 0  # the old config is the last to go
        with pytest.raises(InputError, match="an --overwrite was interrupted"):
            load_run(tmp_path)
    summary = run(other, tmp_path)  # without --overwrite: it was asked for before
    assert seed_of(tmp_path) == 1
    fresh = run(other, tmp_path.parent / "fresh")
    assert summary["train_loss"] == fresh["train_loss"]


def killed_before_writing(error):
    def write_json(path, value):
        raise error

    return write_json


@pytest.mark.parametrize("config", [None, "{}", '{"architectures": ["BertModel"]}'])
def test_overwrite_deletes_nothing_where_no_run_of_memjax_is(setup, tmp_path, config):
    for name in ("figures", "analysis"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    if config:
        (tmp_path / "config.json").write_text(config)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"holds .*analysis, figures, .* deletes nothing") as error:
        run(setup, tmp_path, overwrite=True)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before
    with pytest.raises(InputError, match=r"no config\.json|not that of a memjax run"):
        run(setup, tmp_path)
    assert contents(tmp_path) == before


def test_a_run_that_was_killed_before_its_first_log_is_overwritten(setup, other, tmp_path):
    run(setup, tmp_path)
    for path in [*tmp_path.glob("checkpoints"), *tmp_path.glob("dynamics")]:
        shutil.rmtree(path)
    (tmp_path / "metrics.jsonl").unlink()
    run(other, tmp_path, overwrite=True)
    assert seed_of(tmp_path) == 1


def test_without_tensorboardx_nothing_is_written(setup, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    config = with_values(setup.config, {"run.tensorboard": True})
    with pytest.raises(InputError, match=r"config\.run\.tensorboard=True: needs tensorboardX"):
        run(setup._replace(config=config), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_job_overwrites_once_however_often_it_starts(setup, other, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMJAX_JOB", "first")
    run(setup, tmp_path, overwrite=True)
    monkeypatch.setenv("MEMJAX_JOB", "job")
    run(other, tmp_path, overwrite=True)
    assert seed_of(tmp_path) == 1
    (tmp_path / "summary.json").unlink()  # as if it had been stopped before its end
    before = contents(tmp_path / "checkpoints")
    run(other, tmp_path, overwrite=True)
    assert contents(tmp_path / "checkpoints") == before
    monkeypatch.setenv("MEMJAX_JOB", "another")
    run(other, tmp_path, overwrite=True)
    assert not set(contents(tmp_path / "checkpoints").items()) & set(before.items())
    with pytest.raises(InputError, match="another config"):  # the job's own run is still a run
        run(setup, tmp_path, overwrite=True)


def test_without_a_job_every_overwrite_deletes(setup, tmp_path, monkeypatch):
    monkeypatch.delenv("MEMJAX_JOB", raising=False)
    run(setup, tmp_path, overwrite=True)
    before = contents(tmp_path / "checkpoints")
    run(setup, tmp_path, overwrite=True)
    assert not set(contents(tmp_path / "checkpoints").items()) & set(before.items())


def test_a_run_of_a_memjax_that_drew_otherwise_is_refused(setup, tmp_path):
    run(setup, tmp_path)
    document = workdir_lib.read_json(tmp_path / "config.json")
    del document["science"]["draws.version"]  # as the first ones had it
    workdir_lib.write_json(tmp_path / "config.json", document)
    with pytest.raises(InputError, match=r"draws\.version is None there, 2 here"):
        run(setup, tmp_path)
    with pytest.raises(InputError, match=r"draws\.version is 1 there, 2 here"):
        load_run(tmp_path).setup  # noqa: B018
