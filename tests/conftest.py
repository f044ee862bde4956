"""Settings that every test shares."""

import atexit
import os
import shutil
import tempfile

from tests.command_line import QUICK_TO_COMPILE

# All processes of the tests compile much the same programs: once is enough. The first process, from
# which the others have their environment, makes the folder and deletes it.
if "MEMJAX_TEST_CACHE" not in os.environ:
    os.environ["MEMJAX_TEST_CACHE"] = tempfile.mkdtemp(prefix="memjax_test_cache_")
    atexit.register(shutil.rmtree, os.environ["MEMJAX_TEST_CACHE"], ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["MEMJAX_TEST_CACHE"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Before JAX starts: four CPU devices in one process, so that sharding is tested wherever the tests
# run, and programs compiled in half the time, for the tests run each of them only once or twice.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        QUICK_TO_COMPILE,
    ]
)

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile(
    "memjax",
    deadline=None,  # the first example of a shape compiles
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("memjax")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Each compiled program holds memory maps, of which a process may have only so many."""
    yield
    jax.clear_caches()
