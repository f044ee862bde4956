"""The files of a run in an object store; a store that cannot hold checkpoints is refused."""

import pathlib

import pandas as pd
import pytest
from etils import epath

from memjax.errors import InputError
from memjax.runtime.locks import claim
from memjax.runtime.metrics import MetricsLog, read_metrics
from memjax.runtime.tables import read_table, write_table
from memjax.runtime.workdir import check_same_run, clear, read_json, write_json


def test_json_and_tables_are_read_as_written(bucket):
    config = {"science": {"seed": 0}}
    write_json(bucket / "run" / "config.json", config)
    assert read_json(bucket / "run" / "config.json") == config
    assert check_same_run(bucket / "run", config)
    table = pd.DataFrame({"loss": [0.5, 0.25]})
    write_table(bucket / "run" / "t.parquet", table, {"loss": "nats"}, {"step": 3})
    found = read_table(bucket / "run" / "t.parquet")
    pd.testing.assert_frame_equal(found, table)
    assert found.attrs == {"columns": {"loss": "nats"}, "metadata": {"step": 3}}


def test_metrics_go_on_without_a_hole_or_a_doubled_line(bucket):
    log = MetricsLog(bucket / "metrics", -1)
    for step in range(3):
        log.append({"step": step})
    resumed = MetricsLog(bucket / "metrics", 1)
    resumed.append({"step": 2, "again": True})
    rows = read_metrics(bucket / "metrics" / "metrics.jsonl")
    assert rows == [{"step": 0}, {"step": 1}, {"step": 2, "again": True}]


def test_clear_deletes_what_a_run_wrote(bucket):
    write_json(bucket / "old" / "config.json", {})
    write_json(bucket / "old" / "analysis" / "x.json", {})
    write_json(bucket / "old" / "notes.json", {})
    clear(bucket / "old")
    assert [path.name for path in (bucket / "old").iterdir()] == ["notes.json"]


def test_a_store_that_cannot_hold_checkpoints_is_refused(tmp_path, monkeypatch):
    """orbax would write them to a folder "s3:" where the process stands."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="mount the bucket"), claim(epath.Path("s3://bucket/run")):
        pass
    assert not list(pathlib.Path().iterdir())
