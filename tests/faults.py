"""Runs that are killed, stopped, starved and damaged end as undisturbed ones, or say why not.

    python -m tests.faults --rounds=100                       # all kinds of jobs and faults
    python -m tests.faults --rounds=5 --jobs=ensemble,disk    # some

A round disturbs a job at a random time, or its folder, and starts the same command again until it
is done. It is good if the result is that of the undisturbed job, to the bit: metrics, dynamics,
checkpoints of every member, tables; or if the job ended with one clear line and exit code 2, and
what the line says to do then leads to that result. Default settings, real processes, one seed a
round.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time

from tests import command_line
from tests.test_main import rows, without_seconds

RUN = [
    "--config=configs/digits_randlabel.py:quick",
    "--config.dataset.num_train=200",
    "--config.dataset.num_validation=100",
    "--config.model.widths=(32,)",
    "--config.train.num_epochs=60",
    "--config.checkpoint.every_epochs=20",
    "--config.optimizer.learning_rate=0.3",
]
MEMBERS = ["--config.ensemble.size=3", "--config.ensemble.subset_fraction=0.5"]
SWEEP = """
from memjax.config import default_config
from memjax.sweeps.points import Point


def get_points(variant=""):
    for level in (0.0, 0.5):
        config = default_config()
        config.dataset.num_train, config.dataset.num_validation = 200, 50
        config.corruption.kind, config.corruption.fraction = "random_labels", level or 0.1
        config.model.widths = (16,)
        config.ensemble.size, config.ensemble.subset_fraction = 3, 0.5
        config.train.batch_size, config.train.num_epochs = 20, 40
        config.train.stop_at_train_accuracy = 0.9
        config.optimizer.learning_rate = 0.2
        yield Point(f"level_{level}", {"level": level}, config)
"""
SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
DAMAGES = ("truncated", "zeroed", "a bit flipped")


class Job:
    """A command, the folder that it fills, and what an undisturbed one leaves there."""

    def __init__(self, name, module, flags, devices=1, source=None):
        self.name, self.module, self.flags, self.source = name, module, flags, source
        count = f"--xla_force_host_platform_device_count={devices}"
        self.extra = {"XLA_FLAGS": f"{command_line.QUICK_TO_COMPILE} {count}"}
        self.expected, self.seconds = None, 0.0

    def fill(self, workdir):
        """Puts there what the command needs to find."""
        if self.source:
            shutil.copytree(self.source, workdir)

    def start(self, workdir, *more):
        return command_line.start(
            self.module, *self.flags, f"--workdir={workdir}", *more, **self.extra
        )

    def run(self, workdir, *more):
        """Returns (exit code, lines on stderr)."""
        process = self.start(workdir, *more)
        _, error = process.communicate(timeout=900)
        return process.returncode, error.strip().splitlines()

    def undisturbed(self, folder):
        workdir = folder / f"{self.name}_undisturbed"
        self.fill(workdir)
        began = time.monotonic()
        code, error = self.run(workdir)
        assert code == 0, error
        self.seconds = time.monotonic() - began
        self.expected = result_of(workdir)
        return workdir


def result_of(workdir):
    """Returns all that a job's folder says, how long it took left out."""
    found = {}
    for path in sorted(workdir.rglob("*")):
        name = str(path.relative_to(workdir))
        if path.name == "metrics.jsonl":
            found[name] = without_seconds(rows(path.parent))
        elif path.name == "summary.json":
            document = json.loads(path.read_text())
            speed = "examples_per_second", "flops_per_second", "share_of_peak"
            for key in ("wall_seconds", "checksum", *speed):
                document.pop(key, None)
            found[name] = document
        elif path.name == "metadata" and path.is_file() and "damaged" not in name:
            with contextlib.suppress(ValueError):
                found[name] = json.loads(path.read_text())["checksum"]
        elif path.suffix == ".parquet":
            found[name] = path.read_bytes()
    return found


def difference(job, workdir):
    """Returns the first name under which the folder differs from the undisturbed one."""
    found = result_of(workdir)
    for name in sorted(set(found) | set(job.expected)):
        if found.get(name) != job.expected.get(name):
            return name
    return ""


def check_words(error):
    """Fails for a traceback; returns memjax's own lines."""
    assert not any("Traceback" in line for line in error), error
    return [line for line in error if line.startswith("memjax: ")]


def finish(job, workdir):
    """Starts the command until it is done; returns how that went."""
    code, error = job.run(workdir)
    lines = check_words(error)
    if code == 0:
        name = difference(job, workdir)
        assert not name, f"{name} differs"
        return "the same"
    assert code == 2, (code, error)
    assert len(lines) == 1, error
    return lines[0]


def by_signal(job, workdir, draw):
    """Ends the job at a random time, up to three times."""
    job.fill(workdir)
    for _ in range(draw.randint(1, 3)):
        kind = draw.choice(list(SIGNALS))
        process = job.start(workdir)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0.2, 1.1) * job.seconds)
        process.send_signal(kind)
        _, error = process.communicate(timeout=300)
        # Before it has begun there is nothing to save, and Python ends it in its own way.
        early = -kind, 130
        assert process.returncode in (0, SIGNALS[kind], *early), (process.returncode, error)
        if process.returncode == SIGNALS[kind] > 0:
            check_words(error.splitlines())
    assert finish(job, workdir) == "the same"
    return "the same"


@contextlib.contextmanager
def mounted(path, size):
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def by_full_disk(job, workdir, draw):
    """Gives it a disk that is too small, then one that is not."""
    size = draw.randint(50, 900) * 1024
    with mounted(workdir.with_suffix(".disk"), size):
        inside = workdir.with_suffix(".disk") / "run"
        code, error = job.run(inside)
        lines = check_words(error)
        assert code in (0, 2), (code, error)
        assert code == 0 or any("no space left" in line for line in lines), error
        remount = ["mount", "-o", "remount,size=200m", workdir.with_suffix(".disk")]
        subprocess.run(remount, check=True)
        assert finish(job, inside) == "the same"
    return "one line, then the same" if code else "the same"


def by_damage(job, workdir, draw):
    """Damages one file of a run that was stopped or is done."""
    process = job.start(workdir)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(draw.uniform(0.5, 1.2) * job.seconds)
    process.send_signal(draw.choice([signal.SIGTERM, signal.SIGKILL]))
    process.communicate(timeout=300)
    files = [p for p in sorted(workdir.rglob("*")) if p.is_file() and p.stat().st_size]
    if not files:
        return finish(job, workdir)
    path, how = draw.choice(files), draw.choice(DAMAGES)
    damage(path, how, draw)
    step = re.search(r"checkpoints/(\d+)/", str(path))
    steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    is_done = (workdir / "summary.json").exists()
    if path.suffix == ".png" or (step and (is_done or int(step[1]) < max(steps))):
        # Nothing reads it any more but an analysis, which says so.
        assert job.run(workdir)[0] == 0
        return "the same" if path.suffix == ".png" else read_again(job, workdir, int(step[1]))
    try:
        found = finish(job, workdir)
    except AssertionError as error:
        raise AssertionError(f"{path.relative_to(workdir)} {how}: {error}") from error
    if found != "the same":  # what the line says: to start anew
        code, error = job.run(workdir, "--overwrite")
        assert code == 0, error
        assert not difference(job, workdir)
        found = "one line, then the same"
    return found


def read_again(job, workdir, step):
    """Analyses a checkpoint of which a file was damaged."""
    flags = ["--passes=gradients", f"--steps={step}", "--num_examples=10"]
    code, error = Job("", "memjax.analyze", flags).run(workdir)
    lines = check_words(error)
    assert code == 0 or (code == 2 and len(lines) == 1 and f"{step}: damaged" in lines[0]), error
    return "one line" if code else "the same"


def damage(path, how, draw):
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "zeroed":
        data = bytearray(len(data))
    else:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(data))


def by_read_only(job, workdir, draw):
    """Takes the right to write."""
    with mounted(workdir.with_suffix(".disk"), "100m"):
        inside = workdir.with_suffix(".disk") / "run"
        process = job.start(inside)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0.5, 1.0) * job.seconds)
        process.kill()
        process.communicate(timeout=300)
        disk = workdir.with_suffix(".disk")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        code, error = job.run(inside)
        assert code == 2, (code, error)
        assert len(check_words(error)) == len(error) == 1, error
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert finish(job, inside) == "the same"
    return "one line, then the same"


def jobs_of(folder):
    """Returns the jobs, by name."""
    sweep = folder / "mine.py"
    sweep.write_text(SWEEP)
    jobs = [
        Job("main", "memjax.main", RUN),
        Job("ensemble", "memjax.main", [*RUN, *MEMBERS], devices=2),
        Job("sweep_2", "memjax.sweep", [f"--sweep={sweep}"], devices=2),
        Job("sweep_3", "memjax.sweep", [f"--sweep={sweep}"], devices=3),
    ]
    return {job.name: job for job in jobs}


def plan(names, folder):
    """Returns (name, job, fault) of what is to be done in each round."""
    jobs = jobs_of(folder)
    chosen = [(name, jobs[name], by_signal) for name in jobs if name in names]
    alone = {"disk": by_full_disk, "damage": by_damage, "read_only": by_read_only}
    chosen += [(name, jobs["main"], alone[name]) for name in alone if name in names]
    if "analyze" in names:
        if jobs["main"].expected is None:
            jobs["main"].undisturbed(folder)
        flags = ["--passes=gradients,difficulty"]
        source = folder / "main_undisturbed"
        chosen.append(
            ("analyze", Job("analyze", "memjax.analyze", flags, source=source), by_signal)
        )
    return chosen


def main():
    """Prints a table of outcomes; exits with 1 if some round was not good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    everything = "main,ensemble,sweep_2,sweep_3,analyze,disk,damage,read_only"
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", default=everything)
    given = parser.parse_args()
    failed = campaign(given.rounds, given.seed, given.jobs.split(","))
    raise SystemExit(bool(failed))


def campaign(rounds, seed, names):
    """Returns how many rounds were not good."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="memjax_faults_"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    outcomes = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory(prefix="memjax_faults_") as scratch:
        folder = pathlib.Path(scratch)
        for name, job, fault in plan(names, folder):
            if job.expected is None:
                job.undisturbed(folder)
            for number in range(rounds):
                draw = random.Random(f"{seed} {name} {number}")
                workdir = folder / f"{name}_{number}"
                try:
                    found = fault(job, workdir, draw)
                except AssertionError as error:
                    found = "FAILED"
                    print(f"{name}, round {number}: {error}", flush=True)
                outcomes[name][re.sub(r"memjax: .*", "one line", found)] += 1
                shutil.rmtree(workdir, ignore_errors=True)
            counts = ", ".join(f"{n} {words}" for words, n in outcomes[name].items())
            print(f"| {name} | {rounds} | {counts} |", flush=True)
    return sum(counts["FAILED"] for counts in outcomes.values())


if __name__ == "__main__":
    main()
