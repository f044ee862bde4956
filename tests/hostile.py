"""Bad input of every kind: one clear line, nothing written elsewhere, nothing run, no hang.

    python -m tests.hostile --cases=300 --files=100

A case is a value for a field of the config; every twentieth one is given on the real command line,
as are bad flags of every entry point. A file is one that a user may hand in (npz, a folder of
pictures, a table in CSV or Parquet, decisions.csv) or that a run left behind (checkpoint, table,
log), damaged or written to do harm: pickles that would make a file, paths that leave the folder,
sizes that no machine has. It is good if the file is read, or refused by one InputError of one line;
if nothing outside the case's folder was opened for writing; if the pickle's file is not there; and
if it took less than 30 seconds.
"""

import argparse
import collections
import contextlib
import faulthandler
import io
import math
import os
import pathlib
import pickle
import random
import shutil
import sys
import tempfile
import time
import zipfile

import numpy as np
import pandas as pd
import PIL.Image
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from memjax import load_run
from memjax.auditing.cleaning import read_decisions
from memjax.config import Config, flat_values, resolve
from memjax.data.sources import load_dataset
from memjax.errors import InputError
from memjax.training.run import run
from memjax.training.setup import prepare
from tests import command_line

SECONDS = 30
STRANGE = [
    *(None, True, False, "", " ", "nan", "../..", "/etc/passwd", "x" * 5000, "a\nb", "\0", "é😀"),
    *(0, 1, -1, 2, 7, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30),
    *(0.0, -0.0, 0.5, 1.0, -1e-9, 1e-300, 1e300, math.nan, math.inf, -math.inf),
    *((), (0,), (-1,), (2**40,), ("a",), (1, 2, 3), [[]], {}, {"a": 1}, b"bytes", 1j),
]
VALUES = st.one_of(
    st.sampled_from(STRANGE), st.integers(), st.floats(), st.text(max_size=30),
    st.lists(st.integers(-3, 300), max_size=4).map(tuple),
)  # fmt: skip
FLAGS = {
    "main": ["--config=nowhere.py", "--config", "--config=configs/digits_real.py --workdir=",
             "--config=configs/digits_real.py --num_processes=x",
             "--config=configs/digits_real.py:nothing --workdir=W", "--overwrite=perhaps", "stray"],
    "analyze": ["--workdir=nowhere", "--workdir=RUN --passes=nothing",
                "--workdir=RUN --passes=gradients --steps=99", "--workdir=/etc --passes=gradients",
                "--workdir=RUN --passes=critical --radius=-1"],
    "sweep": ["--sweep=nowhere.py --workdir=W", "--workdir=W", "--nothing"],
    "reproduce": ["--scale=enormous --workdir=W", "--scale=smoke --figures=99 --workdir=W", ""],
    "audit": ["--data=nowhere --workdir=W", "--data=digits", "--workdir=W --apply=nowhere.csv",
              "--data=digits --workdir=W --effort=endless",
              "--data=digits --workdir=W --pred_probs=/etc/passwd"],
    "compare": ["--workdir=nowhere", "--workdir=RUN --import=/etc/passwd", "--workdir="],
}  # fmt: skip


class Payload:
    """Pickled, a call that makes a file; it is there if anything has loaded it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


_allowed: list[pathlib.Path] = []  # while a case runs: where it may write
_broken: list[str] = []


def _watch(event, arguments):
    """Notes what may not happen while a case runs."""
    if not _allowed:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = any(letter in (mode or "") for letter in "wxa+") or (
            mode is None and isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        )
        if writes and isinstance(path, str | bytes | os.PathLike):
            place = pathlib.Path(os.fsdecode(path)).resolve()
            places = (*_allowed, pathlib.Path("/dev"))
            if not any(place.is_relative_to(folder) for folder in places):
                _broken.append(f"opened {place} for writing")
    elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"):
        _broken.append(f"{event}{arguments[:2]}")
    elif event == "pickle.find_class":
        _broken.append(f"a pickle was loaded: {arguments}")


def outcome(action, folder, canary):
    """Runs one case; returns what happened, or raises AssertionError if it was not good."""
    cache = pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or folder)
    _broken.clear()
    faulthandler.dump_traceback_later(4 * SECONDS, exit=True)
    began = time.monotonic()
    _allowed[:] = [folder.resolve(), cache.resolve()]
    try:
        action()
        found = "read"
    except InputError as error:
        found = "one line"
        if "\n" in str(error) or not str(error).strip():
            raise AssertionError(f"not one line: {error}") from error
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {str(error)[:300]}") from error
    finally:
        _allowed.clear()
        faulthandler.cancel_dump_traceback_later()
    assert time.monotonic() - began < SECONDS, "took too long"
    assert not canary.exists(), "a payload was run"
    assert not _broken, "; ".join(dict.fromkeys(_broken))
    return found


def fields(number, folder):
    """Yields (what, action) of values for fields; `prepare` runs where the config is accepted."""
    names = sorted(flat_values(Config()))
    drawn = []

    @settings(
        max_examples=number, derandomize=True, database=None, deadline=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.sampled_from(names), VALUES)
    def collect(name, value):
        drawn.append((name, value))

    collect()
    for name, value in drawn:
        section, _, field = name.rpartition(".")
        config = {section: {field: value}} if section else {field: value}
        base = {
            "dataset": {"num_train": 60, "num_validation": 20},
            "model": {"widths": (8,)},
            "train": {"batch_size": 20},
        }

        def action(config=config, base=base):
            merged = {s: {**base.get(s, {}), **v} if isinstance(v, dict) else v
                      for s, v in {**base, **config}.items()}  # fmt: skip
            prepare(resolve(merged))

        yield f"{name}={value!r:.60}", action


def damaged(data, draw, canary):
    """The bytes of a file after one of many things happened to it, and which."""
    kind = draw.choice(
        ["empty", "cut", "bits", "zeros", "noise", "pickle", "text", "doubled", "utf-16", "nul"]
    )
    place = draw.randrange(max(1, len(data)))
    if kind == "empty":
        return kind, b""
    if kind == "cut":
        return kind, data[:place]
    if kind == "bits":
        changed = bytearray(data)
        for _ in range(draw.choice([1, 8, 64])):
            if changed:
                changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        return kind, bytes(changed)
    if kind == "zeros":
        return kind, data[:place] + bytes(len(data) - place)
    if kind == "noise":
        return kind, draw.randbytes(max(1, len(data)))
    if kind == "pickle":
        return kind, pickle.dumps(Payload(canary))
    if kind == "text":
        return kind, b"<script>alert(1)</script>\n=cmd|' /C calc'!A0,../../x,\n" * 3
    if kind == "doubled":
        return kind, data + data
    if kind == "utf-16":
        return kind, "path,label\na,b\n".encode("utf-16")
    return kind, data[:place] + b"\0" * 7 + data[place:]


def hostile_npz(folder, draw, canary):
    """A .npz whose arrays are what nobody wants."""
    images = np.zeros((40, 6, 6, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(40)
    labels = np.arange(40) % 2
    objects = np.array([Payload(canary)] * 40, dtype=object)
    structured = np.zeros(40, [("a", int), ("b", float)])
    choices = {
        "object labels": {"images": images, "labels": objects},
        "object images": {"images": objects, "labels": labels},
        "nan": {"images": np.full((40, 6, 6, 1), np.nan, np.float32), "labels": labels},
        "huge labels": {"images": images, "labels": labels.astype(np.uint64) + 2**63},
        "negative labels": {"images": images, "labels": labels - 5},
        "one class": {"images": images, "labels": labels * 0},
        "no examples": {"images": images[:0], "labels": labels[:0]},
        "five axes": {"images": images[..., None], "labels": labels},
        "complex": {"images": images * 1j, "labels": labels},
        "structured": {"images": images, "labels": structured},
        "dates": {"images": images, "labels": labels.astype("datetime64[s]")},
        "too few labels": {"images": images, "labels": labels[:-1]},
        "zero-size images": {"images": images[:, :0], "labels": labels},
        "scalars": {"images": np.uint8(3), "labels": np.int64(0)},
        "class names": {"images": images, "labels": np.array(["=1+1", "<b>"])[labels]},
    }
    name = draw.choice([*choices, "escaping member", "huge header", "zip of text"])
    path = folder / "data.npz"
    if name in choices:
        np.savez(path, **choices[name])
        return name, path
    with zipfile.ZipFile(path, "w") as archive:
        if name == "huge header":
            header = io.BytesIO()
            shape = (10**9, 10**6, 3)
            np.lib.format.write_array_header_1_0(
                header, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            archive.writestr("images.npy", header.getvalue() + bytes(100))
        elif name == "escaping member":
            archive.writestr("../images.npy", b"x")
        else:
            archive.writestr("images.npy", b"hello")
        label_bytes = io.BytesIO()
        np.save(label_bytes, labels)
        archive.writestr("labels.npy", label_bytes.getvalue())
    return name, path


def pictures(folder):
    """A folder of two classes of twelve small pictures each; returns it."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
            PIL.Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def reading(source, path):
    """Returns what loads a data set as a run would."""
    values = {"source": source, "path": str(path), "num_validation": 4}
    if source == "table":
        values |= {"image_column": "path", "label_column": "label"}
    return lambda: load_dataset(resolve({"dataset": values}).dataset)


def hostile_file(kind, folder, draw, canary, ran):
    """Makes one hostile file; returns (what it is, what reads it)."""
    if kind == "npz" and draw.random() < 0.7:
        what, path = hostile_npz(folder, draw, canary)
        return what, reading("npz", path)
    if kind == "npz":
        path = folder / "data.npz"
        np.savez(path, images=np.zeros((9, 4, 4, 1), np.uint8), labels=np.arange(9) % 2)
        what = spoil(path, draw, canary)
        return what, reading("npz", path)
    if kind == "folder":
        root = pictures(folder / "pictures")
        chosen = draw.choice(sorted(root.rglob("*.png")))
        what = draw.choice(["damage", "link out", "bomb", "names", "folder as file"])
        if what == "link out":
            chosen.unlink()
            chosen.symlink_to("/etc/passwd")
        elif what == "bomb":
            PIL.Image.new("1", (60_000, 60_000)).save(chosen)
        elif what == "names":
            os.rename(
                root / "dog", root / draw.choice(["=1+1", "<img src=x>", "-rf", "é😀", "." * 3])
            )
        elif what == "folder as file":
            chosen.unlink()
            chosen.mkdir()
        else:
            what = spoil(chosen, draw, canary)
        return what, reading("folder", root)
    if kind in ("csv", "parquet"):
        return hostile_table(kind, folder, draw, canary)
    if kind == "decisions":
        table = pd.DataFrame({"index": range(6), "label": [0, 1] * 3, "suggested_label": [1] * 6})
        table["example_id"] = table["index"].astype(str)
        path = folder / "decisions.csv"
        rows = ["index,decision,label", "0,keep,", "1,relabel,0", "2,drop,"]
        odd = ["2,relabel,99", "-1,drop,", "1e9,drop,", "1,explode,", "=1+1,keep,", "1,relabel,",
               "1,relabel,1.5", ",,", "1,keep,\n1,drop,", '"1', "1,relabel," + "9" * 400,
               "9" * 30 + ",drop,", "²,keep,", "0,keep,1,2,3"]  # fmt: skip
        path.write_text("\n".join([*rows[: draw.randrange(5)], draw.choice(odd)]))
        what = spoil(path, draw, canary) if draw.random() < 0.4 else "odd rows"
        return what, lambda: read_decisions(path, table, 2)
    shutil.copytree(ran, folder / "run")
    chosen = draw.choice([p for p in sorted((folder / "run").rglob("*")) if p.is_file()])
    what = f"{chosen.relative_to(folder / 'run')} {spoil(chosen, draw, canary)}"
    return what, lambda: read_run(folder / "run")


def hostile_table(kind, folder, draw, canary):
    """A table of paths and labels in which something is wrong."""
    pictures(folder / "pictures")
    rows = [(f"pictures/{c}/{n}.png", c) for c in ("cat", "dog") for n in range(12)]
    table = pd.DataFrame(rows, columns=["path", "label"])
    odd = {
        "leaves the folder": ("path", "../../../etc/passwd"), "absolute": ("path", "/etc/passwd"),
        "nul": ("path", "a\0b"), "missing path": ("path", None), "formula": ("label", "=1+1"),
        "missing label": ("label", None), "address": ("path", "http://127.0.0.1:9/x.png"),
        "long": ("path", "x" * 5000), "new class": ("label", "bird"),
    }  # fmt: skip
    what = draw.choice([*odd, "no column", "no rows", "damage", "damage"])
    if what in odd:
        table.loc[draw.randrange(len(table)), odd[what][0]] = odd[what][1]
    elif what == "no column":
        table = table.rename(columns={"label": "other"})
    elif what == "no rows":
        table = table[:0]
    path = folder / f"table.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    return (spoil(path, draw, canary) if what == "damage" else what), reading("table", path)


def spoil(path, draw, canary):
    """Damages a file in place; returns how."""
    what, data = damaged(path.read_bytes(), draw, canary)
    path.write_bytes(data)
    return what


def read_run(folder):
    """Reads all that a run left."""
    found = load_run(folder)
    lines: list[str] = []
    for read in (
        lambda: found.metrics, lambda: found.examples, lambda: found.table("gradients"),
        lambda: [found.params(step) for step in found.steps],
    ):  # fmt: skip
        try:
            read()
        except InputError as error:
            lines.append(str(error))
    for line in lines:
        assert "\n" not in line, line
    if lines:
        raise InputError(lines[0])


def small_run(folder):
    """Trains a run of a second, with one table; returns its folder."""
    settings_ = {
        "dataset": {"num_train": 60, "num_validation": 20},
        "model": {"widths": (8,)},
        "train": {"num_epochs": 2, "batch_size": 20},
        "run": {"progress": False, "num_devices": 1},
    }
    run(prepare(resolve(settings_)), folder)
    done = command_line.run("memjax.analyze", f"--workdir={folder}", "--passes=gradients")
    assert done.returncode == 0, done.stderr
    return folder


def command_cases(number, draw):
    """Yields (what, module, flags) of bad command lines."""
    every = [(m, words) for m, lines in FLAGS.items() for words in lines]
    draw.shuffle(every)
    for module, words in every[:number]:
        yield f"memjax.{module}", words.split()


def commands(number, folder, draw, ran):
    """Runs bad command lines for real; returns outcomes."""
    found = collections.Counter()
    for module, words in command_cases(number, draw):
        flags = [word.replace("=W", f"={folder / 'new'}").replace("=RUN", f"={ran}")
                 for word in words]  # fmt: skip
        began = time.monotonic()
        done = command_line.run(module, *flags, timeout=120)
        with report(found, f"{module} {' '.join(words)}"):
            command_line.assert_one_line_and_exit_2(done)
            assert not (folder / "new").exists(), "something was written"
            assert time.monotonic() - began < SECONDS, "took too long"
        shutil.rmtree(folder / "new", ignore_errors=True)
    return found


@contextlib.contextmanager
def report(found, what):
    """Counts a case as good, or prints what is wrong with it."""
    try:
        yield
        found["one line"] += 1
    except AssertionError as error:
        found["FAILED"] += 1
        print(f"{what}: {str(error)[:400]}", flush=True)


def campaign(cases=300, files=100, lines=25, seed=0):
    """Prints a table; returns how many were not good."""
    sys.addaudithook(_watch)  # for the life of the process; it sleeps between cases
    outcomes = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory(prefix="memjax_hostile_") as scratch:
        top = pathlib.Path(scratch)
        os.environ["MEMJAX_CACHE"] = str(top / "case" / "cache")  # where decoded pictures go
        canary, ran = top / "canary", small_run(top / "ran")
        for what, action in fields(cases, top):
            judge(outcomes["field of the config"], what, action, top / "case", canary)
        kinds = ("npz", "folder", "csv", "parquet", "decisions", "run")
        for number in range(files):
            kind = kinds[number % len(kinds)]
            draw = random.Random(f"{seed} {kind} {number}")
            shutil.rmtree(top / "case", ignore_errors=True)
            (top / "case").mkdir()
            what, action = hostile_file(kind, top / "case", draw, canary, ran)
            judge(outcomes[kind], f"{kind}: {what}", action, top / "case", canary)
        outcomes["command line"] = commands(lines, top, random.Random(seed), ran)
    for kind, counts in outcomes.items():
        words = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
        print(f"| {kind} | {sum(counts.values())} | {words} |", flush=True)
    return sum(counts["FAILED"] for counts in outcomes.values())


def judge(counts, what, action, folder, canary):
    """Runs a case and counts what happened."""
    folder.mkdir(exist_ok=True)
    try:
        counts[outcome(action, folder, canary)] += 1
    except AssertionError as error:
        counts["FAILED"] += 1
        print(f"{what}: {error}", flush=True)


def main():
    """Runs the campaign; exit code 1 if anything was not good."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--lines", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    given_ = parser.parse_args()
    raise SystemExit(bool(campaign(given_.cases, given_.files, given_.lines, given_.seed)))


if __name__ == "__main__":
    main()
