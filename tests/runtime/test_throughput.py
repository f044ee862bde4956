"""Rates are of the timed steps alone; a trace has the steps that were asked for."""

import json

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from memjax.runtime import flops
from memjax.runtime.mesh import make_mesh
from memjax.runtime.throughput import Profile, Throughput
from tests import command_line


def test_rates_are_work_over_seconds(monkeypatch):
    mesh = make_mesh(1, 4)
    monkeypatch.setitem(flops.PEAKS, mesh.local_devices[0].device_kind, (2e6, 1e6))
    throughput = Throughput()
    throughput.add(num_steps=30, seconds=2.0)
    throughput.add(num_steps=10, seconds=3.0)
    summary = throughput.summary(100.0, 50.0, mesh, "float32")
    assert summary == {
        "examples_per_second": 40 * 100 / 5,
        "flops_per_second": 40 * 100 * 50 / 5,
        "share_of_peak": pytest.approx(40 * 100 * 50 / 5 / 4e6),
    }


def test_no_timed_step_is_no_rate():
    summary = Throughput().summary(100.0, 50.0, make_mesh(1, 1), "float32")
    assert set(summary.values()) == {None}


def test_a_trace_has_the_steps_asked_for(tmp_path):
    profile = Profile(epath.Path(tmp_path), num_steps=5)
    double = jax.jit(lambda x: 2 * x)
    for _ in range(4):
        profile.start()
        double(jnp.ones(3)).block_until_ready()
        profile.count(2)
    assert profile.steps_left == 0
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_a_trace_that_is_cut_short_is_written(tmp_path):
    profile = Profile(epath.Path(tmp_path), num_steps=5)
    profile.start()
    profile.count(2)
    profile.close()
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_no_trace_unless_asked_for(tmp_path):
    profile = Profile(epath.Path(tmp_path), num_steps=0)
    profile.start()
    profile.count(3)
    profile.close()
    assert not list(tmp_path.iterdir())


def test_a_run_leaves_its_rate_a_trace_and_its_programs(tmp_path):
    finished = command_line.run(
        "memjax.main",
        "--config=configs/digits_randlabel.py:quick",
        "--config.dataset.num_train=256",
        "--config.train.num_epochs=4",
        f"--workdir={tmp_path / 'run'}",
        f"--compilation_cache={tmp_path / 'cache'}",
        "--profile=5",
    )
    assert finished.returncode == 0, finished.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["examples_per_second"] > 0
    assert summary["flops_per_second"] > 0
    assert summary["share_of_peak"] > 0
    assert "share_of_peak" in finished.stdout
    assert len(list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))) == 1
    assert list((tmp_path / "cache").iterdir())
