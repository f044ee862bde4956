"""The analysis through the real command line: it resumes, skips, and refuses bad input."""

import json
import shutil
import signal
import time

import pandas as pd
import pytest

from memjax.passes import PASSES
from tests import command_line
from tests.passes import runs

SHARPNESS = ["--passes=sharpness", "--members=2"]
# Compiled in half the time, for what is compiled runs once.
QUICK = {"XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"}


def analyze(workdir, *flags):
    return command_line.run("memjax.analyze", f"--workdir={workdir}", *flags, **QUICK)


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    workdir = runs.copy_of("mlp", tmp_path_factory.mktemp("analyze") / "run")
    finished = analyze(workdir, *SHARPNESS)
    assert finished.returncode == 0, finished.stderr
    return workdir, finished


def table_of(workdir, name="sharpness"):
    return pd.read_parquet(workdir / "analysis" / f"{name}.parquet")


def test_it_says_what_it_made(analyzed):
    workdir, finished = analyzed
    line = finished.stdout.strip().splitlines()[-1]
    assert line.split()[:3] == ["sharpness", "24", "rows"]
    assert line.endswith("analysis/sharpness.parquet")
    assert len(table_of(workdir)) == 24  # 6 checkpoints, 2 members, 2 splits
    assert finished.stderr == ""


def test_a_killed_analysis_ends_as_an_undisturbed_one(analyzed, tmp_path):
    workdir = runs.copy_of("mlp", tmp_path / "run")
    parts = workdir / "analysis" / ".sharpness.parts"
    process = command_line.start("memjax.analyze", f"--workdir={workdir}", *SHARPNESS, **QUICK)

    def done():
        return [path.name for path in parts.glob("*.parquet")] if parts.exists() else []

    command_line.wait_for(lambda: len(done()) >= 2, process)
    assert command_line.kill(process)[0] == -signal.SIGKILL
    assert not (workdir / "analysis" / "sharpness.parquet").exists()
    assert len(done()) >= 2
    assert analyze(workdir, *SHARPNESS).returncode == 0
    pd.testing.assert_frame_equal(table_of(workdir), table_of(analyzed[0]))
    assert not parts.exists()


def test_what_is_done_is_skipped(analyzed):
    workdir, _ = analyzed
    path = workdir / "analysis" / "sharpness.parquet"
    before = path.stat().st_mtime_ns
    again = analyze(workdir, *SHARPNESS)
    assert again.returncode == 0
    assert "24 rows" in " ".join(again.stdout.split())
    assert path.stat().st_mtime_ns == before


def test_a_table_of_other_options_is_refused(analyzed):
    refused = analyze(analyzed[0], "--passes=sharpness", "--members=3")
    command_line.assert_one_line_and_exit_2(refused, "--members is 2 there, 3 here", "--overwrite")


def test_a_table_of_another_config_is_refused(analyzed, tmp_path):
    workdir = runs.copy_of("one", tmp_path / "run")
    shutil.copytree(analyzed[0] / "analysis", workdir / "analysis")
    refused = analyze(workdir, "--passes=sharpness")
    command_line.assert_one_line_and_exit_2(refused, "ensemble.size is 5 there, 1 here")


def test_all_leaves_out_what_is_not_for_the_run(tmp_path):
    workdir = runs.copy_of("one", tmp_path / "run")
    few = ["--steps=last", "--num_examples=4", "--num_probes=1", "--num_class_probes=1"]
    finished = analyze(workdir, "--passes=all", "--ntk_examples=3", "--radii=0.01", *few)
    assert finished.returncode == 0, finished.stderr
    made = {path.stem for path in (workdir / "analysis").glob("*.parquet")}
    assert made == set(PASSES) - {"memorization", "influence", "membership", "vulnerability"}
    assert "memorization       not for this run" in finished.stdout
    named = analyze(workdir, "--passes=gradients,memorization")
    command_line.assert_one_line_and_exit_2(named, "subset_fraction")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--passes=gradient"], ["--passes=gradient", "did you mean gradients?"]),
        (["--passes=sharpness", "--steps=7"], ["--steps=7", "there are: 0, 1, 2, 3, 6, 9"]),
        (["--passes=critical", "--radii=small"], ["--radii=small", "numbers"]),
        ([], ["--passes is missing"]),
    ],
)
def test_bad_flags_are_one_line(analyzed, flags, words):
    before = sorted((analyzed[0] / "analysis").iterdir())
    command_line.assert_one_line_and_exit_2(analyze(analyzed[0], *flags), *words)
    assert sorted((analyzed[0] / "analysis").iterdir()) == before


def test_no_run_folder_and_no_checkpoints_are_one_line(tmp_path):
    command_line.assert_one_line_and_exit_2(
        analyze(tmp_path, "--passes=gradients"), "is this a memjax run folder?"
    )
    workdir = runs.copy_of("one", tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints")
    refused = analyze(workdir, "--passes=gradients")
    command_line.assert_one_line_and_exit_2(refused, "no checkpoints")
    (workdir / "checkpoints").mkdir()
    refused = analyze(workdir, "--passes=gradients")
    command_line.assert_one_line_and_exit_2(refused, "no checkpoints")
    assert not (workdir / "analysis").exists()


def test_two_analyses_at_once_are_refused(tmp_path):
    workdir = runs.copy_of("mlp", tmp_path / "run")
    flags = ["--passes=sharpness,jacobians,critical"]
    process = command_line.start("memjax.analyze", f"--workdir={workdir}", *flags, **QUICK)
    parts = workdir / "analysis" / ".sharpness.parts"
    command_line.wait_for(parts.exists, process)
    process.send_signal(signal.SIGSTOP)  # it holds the folder however slow the second one is
    second = analyze(workdir, *flags)
    process.send_signal(signal.SIGCONT)
    command_line.kill(process)
    command_line.assert_one_line_and_exit_2(second, "another process is at work")


def test_a_damaged_checkpoint_is_one_line(tmp_path):
    workdir = runs.copy_of("one", tmp_path / "run")
    metadata = workdir / "checkpoints" / "9" / "metadata" / "metadata"
    noted = json.loads(metadata.read_text())
    wrong = [number + 1 for number in noted["checksum"]]  # a number a member
    metadata.write_text(json.dumps(noted | {"checksum": wrong}))
    refused = analyze(workdir, "--passes=filters", "--steps=last")
    command_line.assert_one_line_and_exit_2(refused, "checkpoints/9: damaged")


def test_list_passes_names_all_of_them():
    listed = command_line.run("memjax.analyze", "--list_passes")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(PASSES)
    assert all(each.summary in listed.stdout for each in PASSES.values())


def test_help_is_quick():
    seconds = []
    for _ in range(3):  # the quickest: other work on the machine makes any one slow
        start = time.monotonic()
        shown = command_line.run("memjax.analyze", "--help")
        seconds.append(time.monotonic() - start)
        assert "--radius_units" in shown.stdout
    assert min(seconds) < 2
