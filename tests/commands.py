"""Every command of README and docs/ that any machine can run, run as it stands.

    python -m tests.commands                # from a clone, with memjax installed; about 20 minutes
    python -m tests.commands docs/labels.md

All run in one new folder, in which examples/ and configs/ are those of the clone, README first,
page after page. Left out, and counted: what installs, needs hardware, a cluster, a download or a
data set that is not embedded, benchmarks and campaigns. Exit code 1: one failed.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
LEFT_OUT = re.compile(
    r"^(pip|git|bash|sbatch|launch/|sky|docker|mkdir|MEMJAX_TEST_GPU)|python -m (benchmarks|tests)|"
    r"mnist|photos/|published\.npz|--sweep=configs/sweeps/capacity\.py (?!--dry_run)"
)
SECONDS = 900


def commands(page: pathlib.Path) -> list[str]:
    """The lines of a page's bash blocks, continued ones joined, without comments."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"(^|\s)#.*", "", line).strip()
            line = re.sub(r"^pip install \S+ && ", "", line)  # it is installed
            if line:
                found.append(line)
    return found


def main() -> None:
    """Runs the pages that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", help="of the clone; none: README.md and docs/*.md")
    given = parser.parse_args()
    pages = [ROOT / page for page in given.pages]
    pages = pages or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    failed, left_out, seen = [], 0, set()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("configs", "examples"):
            os.symlink(ROOT / name, pathlib.Path(folder) / name)
        path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for page in pages:
            for command in commands(page):
                if LEFT_OUT.search(command) or command == "pytest":
                    left_out += 1
                    continue
                if command in seen:
                    continue
                seen.add(command)
                began = time.monotonic()
                done = subprocess.run(
                    ["timeout", str(SECONDS), "bash", "-c", command], cwd=folder,
                    env=os.environ | {"PATH": path}, capture_output=True, text=True,
                )  # fmt: skip
                is_good = done.returncode == 0
                seconds = time.monotonic() - began
                print(f"{'ok' if is_good else 'FAILED':<7}{seconds:5.0f} s  {page.name}: {command}")
                if not is_good:
                    failed.append(command)
                    print((done.stdout + done.stderr)[-2000:])
                sys.stdout.flush()
    print(f"{len(seen) - len(failed)} commands ran, {len(failed)} failed, {left_out} left out")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
