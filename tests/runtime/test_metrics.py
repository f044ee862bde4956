"""metrics.jsonl has every log step once, whatever happened in between."""

import json

import numpy as np
import pytest

from memjax.runtime.metrics import MetricsLog, read_metrics


def test_lines_after_the_resumed_step_are_dropped(tmp_path):
    log = MetricsLog(tmp_path, resume_step=-1)
    for step in (0, 10, 20):
        log.append({"step": step, "train_loss": 1.0})
    again = MetricsLog(tmp_path, resume_step=10)
    again.append({"step": 20, "train_loss": 2.0})
    assert [(r["step"], r["train_loss"]) for r in read_metrics(tmp_path / "metrics.jsonl")] == [
        (0, 1.0),
        (10, 1.0),
        (20, 2.0),
    ]


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 10}\n{"st')
    assert [row["step"] for row in MetricsLog(tmp_path, resume_step=100).rows] == [0, 10]
    assert path.read_text() == '{"step": 0}\n{"step": 10}\n'


@pytest.mark.parametrize("damaged", [b'{"stdp": 10}', b'{"step": 10, "a": "\xae"}', b"\0\0", b"7"])
def test_what_is_no_line_of_a_run_ends_the_lines(tmp_path, damaged):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n' + damaged + b'\n{"step": 20}\n')
    assert [row["step"] for row in read_metrics(path)] == [0]


def test_what_is_not_defined_is_null_and_members_are_lists(tmp_path):
    log = MetricsLog(tmp_path, resume_step=-1)
    row = log.append({"step": 0, "a": float("nan"), "b": np.array([0.5, np.nan])})
    assert row == {"step": 0, "a": None, "b": [0.5, None]}
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == row


def test_tensorboard_files_are_written_without_tensorflow(tmp_path):
    log = MetricsLog(tmp_path, resume_step=-1, tensorboard=True)
    log.append({"step": 1, "train_loss": 0.5, "clean_accuracy": None})
    log.close()
    [events] = (tmp_path / "tensorboard").glob("events*")
    assert b"train_loss" in events.read_bytes()
    assert b"clean_accuracy" not in events.read_bytes()
