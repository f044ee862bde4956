"""What a report ran on."""

import datetime
import importlib.metadata
import os
import platform

import jax

from memjax.version import __version__

PACKAGES = ("memjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "matplotlib")


def describe_environment() -> dict[str, str]:
    """Returns names and values: versions of packages, Python, machine, devices.

    Example:
      >>> describe_environment()["jax"] == jax.__version__
      True
    """
    devices = jax.devices()
    return {
        **{name: _version(name) for name in PACKAGES},
        "Python": platform.python_version(),
        "system": platform.platform(),
        "CPU cores": str(os.cpu_count()),
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{__version__} (not installed)" if name == "memjax" else "not installed"


def describe_making() -> str:
    """Returns when and on what something is made: '2026-11-26, memjax 1.0, jax 0.10.2, 1 x cpu'."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    there = describe_environment()
    words = (f"{name} {there[name]}" for name in ("memjax", "jax") if name in there)
    return ", ".join([day, *words, there["devices"]])
