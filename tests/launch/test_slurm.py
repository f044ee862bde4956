"""launch/slurm.sbatch against stand-ins of sbatch, srun and scontrol."""

import json

import pytest

from tests.launch.conftest import LAUNCH, Cluster, exits_with, notes_job_and_exits_with

pytestmark = pytest.mark.campaign

BATCH = LAUNCH / "slurm.sbatch"
TRAINING = [
    "--config=configs/digits_randlabel.py:quick",
    "--config.dataset.num_train=100",
    "--config.dataset.num_validation=50",
    "--config.model.widths=(8,)",
    "--config.train.num_epochs=1",
]


@pytest.fixture
def slurm(cluster: Cluster) -> Cluster:
    for name in ("sbatch", "srun", "scontrol"):
        cluster.add_stand_in(name)
    return cluster


def test_two_tasks_become_one_run(slurm: Cluster):
    workdir = slurm.folder / "workdir"
    command = ["python", "-m", "memjax.main", *TRAINING, f"--workdir={workdir}"]
    slurm.environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    result = slurm.call("sbatch", "--ntasks-per-node=2", BATCH, *command)
    assert result.returncode == 0, result.stderr
    assert "2 cpu device(s) (member 1 x data 2 of 2 processes)" in result.stdout
    assert json.loads((workdir / "summary.json").read_text())["epoch"] == 1
    assert slurm.calls("srun") == [
        ["--kill-on-bad-exit=0", "--cpus-per-task=8", "--gpu-bind=none", *command]
    ]
    assert slurm.calls("scontrol") == []


def test_what_the_script_asks_of_slurm(slurm: Cluster):
    slurm.call("sbatch", BATCH, "python", slurm.script("pass"))
    options = json.loads((slurm.folder / "options.json").read_text())
    assert options["signal"] == "TERM@180"  # to the tasks, not to the batch shell alone
    assert "requeue" in options
    assert options["open-mode"] == "append"  # a requeued job goes on in the same log
    assert options["ntasks-per-node"] == options["gpus-per-node"] == "1"


@pytest.mark.parametrize("code", [143, 75, 134])
def test_a_job_that_was_stopped_or_lost_a_process_is_requeued(slurm: Cluster, code: int):
    result = slurm.call("sbatch", BATCH, "python", slurm.script(exits_with(code, 0)))
    assert result.returncode == 0
    assert slurm.calls("scontrol") == [["requeue", slurm.environment["STAND_IN_JOB_ID"]]]
    assert f"slurm.sbatch: exit code {code}; requeued as restart 1" in result.stderr


def test_a_requeued_job_has_the_name_it_had(slurm: Cluster):
    program = slurm.script(notes_job_and_exits_with(143, 75, 0))
    assert slurm.call("sbatch", BATCH, "python", program).returncode == 0
    assert (slurm.folder / "jobs").read_text() == (
        f"slurm-{slurm.environment['STAND_IN_JOB_ID']}\n" * 3
    )


def test_each_task_of_an_array_is_a_job_of_its_own(slurm: Cluster):
    program = slurm.script(notes_job_and_exits_with(0, 143, 0))
    assert slurm.call("sbatch", "--array=0-1", BATCH, "python", program).returncode == 0
    job = f"slurm-{slurm.environment['STAND_IN_JOB_ID']}"
    assert (slurm.folder / "jobs").read_text().split() == [f"{job}_0", f"{job}_1", f"{job}_1"]


@pytest.mark.parametrize("code", [1, 2, 3])
def test_an_error_that_would_come_again_is_not_requeued(slurm: Cluster, code: int):
    result = slurm.call("sbatch", BATCH, "python", slurm.script(exits_with(code)))
    assert result.returncode == code
    assert slurm.calls("scontrol") == []


def test_requeues_are_limited(slurm: Cluster):
    slurm.environment["MEMJAX_MAX_RESTARTS"] = "2"
    result = slurm.call("sbatch", BATCH, "python", slurm.script(exits_with(143, 143, 143)))
    assert result.returncode == 143
    assert len(slurm.calls("scontrol")) == 2


def test_an_array_gives_each_task_its_index_and_requeues_it_alone(slurm: Cluster):
    command = ["python", slurm.script(exits_with(0, 143, 0, 0)), "--sweep=a b.py", "--workdir=w"]
    result = slurm.call("sbatch", "--array=0-2%2", BATCH, *command)
    assert result.returncode == 0, result.stderr
    given = [call[call.index("python") :] for call in slurm.calls("srun")]
    assert given == [[*command, f"--task_index={index}", "--num_tasks=3"] for index in (0, 1, 1, 2)]
    assert slurm.calls("scontrol") == [["requeue", f"{slurm.environment['STAND_IN_JOB_ID']}_1"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sbatch", BATCH], "the command is missing"),
        (["sbatch", "--array=1-3", BATCH, "python", "x.py"], "--array=1-3: must be 0-N"),
        (["bash", BATCH, "python", "x.py"], "this is a job script"),
    ],
)
def test_mistakes_are_one_line(slurm: Cluster, words: list, message: str):
    result = slurm.call(*words)
    assert result.returncode == 2
    assert message in result.stderr
    assert set(result.stderr.splitlines()) == {result.stderr.splitlines()[0]}
    assert slurm.calls("srun") == []
