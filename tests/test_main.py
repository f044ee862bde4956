"""The main job through the real command line: it learns, resumes exactly, and refuses bad input."""

import contextlib
import json
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from memjax.loading import load_run
from tests import command_line

SMALL = [
    "--config=configs/digits_randlabel.py:quick",
    "--config.dataset.num_train=200",
    "--config.dataset.num_validation=100",
    "--config.model.widths=(32,)",
    "--config.train.num_epochs=12",
    "--config.checkpoint.every_epochs=4",
]


def main(workdir, *flags, small=True, **extra):
    return command_line.run(
        "memjax.main", *(SMALL if small else []), f"--workdir={workdir}", *flags, **extra
    )


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def without_seconds(lines):
    return [{k: v for k, v in line.items() if k != "wall_seconds"} for line in lines]


def checkpoint_bits(workdir):
    """What each checkpoint holds, by the checksum that was noted with it."""
    return {
        int(path.name): json.loads((path / "metadata" / "metadata").read_text())["checksum"]
        for path in (workdir / "checkpoints").iterdir()
        if path.name.isdigit()
    }


def assert_same_run(one, other):
    assert without_seconds(rows(one)) == without_seconds(rows(other))
    assert checkpoint_bits(one) == checkpoint_bits(other)
    pd.testing.assert_frame_equal(
        pd.read_parquet(one / "examples.parquet"), pd.read_parquet(other / "examples.parquet")
    )
    parts = [{p.name: p.read_bytes() for p in (w / "dynamics").iterdir()} for w in (one, other)]
    assert parts[0] == parts[1]
    assert len(parts[0]) == len(rows(one))
    same = [json.loads((w / "summary.json").read_text()) for w in (one, other)]
    for summary in same:
        speed = "examples_per_second", "flops_per_second", "share_of_peak"
        for name in ("wall_seconds", "checksum", *speed):
            del summary[name]
    assert same[0] == same[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    finished = main(workdir)
    assert finished.returncode == 0, finished.stderr
    return workdir, finished


def test_a_run_leaves_the_whole_folder_and_says_what_it_did(undisturbed):
    workdir, finished = undisturbed
    assert "digits: 200 training, 100 validation examples, 10 classes" in finished.stdout
    assert "parameters" in finished.stdout
    for name in ("config.json", "summary.json", "examples.parquet", "figures/curves.png"):
        assert (workdir / name).stat().st_size > 0
    lines = rows(workdir)
    assert [line["step"] for line in lines] == list(range(0, 49, 4))
    assert {"train_loss", "validation_accuracy", "clean_accuracy"} <= set(lines[0])
    assert lines[0]["clean_accuracy"] is None
    assert sorted(checkpoint_bits(workdir)) == [0, 1, 2, 4, 8, 16, 32, 48]
    table = pd.read_parquet(workdir / "examples.parquet")
    assert table.groupby("split").size().to_dict() == {"train": 200, "validation": 100}
    train = table[table["split"] == "train"]
    assert train["is_corrupted"].all()
    assert 0.02 < (train["label"] == train["true_label"]).mean() < 0.25


def test_a_finished_run_has_nothing_left_to_do(undisturbed):
    workdir, _ = undisturbed
    before = checkpoint_bits(workdir), rows(workdir)
    assert main(workdir).returncode == 0
    assert (checkpoint_bits(workdir), rows(workdir)) == before


def test_the_cut_into_dispatches_changes_no_bit(undisturbed, tmp_path):
    assert main(tmp_path / "run", "--config.run.steps_per_dispatch=3").returncode == 0
    assert_same_run(undisturbed[0], tmp_path / "run")


def test_logs_within_epochs_are_of_the_same_training(undisturbed, tmp_path):
    finished = main(tmp_path / "run", "--config.train.logs_per_epoch=2")
    assert finished.returncode == 0, finished.stderr
    lines, whole = rows(tmp_path / "run"), rows(undisturbed[0])
    assert [line["step"] for line in lines] == list(range(0, 49, 2))
    assert [line["epoch"] for line in lines[:3]] == [0.0, 0.5, 1.0]
    without_times = [
        [line | {"wall_seconds": 0.0} for line in some] for some in (lines[::2], whole)
    ]
    assert without_times[0] == without_times[1]
    assert checkpoint_bits(tmp_path / "run") == checkpoint_bits(undisturbed[0])
    dynamics = load_run(tmp_path / "run").dynamics
    assert sorted(dynamics["epoch"].unique()) == [line["epoch"] for line in lines]


LONG = [*SMALL, "--config.train.num_epochs=120", "--config.checkpoint.every_epochs=40"]


@pytest.fixture(scope="module")
def undisturbed_long(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "long"
    finished = command_line.run("memjax.main", *LONG, f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    return workdir


def start_long(workdir, lines):
    """Starts the run and returns it as soon as it has logged so many lines."""
    process = command_line.start("memjax.main", *LONG, f"--workdir={workdir}")
    metrics = workdir / "metrics.jsonl"
    command_line.wait_for(
        lambda: metrics.exists() and metrics.read_text().count("\n") >= lines, process
    )
    return process


def finish_long(workdir):
    finished = command_line.run("memjax.main", *LONG, f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""


@pytest.mark.parametrize("lines", [1, 60])
def test_a_killed_run_ends_as_an_undisturbed_one(undisturbed_long, tmp_path, lines):
    workdir = tmp_path / "run"
    assert command_line.kill(start_long(workdir, lines))[0] == -signal.SIGKILL
    assert not (workdir / "summary.json").exists()
    finish_long(workdir)
    assert_same_run(undisturbed_long, workdir)


@pytest.mark.parametrize(
    ("kinds", "code"), [([signal.SIGTERM], 143), ([signal.SIGINT, signal.SIGINT], 130)]
)
def test_a_signal_or_two_save_at_once_and_the_rest_is_exact(
    undisturbed_long, tmp_path, kinds, code
):
    """Under default settings every dispatch ends at an event: an epoch takes milliseconds."""
    workdir = tmp_path / "run"
    process = start_long(workdir, 10)
    for kind in kinds:
        process.send_signal(kind)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert "is saved; the same command goes on from there" in error
    assert len(error.splitlines()) == 1
    lines = len(rows(workdir))
    assert lines < 121
    saved = [int(path.name) for path in (workdir / "resume").iterdir()]
    assert saved == [] or saved[0] >= 4 * (lines - 1)
    finish_long(workdir)
    assert_same_run(undisturbed_long, workdir)
    assert not (workdir / "resume").exists()


def test_a_finished_run_goes_on_with_more_epochs_and_ends_as_one_that_had_them(
    undisturbed, tmp_path
):
    workdir = tmp_path / "run"
    assert main(workdir, "--config.train.num_epochs=8").returncode == 0
    assert rows(workdir)[-1]["epoch"] == 8
    path = workdir / "config.json"  # as a memjax wrote it that had fewer fields
    document = json.loads(path.read_text())
    del document["science"]["augmentation.flip"]
    path.write_text(json.dumps(document))
    assert main(workdir).returncode == 0
    assert_same_run(undisturbed[0], workdir)
    fewer = main(workdir, "--config.train.num_epochs=8")
    command_line.assert_one_line_and_exit_2(fewer, "train.num_epochs is 12 there, 8 here")
    cosine = "--config.optimizer.schedule=cosine"
    assert main(tmp_path / "cosine", cosine, "--config.train.num_epochs=1").returncode == 0
    more = main(tmp_path / "cosine", cosine, "--config.train.num_epochs=2")
    command_line.assert_one_line_and_exit_2(more, "cosine", "cannot go on")


def test_after_damaged_logs_a_stop_saves_what_it_says(undisturbed_long, tmp_path):
    """The run begins anew, before the step that its newest save is of."""
    workdir = tmp_path / "run"
    first = command_line.kill(start_long(workdir, 60), signal.SIGTERM)
    assert first[0] == 143
    metrics = workdir / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-40])
    metrics.write_bytes(b"torn" + metrics.read_bytes())
    process = command_line.start("memjax.main", *LONG, f"--workdir={workdir}")
    command_line.wait_for(lambda: 10 < metrics.read_text().count("\n") < 40, process)
    code, _, error = command_line.kill(process, signal.SIGTERM)
    assert code == 143
    said = int(re.search(r"step (\d+) is saved", error)[1])
    saved = [int(path.name) for path in (workdir / "resume").iterdir()]
    assert saved == [said] or said in checkpoint_bits(workdir)
    again = command_line.run("memjax.main", *LONG, f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    assert_same_run(undisturbed_long, workdir)


def test_more_epochs_after_an_end_that_no_longer_run_logs_are_refused(tmp_path):
    workdir, every = tmp_path / "run", "--config.train.log_every_epochs=2"
    assert main(workdir, every, "--config.train.num_epochs=3").returncode == 0
    more = main(workdir, every, "--config.train.num_epochs=6")
    command_line.assert_one_line_and_exit_2(more, "3 is no multiple of train.log_every_epochs=2")
    assert rows(workdir)[-1]["epoch"] == 3
    whole = tmp_path / "whole"
    for folder, epochs in ((workdir, 2), (workdir, 6), (whole, 6)):
        flags = ["--overwrite"] if epochs == 2 else []
        ends = [every, f"--config.train.num_epochs={epochs}", "--config.checkpoint.every_epochs=2"]
        assert main(folder, *ends, *flags).returncode == 0
    assert_same_run(whole, workdir)


def test_what_is_said_of_the_dynamics_holds_for_a_run_that_goes_on(tmp_path):
    flags = ["--config.train.stop_at_train_accuracy=0.01"]  # at once
    first = main(tmp_path / "run", *flags, "--config.train.num_epochs=1")
    assert "dynamics: recorded: up to " in first.stdout
    many = main(tmp_path / "run", *flags, "--config.train.num_epochs=400000")
    assert "dynamics: recorded: as it was decided when the run began" in many.stdout
    assert list((tmp_path / "run" / "dynamics").iterdir())
    alone = main(tmp_path / "alone", *flags, "--config.train.num_epochs=400000")
    assert "dynamics: not recorded: up to 1.79 GiB" in alone.stdout


def test_what_is_not_known_of_step_0_is_no_part_of_the_dynamics(tmp_path):
    flags = ["--config.train.train_metrics=running", "--config.dataset.num_validation=0"]
    finished = main(tmp_path / "run", *flags, "--config.train.num_epochs=2")
    assert finished.returncode == 0, finished.stderr
    assert sorted(load_run(tmp_path / "run").dynamics["step"].unique()) == [4, 8]


def test_a_divergence_that_an_evaluation_sees_is_one_line_and_exit_3(tmp_path):
    """The only step of an epoch has a finite loss, that of the parameters after it is not."""
    flags = ["--config.optimizer.learning_rate=1e38", "--config.train.batch_size=200"]
    finished = main(tmp_path / "run", *flags)
    assert finished.returncode == 3
    (line,) = finished.stderr.splitlines()
    assert "loss not finite at step 1" in line


def test_a_run_goes_on_when_nobody_reads_what_it_prints(tmp_path):
    command = [sys.executable, "-m", "memjax.main", *SMALL, f"--workdir={tmp_path / 'run'}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=command_line.ROOT,
        env=command_line.environment(),
    ) as process:  # fmt: skip
        assert process.stdout.readline().startswith("memjax ")
        process.stdout.close()
        assert (process.wait(timeout=120), process.stderr.read()) == (0, "")
    assert (tmp_path / "run" / "summary.json").exists()


def test_members_of_an_ensemble_that_diverge_are_named_and_the_others_end_as_alone(tmp_path):
    """At this rate some seeds are lost at once, and others are not."""
    flags = ["--config.optimizer.learning_rate=1e5", "--config.train.num_epochs=4"]
    ensemble = tmp_path / "ensemble"
    finished = main(ensemble, *flags, "--config.ensemble.size=6")
    steps = json.loads((ensemble / "summary.json").read_text())["diverged_at_step"]
    bad = [member for member, step in enumerate(steps) if step is not None]
    good = [member for member, step in enumerate(steps) if step is None]
    assert bad
    assert good
    assert finished.returncode == 3
    (line,) = finished.stderr.splitlines()
    assert f"member {min(bad, key=lambda m: (steps[m], m))}" in line
    last = rows(ensemble)[-1]
    assert [value is None for value in last["train_loss"]] == [m in bad for m in range(6)]
    again = main(ensemble, *flags, "--config.ensemble.size=6")
    assert (again.returncode, again.stderr) == (3, finished.stderr)


def test_two_runs_on_one_folder_are_refused(tmp_path):
    workdir = tmp_path / "run"
    long = ["--config.train.num_epochs=100000", "--config.train.stop_at_train_accuracy=0"]
    process = command_line.start("memjax.main", *SMALL, f"--workdir={workdir}", *long)
    command_line.wait_for(lambda: (workdir / "metrics.jsonl").exists(), process)
    second = main(workdir, *long)
    command_line.kill(process)
    command_line.assert_one_line_and_exit_2(second, "another process is at work")


def test_another_config_is_refused_and_overwrite_is_explicit(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    assert main(workdir, "--config.train.num_epochs=1").returncode == 0
    refused = main(workdir, "--config.train.num_epochs=1", "--config.seed=3")
    command_line.assert_one_line_and_exit_2(refused, "seed is 0 there, 3 here")
    assert main(workdir, "--config.train.num_epochs=2", "--overwrite").returncode == 0
    assert rows(workdir)[-1]["epoch"] == 2


def test_a_truncated_newest_checkpoint_is_made_again(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    assert main(workdir).returncode == 0
    newest = workdir / "checkpoints" / "48"
    for path in newest.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:500])
    (workdir / "summary.json").unlink()
    again = main(workdir)
    assert again.returncode == 0
    assert "48: damaged" in again.stderr
    assert "it is now 48.damaged-1" in again.stderr
    assert (workdir / "checkpoints" / "48.damaged-1").is_dir()
    assert_same_run(undisturbed[0], workdir)


def test_a_loss_that_is_not_finite_stops_with_exit_3_and_keeps_the_last_good(tmp_path):
    workdir = tmp_path / "run"
    finished = main(
        workdir,
        "--config.optimizer.learning_rate=1e20",
        "--config.ensemble.size=2",
        "--config.checkpoint.powers_of_two=False",
    )
    assert finished.returncode == 3
    assert "member" in finished.stderr
    assert "step" in finished.stderr
    assert list(checkpoint_bits(workdir)) == [0]


def test_an_ensemble_member_is_the_run_with_its_seed(undisturbed, tmp_path):
    ensemble = tmp_path / "ensemble"
    assert main(ensemble, "--config.ensemble.size=2").returncode == 0
    alone = rows(undisturbed[0])
    members = rows(ensemble)
    assert [line["step"] for line in members][:3] == [line["step"] for line in alone][:3]
    for one, both in list(zip(alone, members, strict=False))[:3]:
        assert np.isclose(both["train_loss"][0], one["train_loss"], rtol=1e-5)
        assert both["train_loss"][0] != both["train_loss"][1]


def test_tensorboard_by_a_flag(tmp_path):
    flags = ["--config.run.tensorboard=True", "--config.train.num_epochs=1"]
    assert main(tmp_path / "run", *flags).returncode == 0
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


def test_help_and_list_configs_are_quick_and_need_no_jax(tmp_path):
    finished = command_line.run("memjax.main", "--help")
    assert "--workdir" in finished.stdout
    assert "--config" in finished.stdout
    listed = command_line.run("memjax.main", "--list_configs", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "configs/cifar_randlabel.py" in listed.stdout
    code = (
        "import sys, memjax.main; print(sorted({'jax', 'tensorflow', 'flax'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "[]\n"


def test_training_imports_no_tensorflow(tmp_path):
    code = (
        "import sys, memjax, memjax.training.run, memjax.loading\n"
        "print('tensorflow' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "False\n"


def save_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def bad_arrays(kind):
    images = np.random.default_rng(0).random((40, 6, 6)).astype(np.float32)
    labels = np.arange(40) % 4
    if kind == "length":
        return {"images": images, "labels": labels[:-1]}
    if kind == "nan":
        images[3, 2, 1] = np.nan
    if kind == "empty_class":
        labels = np.where(labels == 2, 3, labels)
    if kind == "negative":
        labels = labels - 1
    if kind == "outside":
        return {"images": images, "labels": labels, "num_classes": np.int64(3)}
    return {"images": images, "labels": labels}


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("length", "as many"),
        ("nan", "finite"),
        ("empty_class", "class"),
        ("negative", "labels"),
        ("outside", "labels"),
    ],
)
def test_bad_arrays_are_one_line(tmp_path, kind, word):
    path = save_npz(tmp_path / "own.npz", **bad_arrays(kind))
    flags = ["--config=configs/digits_real.py:quick", "--config.dataset.source=npz"]
    flags += [f"--config.dataset.path={path}", f"--workdir={tmp_path / 'run'}"]
    finished = command_line.run("memjax.main", *flags)
    command_line.assert_one_line_and_exit_2(finished, word)
    assert not (tmp_path / "run").exists()


def test_a_pickled_npz_is_refused_and_never_loaded(tmp_path):
    class Boom:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    path = tmp_path / "own.npz"
    np.savez(path, images=np.array([Boom()], dtype=object), labels=np.zeros(1, int))
    flags = ["--config=configs/digits_real.py:quick", "--config.dataset.source=npz"]
    flags += [f"--config.dataset.path={path}", f"--workdir={tmp_path / 'run'}"]
    command_line.assert_one_line_and_exit_2(command_line.run("memjax.main", *flags), "own.npz")
    path.write_bytes(pickle.dumps({"images": 1}))
    command_line.assert_one_line_and_exit_2(command_line.run("memjax.main", *flags), "own.npz")
    assert not (tmp_path / "boom").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config=configs/digits_rndlabel.py"], ["did you mean configs/digits_randlabel.py"]),
        (["--config=configs/digits_real.py:fast"], ["quick"]),
        (["--config.corruption.fractoin=0.4"], ["did you mean fraction"]),
        (["--config.corruption.fraction=-0.1"], ["config.corruption.fraction", "[0, 1]"]),
        (["--config.corruption.fraction=1.5"], ["config.corruption.fraction", "[0, 1]"]),
        (["--config.corruption.fraction=nan"], ["config.corruption.fraction", "[0, 1]"]),
        (["--config.corruption.fraction=much"], ["config.corruption.fraction"]),
        (["--config.train.batch_size=0"], ["config.train.batch_size", "at least 1"]),
        (["--config=/some/where/digits_real.py"], ["/some/where/digits_real.py: no such config"]),
        (["--config.seed=2147483648"], ["config.seed=2147483648", "at most 2147483647"]),
        (["--config.optimizer.decay_factor=0.0"], ["config.optimizer.decay_factor", "(0, 1]"]),
        (["--config.optimizer.name=adam"], ["config.optimizer.momentum=0.9", "sgd or rmsprop"]),
        (["--config.dataset.name=mnits"], ["config.dataset.name='mnits'", "source='digits'"]),
        (["--config.train.num_epochs=2147483647"], ["config.train.num_epochs", "int32"]),
        (["--config.train.logs_per_epoch=2000000000"], ["must be at most 4, the steps of an"]),
        (["--config.dataset.source=npz", "--config.dataset.path=~nosuchuser/x"], ["nosuchuser"]),
        (["--config.model.name=" + "x" * 300 + ".py:Net"], ["config.model.name", "too long"]),
        (["--profile=-1"], ["profile"]),
        (["--config.train.batch_size=500"], ["config.train.batch_size", "at most 200"]),
        (["--config.dataset.source=digit"], ["did you mean digits"]),
        (["--config.dataset.source=tfds", "--config.dataset.name=mnits"], ["mnist"]),
        (["--config.model.name=mpl"], ["did you mean mlp?"]),
        (["--config.dataset.num_train=5000"], ["config.dataset.num_train"]),
        (["--workdri=x"], ["workdir"]),
        (["extra"], ["extra"]),
    ],
)
def test_bad_flags_are_one_line_and_write_nothing(tmp_path, flags, words):
    finished = main(tmp_path / "run", *flags)
    command_line.assert_one_line_and_exit_2(finished, *words)
    assert not (tmp_path / "run").exists()


def test_missing_flags_are_asked_for():
    command_line.assert_one_line_and_exit_2(command_line.run("memjax.main"), "--config")


def test_an_unwritable_workdir_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    finished = main(tmp_path / "file" / "run")
    command_line.assert_one_line_and_exit_2(finished, "not writable")


@contextlib.contextmanager
def small_disk(path: pathlib.Path, size: str):
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_is_one_line_and_keeps_what_was_saved(tmp_path):
    with small_disk(tmp_path / "disk", "3m"):
        workdir = tmp_path / "disk" / "run"
        finished = main(workdir, "--config.model.widths=(256,256)")
        assert finished.returncode == 2
        # orbax's threads may speak of their closed event loop before and after that.
        (line,) = (x for x in finished.stderr.splitlines() if x.startswith("memjax: "))
        assert "no space left" in line
