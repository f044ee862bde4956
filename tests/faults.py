"""Runs that are killed, stopped, starved and damaged end as undisturbed ones, or say why not.

    python -m tests.faults --rounds=100                       # all kinds of jobs and faults in turn
    python -m tests.faults --rounds=5 --jobs=ensemble,disk    # some
    python -m tests.faults --rounds=0                         # damaged files alone

The rounds go to the jobs in turn, as cards are dealt. A round disturbs a job at a random time and
starts the same command again until it is done. It is good if the result is that of the undisturbed
job, to the bit: metrics, dynamics, checkpoints of every member, tables; or if the job ended with
one clear line and exit code 2, and what the line says to do then leads to that result. Default
settings, real processes, one seed a round. The job "damage" is tests/damage.py's: every file of a
folder, in one process.
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

import pyarrow.parquet as pq

from tests import command_line
from tests.test_main import rows, without_seconds

RUN = [
    "--config=configs/digits_randlabel.py:quick",
    "--config.dataset.num_train=200",
    "--config.dataset.num_validation=100",
    "--config.model.widths=(32,)",
    "--config.train.num_epochs=40",
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
REPRODUCE = ["--scale=smoke", "--figures=3"]
EVERYTHING = "main,ensemble,sweep_2,sweep_3,analyze,reproduce,disk,read_only,damage"


class Job:
    """A command, the folder that it fills, and what an undisturbed one leaves there."""

    def __init__(self, name, module, flags, devices=1, source=None):
        self.name, self.module, self.flags, self.source = name, module, flags, source
        self.extra = {"XLA_FLAGS": command_line.QUICK_TO_COMPILE}
        self.extra["JAX_NUM_CPU_DEVICES"] = f"{devices}"
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
        elif path.name == "config.json":
            document = json.loads(path.read_text())
            found[name] = document["science"], document["derived"]
        elif path.suffix == ".parquet" and path.parent.name == "figures":  # its metadata has a date
            found[name] = pq.read_table(path).replace_schema_metadata()
        elif path.suffix == ".parquet":
            found[name] = path.read_bytes()
        elif path.name == "claims.json":
            found[name] = json.loads(path.read_text())["claims"]
    return found


def difference(found, expected):
    """Returns the first name under which two results differ; empty if they do not."""
    return next(
        (n for n in sorted(set(found) | set(expected)) if found.get(n) != expected.get(n)), ""
    )


def check_words(error):
    """Fails for a traceback; returns memjax's own lines."""
    assert not any("Traceback" in line for line in error), error
    return [line for line in error if line.startswith("memjax: ")]


def finish(job, workdir):
    """Starts the command until it is done; returns how that went."""
    code, error = job.run(workdir)
    lines = check_words(error)
    if code == 0:
        name = difference(result_of(workdir), job.expected)
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
        # Before memjax has begun Python, or the system, ends it in its own way.
        assert process.returncode in (0, SIGNALS[kind], -kind), (process.returncode, error)
        if process.returncode != -signal.SIGINT:
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
    size = draw.randint(50, 1200) * 1024
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
        assert len(check_words(error)) == len(error) == 1, error  # one line, and nothing else
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
        Job("reproduce", "memjax.reproduce", REPRODUCE),
    ]
    return {job.name: job for job in jobs}


def plan(names, folder):
    """Returns (name, job, fault) of what is to be done in each round."""
    jobs = jobs_of(folder)
    chosen = [(name, jobs[name], by_signal) for name in jobs if name in names]
    alone = {"disk": by_full_disk, "read_only": by_read_only}
    chosen += [(name, jobs["main"], alone[name]) for name in alone if name in names]
    if "analyze" in names:
        if jobs["main"].expected is None:
            jobs["main"].undisturbed(folder)
        source, flags = folder / "main_undisturbed", ["--passes=gradients,difficulty"]
        analyze = Job("analyze", "memjax.analyze", flags, source=source)
        chosen.append(("analyze", analyze, by_signal))
    return chosen


def main():
    """Prints a table of outcomes; exits with 1 if some round was not good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", default=EVERYTHING)
    given = parser.parse_args()
    names = given.jobs.split(",")
    failed = campaign(given.rounds, given.seed, names) if given.rounds else 0
    if "damage" in names:
        from tests import damage

        failed += damage.campaign(given.seed)
    raise SystemExit(bool(failed))


def campaign(rounds, seed, names):
    """Returns how many rounds were not good."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="memjax_faults_"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    outcomes = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory(prefix="memjax_faults_") as scratch:
        folder = pathlib.Path(scratch)
        planned = plan(names, folder)
        for place, (name, job, fault) in enumerate(planned):
            if job.expected is None:
                job.undisturbed(folder)
            share = (rounds - place + len(planned) - 1) // len(planned)
            for number in range(share):
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
            print(f"| {name} | {share} | {counts} |", flush=True)
    return sum(counts["FAILED"] for counts in outcomes.values())


if __name__ == "__main__":
    main()
