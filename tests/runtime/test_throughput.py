"""Rates are of the timed steps alone; a trace has the steps that were asked for."""

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from memjax.runtime import flops
from memjax.runtime.mesh import make_mesh
from memjax.runtime.throughput import Profile, Throughput


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
