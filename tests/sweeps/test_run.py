"""The sweep through the real command line: job arrays, a SIGKILL, bad input, a dry run."""

import os
import signal
import struct

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
