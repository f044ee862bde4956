"""Runs benchmarks, and writes docs/benchmarks.md and its picture from all that were run.

    pip install '.[bench]'
    python -m benchmarks                       # all but the long ones, about 20 minutes on 2 cores
    python -m benchmarks train critical        # some; the rows of the others stay as they are
    python -m benchmarks --list
    python -m benchmarks --redraw              # the page again, from docs/benchmarks.json

Every benchmark compares the results of both sides before it times them, runs them in turn, and
reports the median of the paired ratios. One that fails is named, the others go on; exit code 1.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

from benchmarks.rows import FILE

ROOT = pathlib.Path(__file__).parent.parent
PAGE, STORE, PICTURE = (ROOT / "docs" / f"benchmarks.{end}" for end in ("md", "json", "png"))
# Name: title, arguments, whether it runs only when it is named.
BENCHMARKS = {
    "train": ("The train step", [], False),
    "sweeps": ("A hundred runs in one program", [], False),
    "convolution": ("The paper's CNN and its layers on CPU", [], False),
    "gradients": ("Per-example gradient norms", ["--seconds=8"], False),
    "sensitivity": ("Loss-sensitivity", [], False),
    "critical": ("Searches for critical samples", [], False),
    "scaling": ("What sharding costs", [], False),
    "memory": ("Memory over chunks", [], False),
    "attribution": ("Attribution", [], True),
    "audit": ("Wrong labels", ["--data=digits", "--seeds=3", "--out=audit.json"], True),
    "torch_resnet": ("ResNet-18 step by step beside torch", [], True),
    "torch_check": ("Figure 7's network trained by torch", [], True),
    "figure_costs": ("The paper's figures at full size, computed", [], True),
}
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "numpy", "torch", "foolbox", "opacus"),
    *("backpack-for-pytorch", "jax-privacy", "torchopt", "dattri", "traker", "cleanlab", "aum"),
)


def run(name: str) -> dict | None:
    """Runs one benchmark, its words shown as they come; returns what the page needs."""
    title, arguments, _ = BENCHMARKS[name]
    print(f"\n== {name}: {title}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = pathlib.Path(folder) / "rows"
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{name}", *arguments],
            cwd=ROOT, env=os.environ | {FILE: str(rows)}, text=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        lines = []
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.rstrip())
        if process.wait():
            print(f"benchmarks: {name}: exit code {process.returncode}", file=sys.stderr)
            return None
        recorded = rows.read_text().splitlines() if rows.exists() else []
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "machine": _machine(),
        "load": round(os.getloadavg()[2], 1),
        "seconds": round(time.monotonic() - began),
        "versions": _versions(),
        "command": " ".join(["python -m", f"benchmarks.{name}", *arguments]),
        "rows": [json.loads(line) for line in recorded],
        "output": lines,
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _machine() -> str:
    cpu = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return f"{cpu}, {os.cpu_count()} cores"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_page(store: dict[str, dict]) -> None:
    """Writes the page and the picture."""
    lines = [
        "# Benchmarks", "", "```bash", "pip install '.[bench]'", "python -m benchmarks", "```", "",
        "Written by that command. `times as fast` is the peer's time over ours, the median of "
        "pairs that run in turn in one process: below 1 the peer is faster, and it says so. Both "
        "sides' results are compared before anything is timed. A busy machine disturbs both sides "
        "of a pair alike, but not for long: the load beside a table is the machine's mean of the "
        "last quarter of an hour when it ended.",
        "",
        "![Times as fast as each peer, with a line at 1 and a tick at the target](benchmarks.png)",
    ]  # fmt: skip
    for name in BENCHMARKS:
        if name not in store:
            continue
        found = store[name]
        lines += ["", f"## {BENCHMARKS[name][0]}", "", "```bash", found["command"], "```", ""]
        if found["rows"]:
            lines += ["| what | beside | times as fast | target | |", "|---|---|---|---|---|"]
        for row in found["rows"]:
            ratio, target = row["times_faster"], row["target"]
            words = "ours is faster" if ratio > 1.05 else "equal within 5 %"
            words = "**the peer is faster**" if ratio < 0.95 else words
            missed = "; target missed" if target and ratio < target else ""
            aim = f"{target:.2g}" if target else ""
            lines.append(
                f"| {row['what']} | {row['peer']} | {ratio:.2f} | {aim} | {words}{missed} |"
            )
        versions = ", ".join(f"{name} {v}" for name, v in found["versions"].items())
        lines += [
            "", '??? note "All that it printed"', "",
            *(f"    {line}".rstrip() for line in ("```text", *found["output"], "```")), "",
            f"{found['date']}, commit {found['commit']}, {found['machine']}, load {found['load']}, "
            f"{found['seconds']} s; {versions}.",
        ]  # fmt: skip
    PAGE.write_text("\n".join(lines) + "\n")
    draw([(name, row) for name in store for row in store[name]["rows"]])


def draw(rows: list[tuple[str, dict]]) -> None:
    """Draws every ratio on a log axis."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    if not rows:
        return
    figure = Figure((8, 0.8 + 0.27 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (_, row) in enumerate(reversed(rows)):
        color = "tab:blue" if row["times_faster"] >= 1 else "tab:orange"
        axes.barh(place, row["times_faster"] - 1, left=1, color=color)
        axes.text(
            row["times_faster"], place, f" {row['times_faster']:.2g} ", va="center", fontsize=7,
            ha="left" if row["times_faster"] >= 1 else "right",
        )  # fmt: skip
        if row["target"]:
            axes.plot([row["target"]] * 2, [place - 0.4, place + 0.4], color="black")
    names = [f"{row['what']} / {row['peer']}" for _, row in reversed(rows)]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.5, high * 1.5)
    axes.axvline(1, color="0.3", linewidth=1)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_xlabel("times as fast as the peer\n(black: target; orange: the peer wins)")
    figure.savefig(PICTURE, dpi=130)


def main() -> None:
    """Runs what is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of benchmarks; none: all short")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--redraw", action="store_true")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"{unknown[0]!r}: no such benchmark; there are: {', '.join(BENCHMARKS)}")
    if given.list:
        for name, (title, _, is_long) in BENCHMARKS.items():
            print(f"{name:<14}{title}{' (only when named)' if is_long else ''}")
        return
    store = json.loads(STORE.read_text()) if STORE.exists() else {}
    short = [name for name, (_, _, is_long) in BENCHMARKS.items() if not is_long]
    failed = []
    for name in [] if given.redraw else given.names or short:
        found = run(name)
        if found is None:
            failed.append(name)
            continue
        store[name] = found
        store = {each: store[each] for each in BENCHMARKS if each in store}
        STORE.write_text(json.dumps(store, indent=1) + "\n")
        write_page(store)
    if given.redraw:
        write_page(store)
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
