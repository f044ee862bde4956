"""A run of one's own model on one's own data: from any folder, and never with other code."""

import json
import os
import shutil

import numpy as np
import pytest

from memjax.config import resolve
from memjax.errors import InputError
from memjax.loading import load_run
from memjax.located import located
from memjax.training.run import run
from memjax.training.setup import prepare

NETS = """
from flax import linen as nn
from shape_of_test import activation

class Net(nn.Module):
    num_classes: int
    method: str = "auto"

    @nn.compact
    def __call__(self, images, train, mask=None):
        features = nn.Dense(4)(images.reshape(len(images), -1))
        assert self.method == "auto"  # a field of its own, not that of memjax's convolutions
        return nn.Dense(self.num_classes)(activation(features))
"""
SHAPE = "from flax import linen as nn\n\nactivation = nn.relu\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    (project / "nets.py").write_text(NETS)
    (project / "shape_of_test.py").write_text(SHAPE)
    images = np.random.default_rng(0).random((40, 4, 4, 1)).astype(np.float32)
    np.savez(project / "data.npz", images=images, labels=np.arange(40) % 2)
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # changes come within a second
    return project


def setup_of(folder):
    config = resolve(
        {
            "dataset": {"source": "npz", "path": "data.npz", "num_validation": 10},
            "model": {"name": "nets.py:Net"},
            "train": {"num_epochs": 1, "batch_size": 10},
            "checkpoint": {"powers_of_two": False, "every_epochs": 0},
            "run": {"progress": False, "num_devices": 1},
        }
    )
    return prepare(located(config, folder))


def test_a_run_may_start_and_be_opened_in_any_folder(project, tmp_path, monkeypatch):
    run(setup_of(project), tmp_path / "run")
    monkeypatch.chdir("/")
    opened = load_run(tmp_path / "run")
    assert opened.logits_fn(opened.params(), opened.train.images).shape == (30, 2)
    science = json.loads((tmp_path / "run" / "config.json").read_text())["science"]
    assert science["model.name"] == "nets.py:Net"
    assert {"code.nets.py", "code.shape_of_test.py"} <= set(science)
    assert str(project) not in json.dumps(science)


@pytest.mark.parametrize("name", ["nets.py", "shape_of_test.py"])
def test_other_code_is_refused_by_name_and_the_old_one_goes_on(project, tmp_path, name):
    run(setup_of(project), tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    before = (project / name).read_text()
    (project / name).write_text(before.replace("nn.relu", "nn.tanh") + "\n# changed\n")
    for refused in (
        lambda: run(setup_of(project), tmp_path / "run"),
        lambda: load_run(tmp_path / "run").setup,
    ):
        with pytest.raises(InputError) as error:
            refused()
        assert f"code.{name} is " in str(error.value)
        assert "\n" not in str(error.value)
    (project / name).write_text(before)
    assert run(setup_of(project), tmp_path / "run")["epoch"] == 1


def test_code_and_data_may_move(project, tmp_path):
    run(setup_of(project), tmp_path / "run")
    moved = tmp_path / "moved"
    shutil.move(project, moved)
    os.rename(moved / "data.npz", moved / "renamed.npz")
    with pytest.raises(InputError, match=r"data\.npz"):
        load_run(tmp_path / "run").setup  # noqa: B018
    places = {"dataset.path": f"{moved}/renamed.npz", "model.name": f"{moved}/nets.py:Net"}
    assert load_run(tmp_path / "run", **places).steps == [0, 3]


def test_other_data_in_the_place_of_the_old_are_refused(project, tmp_path):
    run(setup_of(project), tmp_path / "run")
    images = np.random.default_rng(1).random((40, 4, 4, 1)).astype(np.float32)
    np.savez(project / "data.npz", images=images, labels=np.arange(40) % 2)
    with pytest.raises(InputError, match=r"data\.source is "):
        run(setup_of(project), tmp_path / "run")
