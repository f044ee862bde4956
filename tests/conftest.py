"""Settings that every test shares."""

import os

# Four CPU devices in one process, before JAX starts: sharding is tested wherever the tests run.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
).strip()

import jax
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
