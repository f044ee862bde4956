"""A group of points equals each point trained alone; it can be cut, stopped, and lose members."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from etils import epath

from memjax.config import default_config
from memjax.errors import InputError
from memjax.loading import load_run
from memjax.runtime.metrics import read_metrics
from memjax.runtime.preemption import StopRequest
from memjax.sweeps import run as sweep_run
from memjax.sweeps.plan import make_plan
from memjax.sweeps.points import Point, Sweep, check_points
from memjax.sweeps.run import run_sweep
from memjax.sweeps.table import state_of
from memjax.training import group
from memjax.training.members import arrange, places_of
from memjax.training.run import run
from memjax.training.setup import prepare
from memjax.training.watcher import Interrupted


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
    {  # other examples of the source, and so other moments, noise and validation set
        "corruption.kind": "random_inputs+wrong_labels",
        "corruption.seed": 7,
        "dataset.seed": 11,
        "seed": 3,
    },
    {
        "regularizer.weight_decay": 0.1,
        "regularizer.dropout": 0.4,
        "dataset.seed": 12,
        "seed": 5,
    },
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


def assert_losses_as_alone(plan, folder):
    for point, config in zip(plan.points, plan.configs, strict=True):
        together, alone = folder / "points" / point.name, folder / "alone" / point.name
        run(prepare(config), alone)
        rows = [read_metrics(each / "metrics.jsonl") for each in (together, alone)]
        for one, other in zip(*rows, strict=True):
            assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)


@pytest.mark.parametrize("other_examples", [0, 11])
def test_noise_with_moments_of_each_pixel_is_that_of_each_point_alone(tmp_path, other_examples):
    noise = {"corruption.kind": "random_inputs", "corruption.noise_moments": "pixel"}
    changed = {"corruption.seed": 4, "corruption.fraction": 0.5, "dataset.seed": other_examples}
    plan = plan_of(noise, noise | changed)
    assert len(plan.groups) == 1
    run_sweep(plan, tmp_path, show_progress=False)
    assert_losses_as_alone(plan, tmp_path)


def test_removed_and_unique_labels_and_subsets_and_ensembles_train_as_alone(tmp_path):
    common = {"dataset.num_validation": 0, "ensemble.subset_fraction": 0.8, "ensemble.size": 2}
    removed = {"corruption.kind": "removed+unique_labels", "corruption.fraction": 0.3}
    plan = plan_of(removed, removed | {"corruption.seed": 4, "seed": 9}, **common)
    assert len(plan.groups) == 1
    run_sweep(plan, tmp_path, show_progress=False)
    assert_losses_as_alone(plan, tmp_path)


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


class Stop(StopRequest):
    """A signal comes when it is asked for the so-manieth time."""

    def __init__(self, count):
        self.count = count

    def on_any_process(self):
        return self.signal_number

    @property
    def signal_number(self):
        self.count -= 1
        return 15 if self.count < 0 else 0


def stopped_after(count, monkeypatch):
    """Makes a signal come to the sweep at its so-manieth dispatch, event or evaluation."""

    @contextlib.contextmanager
    def request():
        yield Stop(count)

    monkeypatch.setattr(sweep_run, "stop_request", request)


def logged(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k != "wall_seconds"} for row in rows]


def assert_same_points(plan, one, other):
    """Same lines, same dynamics, same checkpoints of each member, to the bit."""
    for point in plan.points:
        folders = [folder / "points" / point.name for folder in (one, other)]
        assert logged(folders[0]) == logged(folders[1])
        runs = [load_run(folder, **{"run.num_devices": 1}) for folder in folders]
        assert runs[0].steps == runs[1].steps
        pd.testing.assert_frame_equal(runs[0].dynamics, runs[1].dynamics)
        for step in runs[0].steps:
            leaves = [jax.tree.leaves(each.member_params(step)) for each in runs]
            for mine, its in zip(*leaves, strict=True):
                np.testing.assert_array_equal(mine, its)


ENSEMBLES = {
    "ensemble.size": 4,
    "ensemble.subset_fraction": 0.5,
    "train.batch_size": 15,
    "train.stop_at_train_accuracy": 0.75,
    "optimizer.learning_rate": 0.1,
    "train.num_epochs": 6,
    "run.members_per_chunk": 1,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    run_sweep(ensembles(), folder, show_progress=False)
    return folder


def ensembles(**changes):
    points = {"seed": 0}, {"seed": 10, "optimizer.learning_rate": 0.05}
    return plan_of(*points, **(ENSEMBLES | changes))


@pytest.mark.parametrize("devices", [2, 3])
def test_a_stopped_group_goes_on_where_it_was_with_each_member_its_own(
    tmp_path, whole, monkeypatch, devices
):
    """Stopped again and again, now on one device, now on more."""
    plans = [ensembles(), ensembles(**{"run.num_devices": devices})]
    stops = 0
    for turn in range(40):
        with monkeypatch.context() as patch:
            stopped_after(3, patch)
            try:
                run_sweep(plans[turn % 2], tmp_path, show_progress=False)
                break
            except Interrupted:
                stops += 1
    assert stops >= 3
    assert_same_points(plans[0], tmp_path, whole)
    table = pd.read_parquet(tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(table, pd.read_parquet(whole / "results.parquet"))


def test_members_of_an_ensemble_end_each_where_it_has_fitted_as_the_runs_with_their_seeds(
    whole, tmp_path
):
    together = load_run(whole / "points/p0")
    ends = [together.last_step(member) for member in range(4)]
    assert len(set(ends)) > 1
    for member in (0, 3):
        (config,) = plan_of({"seed": member, "ensemble.size": 1}, **(
            {k: v for k, v in ENSEMBLES.items() if k != "ensemble.size"}
        )).configs  # fmt: skip
        run(prepare(config), tmp_path / f"{member}")
        alone = load_run(tmp_path / f"{member}")
        assert alone.steps[-1] == ends[member]
        for one, other in zip(
            jax.tree.leaves(alone.member_params(ends[member])),
            jax.tree.leaves(together.member_params(together.steps[-1])),
            strict=True,
        ):
            np.testing.assert_allclose(one[0], other[member], rtol=2e-4, atol=2e-6)
        of_member = together.dynamics.query("member == @member").drop(columns="member")
        expected = alone.dynamics.drop(columns="member")
        assert of_member["step"].max() == ends[member]
        for name in expected:
            if expected[name].dtype.kind == "f":
                np.testing.assert_allclose(of_member[name], expected[name], rtol=1e-3, atol=1e-4)
            else:
                assert of_member[name].tolist() == expected[name].tolist()


def test_a_point_that_was_deleted_is_trained_anew_and_the_others_go_on(
    tmp_path, whole, monkeypatch
):
    plan = ensembles()
    with monkeypatch.context() as patch:
        stopped_after(4, patch)
        with pytest.raises(Interrupted):
            run_sweep(plan, tmp_path, show_progress=False)
    shutil.rmtree(tmp_path / "points/p0")
    run_sweep(plan, tmp_path, show_progress=False)
    assert_same_points(plan, tmp_path, whole)
    shutil.rmtree(tmp_path / "points/p1")
    run_sweep(plan, tmp_path, show_progress=False)
    assert_same_points(plan, tmp_path, whole)


def failing(monkeypatch, words, when):
    """Makes training fail where `when` holds of a group."""
    train = group.Group.train

    def fail(self, step, num_steps):
        if step >= 6 and when(self):
            raise jax.errors.JaxRuntimeError(words)
        return train(self, step, num_steps)

    monkeypatch.setattr(group.Group, "train", fail)


def test_without_memory_fewer_members_go_on_from_what_is_saved(
    tmp_path, whole, monkeypatch, caplog
):
    failing(monkeypatch, "RESOURCE_EXHAUSTED: Out of memory", lambda group: group.chunk > 2)
    plan = ensembles(**{"run.members_per_chunk": 4})
    assert run_sweep(plan, tmp_path, show_progress=False).failures == {}
    assert caplog.text.count("going on with 2 members side by side") == 1
    for point in plan.points:
        rows = [logged(folder / "points" / point.name) for folder in (tmp_path, whole)]
        for one, other in zip(*rows, strict=True):
            np.testing.assert_allclose(one["train_loss"], other["train_loss"], rtol=1e-3)


def test_a_point_fails_only_alone_and_the_others_end_as_ever(tmp_path, whole, monkeypatch):
    failing(monkeypatch, "INTERNAL: boom", lambda group: 10 in group._on_host.seeds)
    outcome = run_sweep(ensembles(), tmp_path, show_progress=False)
    assert outcome.failures == {"p1": "INTERNAL: boom"}
    plan = ensembles()
    assert_same_points(plan._replace(points=plan.points[:1]), tmp_path, whole)
    monkeypatch.undo()
    assert run_sweep(plan, tmp_path, retry_failed=True, show_progress=False).failures == {}
    assert_same_points(plan, tmp_path, whole)


def test_where_a_device_is_gone_all_points_stay_open(tmp_path, whole, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, "INTERNAL: the device is lost", lambda group: True)
        patch.setattr(sweep_run, "_devices_work", lambda: False)
        with pytest.raises(InputError, match=r"a device failed .* goes on"):
            run_sweep(ensembles(), tmp_path, show_progress=False)
    folder = epath.Path(tmp_path) / "points"
    assert [state_of(folder / name) for name in ("p0", "p1")] == ["open", "open"]
    assert run_sweep(ensembles(), tmp_path, show_progress=False).failures == {}
    assert_same_points(ensembles(), tmp_path, whole)


def test_more_epochs_go_on_from_the_last_checkpoint(tmp_path, whole):
    run_sweep(ensembles(**{"train.num_epochs": 3}), tmp_path, show_progress=False)
    for path in tmp_path.glob("points/*/config.json"):  # of a memjax that had fewer fields
        document = json.loads(path.read_text())
        del document["science"]["augmentation.flip"]
        path.write_text(json.dumps(document))
    run_sweep(ensembles(), tmp_path, show_progress=False)
    assert_same_points(ensembles(), tmp_path, whole)


def test_finished_points_are_skipped_and_what_was_being_written_at_a_kill_is_deleted(tmp_path):
    plan = plan_of({"seed": 0}, {"seed": 1})
    half_written = tmp_path / ".results.parquet.71-0a1b2c3d.tmp"  # by a sweep that was killed
    half_written.write_text("half")
    run_sweep(plan, tmp_path, show_progress=False)
    assert not half_written.exists()
    files = [p for p in (tmp_path / "points").rglob("*") if p.is_file() and p.name != ".lock"]
    before = {p: p.stat().st_mtime_ns for p in files}
    run_sweep(plan, tmp_path, show_progress=False)
    assert {p: p.stat().st_mtime_ns for p in files} == before


def test_members_alive_stand_in_front_on_every_device():
    places = arrange([4, 7, 9], [2, 3], num_devices=2, places_per_device=4)
    assert places.reshape(2, 4).tolist() == [[4, 7, 2, 3], [9, 4, 4, 4]]
    assert places_of(places, [9, 7, 3]).tolist() == [4, 1, 3]
