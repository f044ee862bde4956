"""One command line as 2 and 4 real processes (CPU, gloo): the same results, and a clear end."""

import os
import signal
import socket
import time

import numpy as np
import pandas as pd
import pytest

from tests import command_line
from tests.command_line import QUICK_TO_COMPILE, SMALL_RUN
from tests.sweeps.test_run import FILE as SWEEP
from tests.test_main import checkpoint_bits, rows, without_seconds

pytestmark = pytest.mark.campaign

SLOW = ["--config.run.evaluation_batch_size=2"]  # processes that can be caught at work
WORDS_OF_GLOO = "[Gloo]"


class Together:
    """`python -m MODULE FLAGS` as several processes of one run."""

    def __init__(self, module, *flags, count=2, devices=1, of_each=((), ()), **extra):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        extra["XLA_FLAGS"] = f"{QUICK_TO_COMPILE} --xla_force_host_platform_device_count={devices}"
        self.processes = []
        for index in range(count):
            own = [f"--coordinator={address}", f"--num_processes={count}", f"--process_id={index}"]
            own += of_each[index] if index < len(of_each) else ()
            self.processes.append(command_line.start(module, *flags, *own, **extra))

    def finish(self, timeout=300):
        """Returns exit codes, standard outputs and standard errors (without gloo's greetings)."""
        end = time.monotonic() + timeout
        try:
            for process in self.processes:
                process.wait(max(0.0, end - time.monotonic()))
        finally:
            for process in self.processes:
                process.kill()
            ended = [process.communicate() for process in self.processes]
        codes = [process.returncode for process in self.processes]
        outputs, errors = (
            ["\n".join(_lines(text)) for text in each] for each in zip(*ended, strict=True)
        )
        return codes, outputs, errors

    def send_when(self, condition, kind, process):
        """Sends a signal to one process as soon as condition() holds."""
        try:
            command_line.wait_for(condition, self.processes[process], timeout=300)
        except AssertionError:
            self.finish(timeout=0)
            raise
        self.processes[process].send_signal(kind)


def _lines(text):
    return [line for line in text.splitlines() if WORDS_OF_GLOO not in line]


def train(workdir, *flags, **options):
    return Together("memjax.main", *SMALL_RUN, f"--workdir={workdir}", *flags, **options)


def has_lines(workdir, count):
    metrics = workdir / "metrics.jsonl"
    return metrics.exists() and metrics.read_text().count("\n") >= count


def assert_same_run_to_rounding(one, other):
    for line, expected in zip(rows(one), rows(other), strict=True):
        for name in set(expected) - {"wall_seconds"}:
            if expected[name] is not None:
                assert np.isclose(line[name], expected[name], rtol=1e-3, atol=0.02), name
        assert np.isclose(line["train_loss"], expected["train_loss"], rtol=1e-4)
    examples = [pd.read_parquet(w / "examples.parquet") for w in (one, other)]
    pd.testing.assert_frame_equal(*examples)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finished = command_line.run(
        "memjax.main",
        *SMALL_RUN,
        f"--workdir={workdir}",
        XLA_FLAGS=QUICK_TO_COMPILE,
    )
    assert finished.returncode == 0, finished.stderr
    return workdir


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run of two processes, and what they said."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    codes, outputs, errors = train(workdir, *SLOW).finish()
    assert codes == [0, 0], errors
    return workdir, outputs, errors


def test_two_processes_train_what_one_trains_and_process_0_alone_speaks(alone, undisturbed):
    workdir, outputs, errors = undisturbed
    assert_same_run_to_rounding(workdir, alone)
    assert sorted(checkpoint_bits(workdir)) == sorted(checkpoint_bits(alone)) == [0, 8, 16, 24, 32]
    assert checkpoint_bits(workdir)[0] == checkpoint_bits(alone)[0]  # the same start, to the bit
    assert sorted(path.name for path in workdir.iterdir()) == sorted(
        path.name for path in alone.iterdir()
    )
    assert "2 cpu device(s) (member 1 x data 2 of 2 processes)" in outputs[0]
    assert outputs[1] == ""
    assert errors == ["", ""]


def test_a_signal_to_process_1_stops_both_and_the_rest_is_exact(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    run = train(workdir, *SLOW)
    run.send_when(lambda: has_lines(workdir, 2), signal.SIGTERM, 1)
    codes, _, errors = run.finish()
    assert codes == [143, 143], errors
    assert "is saved; the same command goes on from there" in errors[0]
    assert errors[1] == ""
    assert not (workdir / "summary.json").exists()
    codes, _, errors = train(workdir, *SLOW).finish()
    assert codes == [0, 0], errors
    assert without_seconds(rows(workdir)) == without_seconds(rows(undisturbed[0]))
    assert checkpoint_bits(workdir) == checkpoint_bits(undisturbed[0])


def test_when_one_is_killed_the_other_stops_and_four_processes_go_on(alone, tmp_path):
    workdir = tmp_path / "run"
    run = train(workdir, *SLOW)
    saved = workdir / "checkpoints" / "8" / "metadata"
    # In the epoch after the one that was saved: while a checkpoint is written, both are in barriers
    # of JAX, which may end the one that is left before memjax does, with 134.
    run.send_when(lambda: saved.exists() and has_lines(workdir, 4), signal.SIGKILL, 1)
    begin = time.monotonic()
    codes, _, errors = run.finish()
    assert time.monotonic() - begin < 60
    assert codes == [os.EX_TEMPFAIL, -signal.SIGKILL], errors
    assert len(errors[0].splitlines()) == 1
    assert "another process of this run is gone" in errors[0]
    before = checkpoint_bits(workdir)
    codes, _, errors = train(workdir, count=4, devices=2).finish()
    assert codes == [0] * 4, errors
    assert_same_run_to_rounding(workdir, alone)
    assert before.items() <= checkpoint_bits(workdir).items()  # gone on, not begun anew


@pytest.mark.parametrize(
    ("flags", "of_each", "message"),
    [
        ([], ([], ["--config.seed=1"]), "process 1 of 2: not the same --config as process 0"),
        (["--config.run.num_devices=1"], ([], []), "config.run.num_devices=1: must be 0"),
    ],
)
def test_bad_input_of_one_or_all_is_one_line_of_process_0(tmp_path, flags, of_each, message):
    codes, _, errors = train(tmp_path / "run", *flags, of_each=of_each).finish()
    assert codes == [2, 2], errors
    assert len(errors[0].splitlines()) == 1
    assert message in errors[0]
    assert errors[1] == ""
    assert not (tmp_path / "run").exists()


def test_what_process_0_finds_in_the_folder_ends_all(undisturbed):
    codes, _, errors = train(undisturbed[0], "--config.train.num_epochs=7").finish()
    assert codes == [2, 2]
    assert "train.num_epochs is 8 there, 7 here" in errors[0]
    assert errors[1] == ""


def test_a_loss_that_is_not_finite_is_told_once(tmp_path):
    flags = ["--config.optimizer.learning_rate=1e20", "--config.ensemble.size=2"]
    codes, _, errors = train(tmp_path / "run", *flags).finish()
    assert codes == [3, 3]
    assert "loss not finite at step" in errors[0]
    assert errors[1] == ""


def test_two_processes_analyse_as_one(undisturbed, tmp_path):
    workdir = undisturbed[0]
    flags = [f"--workdir={workdir}", "--passes=gradients,sensitivity", "--num_examples=20"]
    flags.append("--num_probes=4")
    codes, outputs, errors = Together("memjax.analyze", *flags).finish()
    assert codes == [0, 0], errors
    assert outputs[0].count(" rows ") == 2
    assert outputs[1] == errors[0] == errors[1] == ""
    folder = workdir / "analysis"
    tables = {path.name: pd.read_parquet(path) for path in folder.glob("*.parquet")}
    assert sorted(tables) == ["gradients.parquet", "sensitivity.parquet"]
    one = command_line.run(
        "memjax.analyze",
        *flags,
        "--num_probes=4",
        "--overwrite",
        XLA_FLAGS=QUICK_TO_COMPILE,
    )
    assert one.returncode == 0, one.stderr
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table, pd.read_parquet(folder / name))
    assert not [path for path in folder.iterdir() if path.name.endswith(".parts")]


def test_two_processes_share_out_a_sweep(tmp_path):
    path, workdir = tmp_path / "mine.py", tmp_path / "sweep"
    path.write_text(SWEEP)
    codes, outputs, errors = Together(
        "memjax.sweep", f"--sweep={path}", f"--workdir={workdir}"
    ).finish()
    assert codes == [0, 0], errors
    table = pd.read_parquet(workdir / "results.parquet")
    assert table.groupby("point").size().tolist() == [7] * 6
    assert [output.count("epoch") for output in outputs] == [3, 3]  # a line a point
    assert "6 of 6 points" in outputs[0]
    assert "6 of 6 points" not in outputs[1]
