"""Every file of a run's and of a sweep's folder truncated, zeroed and bit-flipped in turn.

A run that is done and one that was stopped, each with every file damaged in each of three ways.
It is opened and read, then the same call goes on with it: the result is the undisturbed one, or one
InputError, after which what it says to do leads there. No checkpoint is ever deleted.
"""

import collections
import contextlib
import functools
import hashlib
import logging
import os
import pathlib
import random
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from absl import logging as absl_logging

from memjax import load_run
from memjax.config import default_config, resolve
from memjax.errors import InputError
from memjax.sweeps.plan import make_plan
from memjax.sweeps.points import Point, Sweep, check_points
from memjax.sweeps.run import run_sweep
from memjax.training.point_folder import PointFolder
from memjax.training.run import run
from memjax.training.setup import prepare
from memjax.training.watcher import Interrupted
from tests.faults import difference, result_of

WAYS = ("truncated", "zeroed", "a bit flipped")
STOPPED_AT = 8  # between two checkpoints, of 16 steps


class Case(NamedTuple):
    """A folder to be damaged.

    Attributes:
      name: for the table.
      folder: as it was left, by one that is done or one that was stopped.
      expected: `result_of` the undisturbed one.
      bits: of what `read` returns of it.
      train: goes on with a folder.
      mend: does with a folder what the line says.
    """

    name: str
    folder: pathlib.Path
    expected: dict[str, Any]
    bits: dict[str, str]
    train: Callable[[pathlib.Path], Any]
    mend: Callable[[pathlib.Path, str], Any]


def config(seed=0):
    """Four steps an epoch, four epochs, checkpoints at steps 0, 12 and 16."""
    made = default_config()
    made.seed = seed
    made.dataset.num_train, made.dataset.num_validation = 100, 50
    made.corruption.kind, made.corruption.fraction = "random_labels", 0.5
    made.model.widths = (8,)
    made.train.batch_size, made.train.num_epochs = 25, 4
    made.run.progress = False
    made.checkpoint.powers_of_two, made.checkpoint.every_epochs = False, 3
    return made


@functools.cache
def _setup():
    return prepare(resolve(config()))


def _train(folder, overwrite=False):
    run(_setup(), folder, overwrite)


@functools.cache
def _plan():
    points = []
    for seed in (0, 4):
        made = config(seed)
        made.ensemble.size = 2
        points.append(Point(f"seed_{seed}", {"seed": seed}, made))
    return make_plan(Sweep(tuple(points), check_points(tuple(points), "damage")))


def _train_sweep(folder):
    outcome = run_sweep(_plan(), folder, show_progress=False)
    assert not outcome.failures, outcome


def _delete_point(folder, line):
    point = re.search(r"points/[\w.=+-]+", line) or re.search(r"point '(.+?)'", line)
    name = point[0].removeprefix("points/") if "/" in point[0] else point[1]
    shutil.rmtree(folder / "points" / name)


@contextlib.contextmanager
def signal_at(step):
    """Sends SIGTERM when a step is logged."""
    log = PointFolder.log

    def log_and_signal(self, at, *rest):
        row = log(self, at, *rest)
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return row

    with mock.patch.object(PointFolder, "log", log_and_signal):
        yield


def cases(scratch, kinds=("run", "sweep")):
    """Returns all cases, their folders made in `scratch`."""
    found = []
    mend = {"run": lambda folder, line: _train(folder, True), "sweep": _delete_point}
    trains = {"run": _train, "sweep": _train_sweep}
    for name in kinds:
        train = trains[name]
        done, stopped = scratch / f"{name}_done", scratch / f"{name}_stopped"
        train(done)
        with signal_at(STOPPED_AT), contextlib.suppress(Interrupted):
            train(stopped)
        assert list(stopped.rglob("resume/*"))
        facts = result_of(done), read(done)[0], train, mend[name]
        found += [Case(f"{name}, done", done, *facts), Case(f"{name}, stopped", stopped, *facts)]
    return found


def read(folder):
    """Opens and reads all of a folder: ({what: its bits}, lines of what cannot be read)."""
    bits, lines = {}, []

    @contextlib.contextmanager
    def noting():
        try:
            yield
        except (InputError, FileNotFoundError) as error:
            lines.append(str(error))

    for path in sorted(folder.glob("points/*")) or [folder]:
        name_of = path.name if path != folder else "run"
        with noting():
            opened = load_run(path)
            for name in ("examples", "metrics", "dynamics"):
                with noting():
                    frame = getattr(opened, name).drop(columns="wall_seconds", errors="ignore")
                    bits[f"{name_of}/{name}"] = frame.to_csv()
            for step in opened.steps:
                with noting():
                    leaves = jax.tree.leaves(opened.member_params(step))
                    data = b"".join(np.asarray(leaf).tobytes() for leaf in leaves)
                    bits[f"{name_of}/{step}"] = hashlib.sha256(data).hexdigest()
    for line in lines:
        assert "\n" not in line, line
    return bits, lines


def damage(path, how, draw):
    """Damages one file."""
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "zeroed":
        data = bytearray(len(data))
    else:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(data))


def files_of(folder):
    """Returns the files to damage."""
    return [
        path.relative_to(folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size
    ]


def outcome(case, folder, name, how, draw):
    """Damages a copy of a case's folder; returns in words how that ended, or fails."""
    shutil.copytree(case.folder, folder)
    before = _checkpoints(folder)
    damage(folder / name, how, draw)
    read(folder)  # what cannot be read is told in one line
    words, line = "the same", ""
    try:
        case.train(folder)
    except InputError as error:
        line = str(error)
    lost = before - _checkpoints(folder)
    assert not lost, f"deleted: {lost}"
    if line:
        assert "\n" not in line, line
        case.mend(folder, line)
        case.train(folder)
        words = "one line, then the same"
    old = re.match(r"(?:.*/)?checkpoints/\d+/", str(name))
    # An older checkpoint that nobody had to read stays as it is, and whoever reads it is told so.
    # Where one point of a group was trained again, a save has its rows alone: `read` compares the
    # members themselves.
    found, expected = (
        {
            n: v
            for n, v in result.items()
            if not (old and n.startswith(old[0])) and not n.startswith("groups/")
        }
        for result in (result_of(folder), case.expected)
    )
    differs = difference(found, expected)
    assert not differs, f"{differs} differs"
    bits, lines = read(folder)
    assert all(bits[what] == case.bits[what] for what in bits), "read as something else"
    missing = set(case.bits) - set(bits)
    assert not missing or (old and lines), f"not read: {missing}"
    return "the checkpoint is refused when it is read" if missing else words


def _checkpoints(folder):
    names = [path.relative_to(folder) for path in folder.rglob("checkpoints/*") if path.is_dir()]
    return {f"{name.parent}/{name.name.split('.')[0]}" for name in names}


def campaign(seed=0, every=1, kinds=("run", "sweep")):
    """Prints a table; returns how many of every so many damages did not end well."""
    failed = 0
    absl_logging.set_verbosity(absl_logging.FATAL)  # as the entry points do
    logging.getLogger("memjax").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="memjax_damage_") as scratch:
        for case in cases(pathlib.Path(scratch), kinds):
            counts = collections.Counter()
            damages = [(name, how) for name in files_of(case.folder) for how in WAYS][::every]
            for number, (name, how) in enumerate(damages):
                folder = pathlib.Path(scratch) / "damaged"
                draw = random.Random(f"{seed} {name} {how}")
                thread_errors = []
                with mock.patch.object(threading, "excepthook", thread_errors.append):
                    try:
                        found = outcome(case, folder, name, how, draw)
                        assert not thread_errors, thread_errors
                    except Exception as error:  # whatever is no InputError would be a traceback
                        found, failed = "FAILED", failed + 1
                        words = f"{type(error).__name__}: {error}"
                        print(f"{case.name}, {name}, {how}: {words}", flush=True)
                counts[found] += 1
                shutil.rmtree(folder, ignore_errors=True)
                if number % 50 == 49:
                    jax.clear_caches()
            words = ", ".join(f"{n} {words}" for words, n in sorted(counts.items()))
            print(f"| damage ({case.name}) | {len(damages)} | {words} |", flush=True)
    return failed


if __name__ == "__main__":
    import sys

    raise SystemExit(campaign(kinds=sys.argv[1:] or ("run", "sweep")))
