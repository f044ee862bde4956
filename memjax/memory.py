"""How much memory one computation may take: the one place where that is decided."""

import os

import jax
from etils import epath

# More at once is not faster on a CPU, where a microbatch that outgrows the caches is slower
# (benchmarks/gradients.py).
_CPU_WORKING_BYTES = 2**27


def memory_budget(device: jax.Device | None = None, lasting: bool = False) -> int:
    """Returns the bytes that what is computed at once may take: half of the memory there is.

    Args:
      device: by default the one that JAX computes on.
      lasting: for what a job that is taken up again must decide as it did before: of a host,
        then, half of all its memory, whatever of it is free now.

    Returns:
      Of a device with a memory of its own half of that; else half of what is free on the host,
      within the limit of its container.

    Example:
      >>> memory_budget() > 0
      True
    """
    device = jax.local_devices()[0] if device is None else device
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] // 2
    if lasting:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return _free_on_host() // 2


def working_bytes(device: jax.Device | None = None) -> int:
    """Returns the bytes that one microbatch of examples should take.

    An eighth of the budget: arguments, results, and what the compiler keeps beside what was counted
    need the rest. On a CPU at most what is quick there.
    """
    device = jax.local_devices()[0] if device is None else device
    share = memory_budget(device) // 8
    return min(share, _CPU_WORKING_BYTES) if device.platform == "cpu" else share


def _free_on_host() -> int:
    """Returns the bytes that can be taken without swapping."""
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")]
    meminfo = epath.Path("/proc/meminfo")
    if meminfo.exists():  # here what only caches files counts as free
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = [int(fields["MemAvailable"].split()[0]) * 1024]
    group = epath.Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (group / "memory.current").exists():
        limit = (group / "memory.max").read_text().strip()
        if limit.isdigit():
            free.append(max(0, int(limit) - int((group / "memory.current").read_text())))
    return min(free)
