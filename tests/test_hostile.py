"""A short version of the campaign of tests/hostile.py; docs/reliability.md has a longer one."""

import os
import subprocess
import sys

import pytest

from tests import command_line

pytestmark = pytest.mark.campaign


def test_bad_input_is_one_line_and_nothing_is_written_or_run():
    # In a process of its own: what watches the files that are opened stays for its life.
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile", "--cases=100", "--files=36", "--lines=3"],
        cwd=command_line.ROOT,
        env=command_line.environment(JAX_COMPILATION_CACHE_DIR=os.environ["MEMJAX_TEST_CACHE"]),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| field of the config | 100 |" in done.stdout
