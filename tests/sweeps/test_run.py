"""The sweep through the real command line: job arrays, a SIGKILL, bad input, a dry run."""

import os
import signal
import struct
import subprocess
import sys

import numpy as np
import pandas as pd
from tensorboardX.proto import event_pb2

from memjax.loading import load_run
from memjax.runtime.metrics import read_metrics
from tests import command_line

FILE = """
from memjax.config import default_config
from memjax.sweeps.points import Point


def get_points(variant=""):
    for width in (4, 8):
        for level in (0.0, 0.5, 1.0):
            config = default_config()
            config.dataset.num_train = 200
            config.dataset.num_validation = 50
            config.corruption.kind = "random_labels"
            config.corruption.fraction = level
            config.model.widths = (width,)
            config.train.batch_size = 50
            config.train.num_epochs = 6
            config.checkpoint.powers_of_two = False
            config.checkpoint.every_epochs = 0
            yield Point(f"w{width}_l{level}", {"width": width, "level": level}, config)
"""


def file_in(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return f"--sweep={path}"


def scalars(folder, name):
    """The (step, value) of a scalar in TensorBoard files: later files replace earlier steps."""
    found = {}
    for path in sorted(folder.glob("events*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            for value in event.summary.value:
                if value.tag == name:
                    found[event.step] = value.simple_value
            place += 16 + length
    return sorted(found.items())


def test_three_processes_one_killed_and_restarted_end_in_one_table(tmp_path):
    sweep, workdir = file_in(tmp_path), tmp_path / "sweep"
    flags = [
        [sweep, f"--workdir={workdir}", f"--task_index={i}", "--num_tasks=3", "--tensorboard"]
        for i in range(3)
    ]
    processes = [command_line.start("memjax.sweep", *each) for each in flags]
    # Killed as soon as its first point is there, the others go on.
    command_line.wait_for(lambda: list(workdir.glob("points/w4_l0.0/*.jsonl")), processes[0])
    processes[0].send_signal(signal.SIGKILL)
    processes[0].communicate(timeout=60)
    for process in processes[1:]:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    # Everything again at once, also what is done.
    processes = [command_line.start("memjax.sweep", *each) for each in flags]
    for process in processes:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    table = pd.read_parquet(workdir / "results.parquet")
    assert table.groupby("point").size().tolist() == [7] * 6
    assert not table.duplicated(["point", "member", "epoch"]).any()
    assert table["point"].unique().tolist() == [
        f"w{width}_l{level}" for width in (4, 8) for level in (0.0, 0.5, 1.0)
    ]
    assert np.isfinite(table["train_loss"]).all()
    run = load_run(workdir / "points/w8_l0.5")
    assert run.steps == [0, 24]
    assert run.examples["is_corrupted"].sum() == 100
    assert (workdir / "figures/results.png").stat().st_size > 0
    # TensorBoard shows each point as a run of its own.
    for folder in (workdir / "points").iterdir():
        logged = [
            (row["step"], row["train_loss"]) for row in read_metrics(folder / "metrics.jsonl")
        ]
        shown = scalars(folder / "tensorboard", "train_loss")
        assert [step for step, _ in shown] == [step for step, _ in logged], folder
        np.testing.assert_allclose([v for _, v in shown], [v for _, v in logged], rtol=1e-6)


def test_a_dry_run_shows_groups_and_costs_and_writes_nothing(tmp_path):
    finished = command_line.run("memjax.sweep", file_in(tmp_path), "--dry_run", cwd=tmp_path,
                                PYTHONPATH=os.fspath(command_line.ROOT))  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "dynamics: recorded: up to " in finished.stdout
    assert "group 0: 3 points, 310 parameters, 24 steps" in finished.stdout
    assert "in all 6 points in 2 groups" in finished.stdout
    assert "w8_l0.5" in finished.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_more_tasks_than_points_are_one_line_and_exit_code_2(tmp_path):
    finished = command_line.run(
        "memjax.sweep", file_in(tmp_path), f"--workdir={tmp_path / 'w'}", "--num_tasks=7"
    )
    command_line.assert_one_line_and_exit_2(finished, "--num_tasks=7", "6")
    assert not (tmp_path / "w").exists()


def many_points(tmp_path, count, end=""):
    path = tmp_path / "many.py"
    path.write_text(
        f"""
from memjax import presets
from memjax.sweeps.points import Point


def get_points(variant=""):
    for seed in range({count}):
        config = presets.digits_mlp("quick")
        config.seed, config.dataset.num_train, config.dataset.num_validation = seed, 100, 20
        config.model.widths, config.train.num_epochs, config.train.batch_size = (2,), 1, 100
        presets.save_ends_only(config)
        yield Point(f"p{{seed}}", {{"seed": seed}}, config)

{end}
"""
    )
    return f"--sweep={path}"


def with_open_files(limit, *flags):
    """Runs the sweep where a process may have few files open: `limit` is of `ulimit`."""
    command = [sys.executable, "-m", "memjax.sweep", *flags]
    return subprocess.run(
        ["bash", "-c", f'ulimit {limit}; exec "$@"', "bash", *command],
        capture_output=True, text=True, cwd=command_line.ROOT, env=command_line.environment(),
    )  # fmt: skip


def test_many_points_need_no_higher_limit_on_open_files_than_the_system_allows(tmp_path):
    sweep, workdir = many_points(tmp_path, 90), tmp_path / "sweep"
    few = with_open_files("-n 200", sweep, f"--workdir={workdir}")
    command_line.assert_one_line_and_exit_2(few, "ulimit -n 200: must be at least 201", "num_tasks")
    finished = with_open_files("-Sn 100", sweep, f"--workdir={workdir}")
    assert finished.returncode == 0, finished.stderr
    assert pd.read_parquet(workdir / "results.parquet")["point"].nunique() == 90


def test_tables_that_a_sweep_file_does_not_make_are_one_line_and_the_results_are_kept(tmp_path):
    workdir = f"--workdir={tmp_path / 'sweep'}"
    for end, words in (
        ("def get_tables(results):\n    return results.nonsense", "get_tables failed: Attribute"),
        (
            "def get_tables(results):\n    return {'figure99': (results, 1)}",
            "'figure99': did you mean figure09?",
        ),
        ("def get_tables(results):\n    return {'figure05': (results, 1)}", "(DataFrame, int)"),
    ):
        finished = command_line.run("memjax.sweep", many_points(tmp_path, 1, end), workdir)
        command_line.assert_one_line_and_exit_2(finished, "get_tables", words)
        assert (tmp_path / "sweep" / "results.parquet").exists()
