"""An object store: what works is tested against moto's S3, what does not is refused at once."""

import pathlib

import pandas as pd
import pytest
from etils import epath

from memjax.errors import InputError
from memjax.runtime.metrics import MetricsLog, read_metrics
from memjax.runtime.tables import read_table, write_table
from memjax.runtime.workdir import check_same_run, claim, clear, read_json, write_json

moto_server = pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def bucket():
    """A bucket of a server on this machine, which boto finds by its environment."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "none")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "none")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield epath.Path("s3://bucket")
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


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


def test_a_store_that_cannot_hold_checkpoints_is_refused(bucket, tmp_path, monkeypatch):
    """orbax would write them to a folder "s3:" where the process stands."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="mount the bucket"), claim(bucket / "run"):
        pass
    assert not list(pathlib.Path().iterdir())
