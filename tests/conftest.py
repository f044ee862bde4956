"""Settings that every test shares."""

import os

# Four CPU devices in one process, before JAX starts: sharding is tested wherever the tests run.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
).strip()

import jax
from hypothesis import settings

jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile("memjax", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("memjax")
