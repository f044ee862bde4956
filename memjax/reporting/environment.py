"""What a report ran on."""

import importlib.metadata
import os
import platform

import jax

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
        return "run from its source folder, not installed"
