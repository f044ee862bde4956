"""A group of points equals each point trained alone; it can be cut, stopped, and lose members."""

import json
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from etils import epath

from memjax.config import default_config
from memjax.loading import load_run
from memjax.runtime.metrics import read_metrics
from memjax.runtime.preemption import StopRequest
from memjax.sweeps import training
from memjax.sweeps.grouping import Group
from memjax.sweeps.members import arrange, places_of
from memjax.sweeps.points import Point, Sweep, check_points
from memjax.sweeps.run import make_plan, run_sweep
from memjax.sweeps.table import state_of
from memjax.training.loop import Interrupted
from memjax.training.run import run
from memjax.training.setup import prepare


def small_config(**changes):
    config = default_config()
    config.dataset.num_train = 90
    config.dataset.num_validation = 30
    config.model.widths = (12,)
    config.train.batch_size = 40
    config.train.num_epochs = 3
    config.optimizer.learning_rate = 0.05
    config.optimizer.momentum = 0.9
    config.checkpoint.powers_of_two = False
    config.checkpoint.every_epochs = 1
    config.run.progress = False
    config.run.num_devices = 1  # where a test is not about devices: quicker to compile
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return config


def plan_of(*changes, **common):
    points = tuple(
        Point(f"p{i}", {"i": i}, small_config(**(common | each))) for i, each in enumerate(changes)
    )
    return make_plan(Sweep(points, check_points(points, "test")))


def weights(folder, step):
    run_there = load_run(folder, **{"run.num_devices": 1})
    return [np.asarray(leaf) for leaf in jax.tree.leaves(run_there.member_params(step))]


MIXED = (
    {
        "corruption.kind": "random_inputs",
        "corruption.fraction": 0.5,
        "optimizer.learning_rate": 0.1,
    },
    {"corruption.kind": "random_inputs+wrong_labels", "corruption.seed": 7, "seed": 3},
    {"regularizer.weight_decay": 0.1, "regularizer.dropout": 0.4, "seed": 5},
)
COMMON = {
    "regularizer.dropout": 0.2,
    "regularizer.input_noise": 0.1,
    "regularizer.weight_decay": 0.01,
    "run.num_devices": 1,
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    for point, config in zip(
        plan_of(*MIXED, **COMMON)[0], plan_of(*MIXED, **COMMON)[1], strict=True
    ):
        run(prepare(config), folder / point.name)
    return folder


@pytest.mark.parametrize(("per_chunk", "devices"), [(1, 1), (2, 2)])
def test_a_group_trains_as_each_point_alone(tmp_path, alone, per_chunk, devices):
    common = COMMON | {"run.members_per_chunk": per_chunk, "run.num_devices": devices}
    plan = plan_of(*MIXED, **common)
    assert len(plan.groups) == 1
    assert run_sweep(plan, tmp_path, show_progress=False).failures == {}
    for point in plan.points:
        folders = tmp_path / "points" / point.name, alone / point.name
        documents = [json.loads((folder / "config.json").read_text()) for folder in folders]
        assert documents[0]["science"] == documents[1]["science"]
        pd.testing.assert_frame_equal(
            *(pd.read_parquet(folder / "examples.parquet") for folder in folders)
        )
        for one, other in zip(*(weights(folder, 0) for folder in folders), strict=True):
            np.testing.assert_array_equal(one, other)
        for one, other in zip(*(weights(folder, 3) for folder in folders), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-6)
        rows = [read_metrics(folder / "metrics.jsonl") for folder in folders]
        assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == [0, 3, 6, 9]
        for one, other in zip(*rows, strict=True):
            assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)
            assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-4)
            assert one["corrupted_accuracy"] == other["corrupted_accuracy"]


def test_removed_and_unique_labels_and_subsets_and_ensembles_train_as_alone(tmp_path):
    common = {"dataset.num_validation": 0, "ensemble.subset_fraction": 0.8, "ensemble.size": 2}
    removed = {"corruption.kind": "removed+unique_labels", "corruption.fraction": 0.3}
    plan = plan_of(removed, removed | {"corruption.seed": 4, "seed": 9}, **common)
    assert len(plan.groups) == 1
    run_sweep(plan, tmp_path, show_progress=False)
    for point, config in zip(plan.points, plan.configs, strict=True):
        together, alone = tmp_path / "points" / point.name, tmp_path / "alone" / point.name
        run(prepare(config), alone)
        rows = [read_metrics(folder / "metrics.jsonl") for folder in (together, alone)]
        for one, other in zip(*rows, strict=True):
            assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)


def test_a_batchnorm_network_trains_as_alone(tmp_path):
    model = {"model.name": "alexnet", "model.width_factor": 0.03, "model.crop": 0, "model.pool": 2}
    with_model = {"train.num_epochs": 1, "checkpoint.every_epochs": 0}

    def config(seed):
        made = small_config(**with_model, seed=seed)
        del made.model.widths
        with made.unlocked():
            made.update_from_flattened_dict(model)
        return made

    points = tuple(Point(f"p{seed}", {"seed": seed}, config(seed)) for seed in range(2))
    plan = make_plan(Sweep(points, check_points(points, "test")))
    run_sweep(plan, tmp_path, show_progress=False)
    run(prepare(plan.configs[1]), tmp_path / "alone")
    one, other = (
        read_metrics(tmp_path / place / "metrics.jsonl")[0] for place in ("points/p1", "alone")
    )
    assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)


def test_points_that_reached_the_wanted_accuracy_end_and_the_others_go_on(tmp_path):
    rates = [{"optimizer.learning_rate": rate} for rate in (1e-6, 0.3, 1e-6, 0.3, 0.3)]
    plan = plan_of(
        *rates,
        **{
            "train.stop_at_train_accuracy": 0.6,
            "run.members_per_chunk": 1,
            "train.num_epochs": 8,
            "run.num_devices": 2,
        },
    )
    run_sweep(plan, tmp_path, show_progress=False)
    table = pd.read_parquet(tmp_path / "results.parquet")
    last = table.groupby("point")["epoch"].max()
    assert last["p0"] == last["p2"] == 8
    assert last["p1"] == last["p3"] == last["p4"] < 8
    rows = [read_metrics(tmp_path / "points" / name / "metrics.jsonl") for name in ("p0", "p2")]
    # The same run twice: one stood in front from the start, one moved up.
    assert [row["train_loss"] for row in rows[0]] == [row["train_loss"] for row in rows[1]]
    assert rows[0][-1]["train_loss"] < rows[0][0]["train_loss"]


def test_a_diverged_point_is_listed_and_stops_no_other(tmp_path):
    plan = plan_of({"optimizer.learning_rate": 1e30}, {"optimizer.learning_rate": 0.1})
    outcome = run_sweep(plan, tmp_path, show_progress=False)
    assert list(outcome.failures) == ["p0"]
    assert "not finite" in outcome.failures["p0"]
    folder = epath.Path(tmp_path) / "points"
    assert [state_of(folder / name) for name in ("p0", "p1")] == ["failed", "finished"]
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert set(table[table["failure"] != ""]["point"]) == {"p0"}
    assert table[table["point"] == "p1"]["epoch"].tolist() == [0, 1, 2, 3]
    again = run_sweep(plan, tmp_path, show_progress=False)
    assert again.failures == outcome.failures
    retried = run_sweep(plan, tmp_path, retry_failed=True, show_progress=False)
    assert list(retried.failures) == ["p0"]


def test_a_stopped_group_goes_on_where_it_was(tmp_path):
    changes = [{"seed": seed, "run.steps_per_dispatch": 2} for seed in range(3)]
    plan = plan_of(*changes)
    run_sweep(plan, tmp_path / "whole", show_progress=False)
    stop, seen = StopRequest(), []

    def on_step(point, step):
        seen.append(step)
        stop.signal_number = 15 if step >= 3 else 0

    setups = [prepare(config) for config in plan.configs]
    folder = epath.Path(tmp_path) / "cut"
    group: Group = plan.groups[0]

    def runs():
        return [
            training.PointRun(point.name, folder / "points" / point.name, setup, i)
            for i, (point, setup) in enumerate(zip(plan.points, setups, strict=True))
        ]

    with pytest.raises(Interrupted):
        training.train_group(group, runs(), folder / "groups/a", stop, on_step)
    assert state_of(folder / "points/p0") == "open"
    stop, seen_later = StopRequest(), []
    training.train_group(
        group, runs(), folder / "groups/a", stop, lambda _, step: seen_later.append(step)
    )
    assert min(seen_later) >= 3
    for point in plan.points:
        rows = [
            [{k: v for k, v in row.items() if k != "wall_seconds"} for row in read_metrics(p)]
            for p in (
                folder / "points" / point.name / "metrics.jsonl",
                tmp_path / "whole/points" / point.name / "metrics.jsonl",
            )
        ]
        assert rows[0] == rows[1]


def test_a_point_that_was_deleted_is_trained_anew_though_its_group_was_saved(tmp_path):
    plan = plan_of({"seed": 0})
    run = training.PointRun("p0", tmp_path / "points/p0", prepare(plan.configs[0]), 0)
    stopped = StopRequest()
    stopped.signal_number = 15
    state_folder = tmp_path / "groups" / plan.groups[0].name(["p0"])
    with pytest.raises(Interrupted):
        training.train_group(plan.groups[0], [run], state_folder, stopped, lambda *_: None)
    assert state_folder.exists()
    shutil.rmtree(tmp_path / "points/p0")
    run_sweep(plan, tmp_path, show_progress=False)
    rows = read_metrics(tmp_path / "points/p0/metrics.jsonl")
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]


def test_finished_points_are_skipped(tmp_path):
    plan = plan_of({"seed": 0}, {"seed": 1})
    run_sweep(plan, tmp_path, show_progress=False)
    files = [p for p in (tmp_path / "points").rglob("*") if p.is_file() and p.name != ".lock"]
    before = {p: p.stat().st_mtime_ns for p in files}
    run_sweep(plan, tmp_path, show_progress=False)
    assert {p: p.stat().st_mtime_ns for p in files} == before


def test_members_alive_stand_in_front_on_every_device():
    places = arrange([4, 7, 9], num_devices=2, places_per_device=4)
    assert places.reshape(2, 4)[:, 0].tolist() == [4, 7]
    assert places_of(places, [9, 7]).tolist() == [1, 4]
