"""A whole run in a bucket (a stand-in for GCS): trained, killed, resumed, read and analysed."""

import signal
from unittest import mock

import numpy as np
import optax
import pandas as pd
import pytest
from etils import epath
from gcp_storage_emulator.storage import Storage

from memjax.errors import InputError
from memjax.loading import load_run
from memjax.runtime.locks import claim
from memjax.runtime.metrics import read_metrics
from memjax.runtime.tables import read_table
from memjax.runtime.workdir import read_json
from tests import command_line

pytestmark = pytest.mark.campaign

QUICK = {"XLA_FLAGS": command_line.QUICK_TO_COMPILE}


@pytest.fixture(scope="module")
def killed_and_resumed(bucket):
    """The folder in the bucket, and how many lines and checkpoints there were at the kill."""
    workdir = bucket / "runs" / "digits"
    flags = [*command_line.SMALL_RUN, f"--workdir={workdir}"]

    def create_file(self, bucket_name, name, *rest, create=Storage.create_file):
        create(self, bucket_name, name, *rest)
        if name.endswith("checkpoints/8/commit_success.txt"):  # before anyone is told
            process.kill()

    with mock.patch.object(Storage, "create_file", create_file):
        process = command_line.start("memjax.main", *flags, **QUICK)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, errors
    assert not (workdir / "summary.json").exists()
    lines = len(read_metrics(workdir / "metrics.jsonl"))
    resumed = command_line.run("memjax.main", *flags, **QUICK)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[-1].endswith(f"curves: {workdir}/figures/curves.png")
    return workdir, lines


def without_speed(document):
    speed = {"wall_seconds", "checksum", "examples_per_second", "flops_per_second", "share_of_peak"}
    return {name: value for name, value in document.items() if name not in speed}


def checksums(workdir):
    return {
        step: read_json(workdir / "checkpoints" / str(step) / "metadata" / "metadata")["checksum"]
        for step in (0, 8, 16, 24, 32)
    }


def test_a_killed_run_in_a_bucket_ends_as_an_undisturbed_one_on_disk(killed_and_resumed, tmp_path):
    workdir, lines = killed_and_resumed
    finished = command_line.run(
        "memjax.main", *command_line.SMALL_RUN, f"--workdir={tmp_path}", **QUICK
    )
    assert finished.returncode == 0, finished.stderr
    rows, expected = (
        [without_speed(row) for row in read_metrics(folder / "metrics.jsonl")]
        for folder in (workdir, epath.Path(tmp_path))
    )
    assert 2 <= lines < len(rows) == 9
    assert rows == expected
    assert checksums(workdir) == checksums(epath.Path(tmp_path))
    for name in ("config.json", "summary.json"):
        assert without_speed(read_json(workdir / name)) == without_speed(read_json(tmp_path / name))
    pd.testing.assert_frame_equal(
        read_table(workdir / "examples.parquet"), read_table(tmp_path / "examples.parquet")
    )
    figure = (workdir / "figures" / "curves.png").read_bytes()
    assert figure == (tmp_path / "figures" / "curves.png").read_bytes()


def test_the_restored_parameters_give_the_logged_loss(killed_and_resumed):
    run = load_run(killed_and_resumed[0])
    assert run.steps == [0, 8, 16, 24, 32]
    for step in (0, 32):
        (row,) = (row for row in read_metrics(run.workdir / "metrics.jsonl") if row["step"] == step)
        logits = run.logits_fn(run.params(step), run.train.images)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, run.train.labels).mean()
        np.testing.assert_allclose(loss, row["train_loss"], rtol=1e-5)


def test_its_analysis_goes_into_the_bucket(killed_and_resumed):
    workdir, _ = killed_and_resumed
    flags = [f"--workdir={workdir}", "--passes=gradients", "--steps=0,32"]
    finished = command_line.run("memjax.analyze", *flags, **QUICK)
    assert finished.returncode == 0, finished.stderr
    table = read_table(workdir / "analysis" / "gradients.parquet")
    assert table.groupby("step").size().to_dict() == {0: 300, 32: 300}
    assert not (workdir / "analysis" / ".gradients.parts").exists()


def test_a_bucket_that_is_not_there_is_neither_made_nor_used(bucket):
    workdir = epath.Path("gs://mistyped/runs/digits")
    with pytest.raises(InputError, match="gs://mistyped: no such bucket"), claim(workdir):
        pass
    assert not epath.Path("gs://mistyped").exists()
