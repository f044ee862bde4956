"""launch/tpu_vm.sh against a stand-in of gcloud whose two workers run here."""

import re
import subprocess
import threading

import pytest

import memjax
from tests.launch.conftest import (
    JOINED_RUN,
    LAUNCH,
    Cluster,
    began,
    exits_with,
    notes_job_and_exits_with,
)

pytestmark = pytest.mark.campaign

TPU_VM = LAUNCH / "tpu_vm.sh"
PLACE = ["--zone=us-west4-a", "--project=lab"]
FLAGS = ["--name=tpu", *PLACE, "--poll_s=0"]
WHEEL = f"memjax-{memjax.__version__}-py3-none-any.whl"

DESCRIBE_QUEUE = ["compute", "tpus", "queued-resources", "describe", "tpu", *PLACE]
DESCRIBE_QUEUE.append("--format=value(state.state)")
DESCRIBE_NODE = ["compute", "tpus", "tpu-vm", "describe", "tpu", *PLACE, "--format=value(state)"]
CREATE = [
    *("compute", "tpus", "queued-resources", "create", "tpu", "--node-id=tpu", *PLACE),
    *("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"),
    *("--spot", "--quiet"),
]
DELETE = ["compute", "tpus", "queued-resources", "delete", "tpu", *PLACE, "--force", "--quiet"]
SSH = ["compute", "tpus", "tpu-vm", "ssh", "tpu", *PLACE, "--worker=all"]
WANTED = ["--accelerator=v5litepod-16", "--spot"]


@pytest.fixture
def cloud(cluster: Cluster) -> Cluster:
    cluster.add_stand_in("gcloud")
    cluster.add_stand_in("python3")  # builds the wheel
    return cluster


def is_there(cloud: Cluster) -> None:
    cloud.set("queued-resources.state", "ACTIVE")
    cloud.set("tpu-vm.state", "READY")


def changes(cloud: Cluster) -> list[str]:
    """Returns what was done, without what was only looked at."""
    return [call[3] for call in cloud.calls("gcloud") if call[3] != "describe"]


def test_all_makes_installs_runs_fetches_and_deletes(cloud: Cluster):
    workdir = f"{cloud.folder}/it's one"
    command = ["python", cloud.script(JOINED_RUN), f"--workdir={workdir}"]
    result = cloud.call(TPU_VM, "all", *FLAGS, *WANTED, "--", *command)
    assert result.returncode == 0, result.stderr
    assert (cloud.folder / "it's one/total").read_text() == "3 of 2"  # two real processes
    calls = [call for call in cloud.calls("gcloud") if call[3] != "describe"]
    assert calls[0] == CREATE
    assert calls[1] == [*SSH, "--command=python3 -m pip install --quiet --user uv"]
    assert calls[2][:4] == ["compute", "tpus", "tpu-vm", "scp"]
    assert calls[2][4].endswith(f"/dist/{WHEEL}")
    assert calls[2][5:] == ["tpu:", *PLACE, "--worker=all"]
    assert calls[3][:-1] == SSH
    assert f"./{WHEEL} 'jax[tpu]' gcsfs" in calls[3][-1]
    assert calls[4][:-1] == SSH
    assert calls[5:] == [
        [
            *("compute", "tpus", "tpu-vm", "scp", f"tpu:{workdir}/*", "runs/it's one"),
            *(*PLACE, "--recurse", "--worker=0"),
        ],
        DELETE,
    ]
    quoted = f"python {command[1]} '--workdir={cloud.folder}/it'\\''s one' & who $!"
    assert quoted in calls[4][-1]
    root = LAUNCH.parent
    wheel_folder = f"--wheel-dir={root}/dist"
    assert cloud.calls("python3") == [
        ["-m", "pip", "wheel", "--quiet", "--no-deps", wheel_folder, str(root)]
    ]


def test_fetch_copies_from_the_bucket_or_from_worker_0(cloud: Cluster):
    is_there(cloud)
    for workdir in ("gs://bucket/runs/one", "runs/two"):
        words = ("--fetch_to=here", "--", "python", "x", f"--workdir={workdir}")
        assert cloud.call(TPU_VM, "fetch", *FLAGS, *words).returncode == 0
    assert cloud.calls("gcloud") == [
        ["storage", "rsync", "--recursive", "gs://bucket/runs/one", "here/one"],
        [
            *("compute", "tpus", "tpu-vm", "scp", "tpu:runs/two/*", "here/two"),
            *(*PLACE, "--recurse", "--worker=0"),
        ],
    ]
    assert (cloud.folder / "here/one").is_dir()


def test_a_tpu_that_is_there_is_used_again(cloud: Cluster):
    is_there(cloud)
    assert cloud.call(TPU_VM, "up", *FLAGS).returncode == 0
    assert "create" not in changes(cloud)


def test_one_that_was_made_by_hand_is_used_and_deleted(cloud: Cluster):
    cloud.set("tpu-vm.state", "READY")
    assert cloud.call(TPU_VM, "up", *FLAGS).returncode == 0
    assert "create" not in changes(cloud)
    assert cloud.call(TPU_VM, "down", *FLAGS).returncode == 0
    deletion = ["compute", "tpus", "tpu-vm", "delete", "tpu", *PLACE, "--quiet"]
    assert cloud.calls("gcloud")[-1] == deletion


def test_down_of_nothing_is_done_at_once(cloud: Cluster):
    result = cloud.call(TPU_VM, "down", *FLAGS)
    assert (result.returncode, changes(cloud)) == (0, [])
    assert result.stderr == "tpu_vm.sh: tpu is not there\n"


def test_a_spot_tpu_that_is_taken_away_is_made_anew_and_the_run_goes_on(cloud: Cluster):
    is_there(cloud)
    # The machine is gone when the run has exited with 143.
    cloud.set("queued-resources.state", "SUSPENDED\nSUSPENDED")
    cloud.set("tpu-vm.state", "PREEMPTED\nPREEMPTED")
    words = ("--restarts=1", "--", "python", cloud.script(exits_with(143, 0)), "--workdir=gs://b/r")
    result = cloud.call(TPU_VM, "run", *FLAGS, *WANTED, *words)
    assert result.returncode == 0, result.stderr
    assert "exit code 143; restart 1 of 1" in result.stderr
    assert changes(cloud) == ["ssh", "delete", "create", "ssh", "scp", "ssh", "ssh"]
    assert DELETE in cloud.calls("gcloud")


@pytest.mark.parametrize(
    ("codes", "restarts", "expected", "runs"),
    [
        ((143, 75, 0), 5, 0, 3),
        ((143, 143), 1, 143, 2),
        ((2,), 5, 2, 1),
        ((3,), 5, 3, 1),
        ((1,), 5, 1, 1),  # a bug: the TPU is there, so it would only come again
    ],
)
def test_only_what_can_go_on_is_restarted(cloud, codes, restarts, expected, runs):
    is_there(cloud)
    words = (f"--restarts={restarts}", "--", "python", cloud.script(exits_with(*codes)))
    result = cloud.call(TPU_VM, "run", *FLAGS, *words, "--workdir=gs://b/r")
    assert result.returncode == expected
    assert changes(cloud) == ["ssh"] * runs


def test_all_deletes_when_the_run_fails_and_keeps_its_exit_code(cloud: Cluster):
    words = ("--", "python", cloud.script(exits_with(3)), "--workdir=gs://b/r")
    result = cloud.call(TPU_VM, "all", *FLAGS, *WANTED, *words)
    assert result.returncode == 3
    assert cloud.calls("gcloud")[-1] == DELETE


def test_all_keeps_a_tpu_whose_run_folder_could_not_be_fetched(cloud: Cluster):
    cloud.set("scp.code", "0\n1")  # the wheel goes, the run folder does not come
    words = ("--", "python", cloud.script(exits_with(3)), "--workdir=only/there")
    result = cloud.call(TPU_VM, "all", *FLAGS, *WANTED, *words)
    assert result.returncode == 3
    assert "tpu is kept, with the run folder on it" in result.stderr
    assert "delete" not in changes(cloud)


@pytest.mark.parametrize(
    ("workdir", "answer", "after_the_run"),
    [
        ("only/there", "0", ["ssh", "scp", "delete"]),  # a full disk after hours
        ("only/there", "44", ["ssh", "delete"]),  # bad input: there is no such folder
        ("only/there", "255", ["ssh", "scp", "delete"]),  # nobody knows
        ("gs://b/r", "0", ["rsync", "delete"]),
    ],
)
def test_all_fetches_first_when_the_run_ends_with_2(cloud, workdir, answer, after_the_run):
    cloud.set("ssh.code", f"0\n0\n{answer}")  # after the two of the installation
    words = ("--", "python", cloud.script(exits_with(2)), f"--workdir={workdir}")
    result = cloud.call(TPU_VM, "all", *FLAGS, *WANTED, *words)
    assert result.returncode == 2
    done = [call[1] if call[0] == "storage" else call[3] for call in cloud.calls("gcloud")]
    run = ["create", "ssh", "scp", "ssh", "ssh"]
    assert [word for word in done if word != "describe"] == [*run, *after_the_run]


def test_a_wheel_that_cannot_be_built_is_told_as_such(cloud: Cluster):
    is_there(cloud)
    cloud.add("python3", "sh", "-c", "echo 'ERROR: No matching distribution for hatch' >&2; exit 1")
    result = cloud.call(TPU_VM, "up", *FLAGS)
    assert result.returncode == 2
    said = f"the wheel of {LAUNCH.parent} could not be built: ERROR: No matching distribution"
    assert result.stderr.splitlines()[-1] == f"tpu_vm.sh: {said} for hatch"


def test_all_deletes_when_the_installation_fails(cloud: Cluster):
    cloud.set("ssh.code", "0\n1")
    result = cloud.call(TPU_VM, "all", *FLAGS, *WANTED, "--", "python", "x", "--workdir=gs://b/r")
    assert result.returncode == 1
    assert "memjax could not be installed on tpu" in result.stderr
    assert cloud.calls("gcloud")[-1] == DELETE


def test_what_an_earlier_start_left_is_stopped_first(cloud: Cluster):
    is_there(cloud)
    script = cloud.script("import os; print('started', os.getppid(), flush=True)")
    left = cloud.folder / "worker0/.memjax.pid"
    left.parent.mkdir(parents=True)
    stopped = cloud.folder / "stopped"
    waiting = f"trap 'echo saved > {stopped}; exit' TERM; while true; do sleep 0.1; done"
    with subprocess.Popen(["bash", "-c", waiting]) as earlier:
        left.write_text(f"{began(earlier.pid)}\n")
        threading.Thread(target=earlier.wait).start()  # reaps it, as init would
        result = cloud.call(TPU_VM, "run", *FLAGS, "--", "python", script, "--workdir=r")
        assert earlier.wait(timeout=10) == 0
    assert result.returncode == 0, result.stderr
    assert stopped.read_text() == "saved\n"
    assert not left.exists()


@pytest.mark.parametrize("kind", ["number_only", "began_before", "another_boot", "gone", "words"])
def test_a_process_of_somebody_else_with_the_same_number_is_left_alone(cloud: Cluster, kind: str):
    is_there(cloud)
    left = cloud.folder / "worker0/.memjax.pid"
    left.parent.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as foreign:
        pid, beginning, boot = began(foreign.pid).split()
        left.write_text(
            {
                "number_only": pid,
                "began_before": f"{pid} {int(beginning) - 1} {boot}",
                "another_boot": f"{pid} {beginning} 0{boot[1:]}x",
                "gone": f"999999999 {beginning} {boot}",
                "words": "-1 not a process",
            }[kind]
            + "\n"
        )
        words = ("--", "python", cloud.script(exits_with(0)), "--workdir=r")
        result = cloud.call(TPU_VM, "run", *FLAGS, *words)
        assert foreign.poll() is None
        foreign.kill()
    assert result.returncode == 0, result.stderr
    assert not left.exists()


def test_a_restarted_run_has_the_name_it_had_and_a_later_one_another(cloud: Cluster):
    is_there(cloud)
    for _ in range(2):
        program = cloud.script(notes_job_and_exits_with(143, 0, 0, 143, 0))
        words = ("--restarts=2", "--", "python", program, "--workdir=gs://b/r")
        assert cloud.call(TPU_VM, "run", *FLAGS, *words).returncode == 0
    jobs = (cloud.folder / "jobs").read_text().split()
    assert len(jobs) == 2 * (2 + 1)  # two workers; two starts, then one
    assert len(set(jobs[:4])) == 1
    assert len(set(jobs[4:])) == 1
    assert jobs[0] != jobs[-1]


def test_what_gcloud_says_beside_its_answer_is_no_state(cloud: Cluster):
    is_there(cloud)
    cloud.set("gcloud_warning", "Updates are available for some components: FAILED")
    result = cloud.call(TPU_VM, "up", *FLAGS)
    assert result.returncode == 0, result.stderr
    assert "create" not in changes(cloud)


def test_dry_run_prints_every_command_and_runs_none(cloud: Cluster):
    command = ["python", "-m", "memjax.main", "--workdir=gs://b/r", "--config.model.name=it's"]
    result = cloud.call(TPU_VM, "all", "--dry_run", *FLAGS, *WANTED, "--", *command)
    assert result.returncode == 0, result.stderr
    assert cloud.calls("gcloud") == cloud.calls("python3") == []
    lines = result.stdout.splitlines()
    # What it prints is what it does: a shell that reads it calls gcloud with the same words.
    (cloud.folder / "commands.sh").write_text(result.stdout.replace("ssh tpu", "describe tpu"))
    cloud.call("bash", cloud.folder / "commands.sh")
    assert CREATE in cloud.calls("gcloud")
    assert DELETE in cloud.calls("gcloud")
    assert lines[-1] == "gcloud " + " ".join(DELETE)
    assert lines[-2] == "gcloud storage rsync --recursive gs://b/r runs/r"
    assert "'\\''--config.model.name=it'\\''\\'\\'''\\''s'\\''" in result.stdout


def test_dry_run_needs_no_gcloud(cluster: Cluster):
    assert cluster.call(TPU_VM, "down", "--dry_run").returncode == 0


GCLOUD_SAYS = {
    "You do not currently have an active account selected. Please run: $ gcloud auth login": (
        2,
        "gcloud is not logged in; run: gcloud auth login",
    ),
    "There was a problem refreshing your current auth tokens: Reauthentication failed.": (
        2,
        "gcloud is not logged in; run: gcloud auth login",
    ),
    "The required property [project] is not currently set.": (2, "no project; give --project="),
    "The required property [compute/zone] is not currently set.": (2, "no zone; give --zone="),
    "Cloud TPU API has not been used in project 1 before or it is disabled.": (
        2,
        "the TPU API is off in this project; run: gcloud services enable tpu.googleapis.com",
    ),
    "Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' has been exceeded.": (
        2,
        "quota refused for v5litepod-16 (spot); ask for more, or try another --zone",
    ),
    "There is no more capacity in the zone us-west4-a": (75, "no v5litepod-16 free (spot)"),
    "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied": (2, "this account may not do that"),
    "INTERNAL: something else": (1, "gcloud failed: ERROR: (gcloud) INTERNAL: something else"),
}


@pytest.mark.parametrize("said", GCLOUD_SAYS)
def test_gclouds_errors_become_one_line(cloud: Cluster, said: str):
    cloud.set("gcloud_error", f"ERROR: (gcloud) {said}")
    result = cloud.call(TPU_VM, "up", *FLAGS, *WANTED)
    code, message = GCLOUD_SAYS[said]
    assert result.returncode == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_request_that_fails_in_the_queue_ends_the_wait(cloud: Cluster):
    cloud.set("queued-resources.state", "PROVISIONING\nPROVISIONING\nFAILED")
    result = cloud.call(TPU_VM, "up", *FLAGS)
    assert result.returncode == 75
    assert "ended as FAILED" in result.stderr


def test_the_wait_in_the_queue_is_limited(cloud: Cluster):
    cloud.set("queued-resources.state", "WAITING_FOR_RESOURCES")
    result = cloud.call(TPU_VM, "up", *FLAGS, "--wait_s=2")
    assert result.returncode == 75
    assert "is still WAITING_FOR_RESOURCES after --wait_s=2" in result.stderr


def test_gcloud_missing(cluster: Cluster):
    result = cluster.call(TPU_VM, "up", *FLAGS)
    assert result.returncode == 2
    assert "gcloud is not on PATH; install the Google Cloud CLI: https://" in result.stderr


RUN = ["--", "python", "-m", "memjax.main", "--workdir=/local/run"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say what to do: up, run, fetch, down or all"),
        (["fly"], "fly: not understood"),
        (["up", "--naem=x"], "--naem=x: not understood"),
        (["up", "--accelerator=v99-8"], "--accelerator=v99-8: give its --runtime too"),
        (["run", "--restarts=-1", *RUN], "--restarts=-1: must be a whole number"),
        (["run", "--restarts=2", *RUN], "--workdir must be on gs://"),
        (["run"], "the command is missing"),
        (["all", "--", "python", "-m", "memjax.main"], "--workdir=... is missing"),
    ],
)
def test_mistakes_are_one_line_and_reach_nobody(cloud: Cluster, words: list[str], message: str):
    result = cloud.call(TPU_VM, *words)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert cloud.calls("gcloud") == []


def test_help_names_every_flag(cluster: Cluster):
    result = cluster.call(TPU_VM, "--help")
    flags = set(re.findall(r"^ +(--[a-z_]+)(?:=\?\*|=\*)?\)", TPU_VM.read_text(), re.MULTILINE))
    assert {"--spot", "--name", "--restarts", "--dry_run"} <= flags
    assert all(flag in result.stdout for flag in flags)
