"""The same bits at every run: what XLA must be told for it on a GPU, before JAX begins.

On CPU and TPU nothing is to be told. On GPU, XLA by default adds up with atomics (scatter-add, the
backward pass of a gather) and picks kernels by timing them, so that two runs differ in their last
bits, and training makes them differ in more. The flags below exclude both. They cost speed: a
scatter is done one after the other, and a kernel that was not timed may not be the fastest.
"""

import os
from collections.abc import MutableMapping

# XLA's own names and words, xla/debug_options_flags.cc. CPU and TPU know them and do not care.
FLAGS = {
    # No operation whose result depends on the order of its threads, and no such kernel chosen.
    "--xla_gpu_exclude_nondeterministic_ops": "true",
    # Kernels are chosen by rule and not by the clock.
    "--xla_gpu_autotune_level": "0",
}


def deterministic_kernels(
    wanted: bool, environment: MutableMapping[str, str] = os.environ
) -> dict[str, str]:
    """Adds to XLA_FLAGS what makes GPUs deterministic; to be called before JAX looks for devices.

    Args:
      wanted: `config.run.deterministic`.
      environment: of this process; what the user has in XLA_FLAGS stays.

    Returns:
      The flags that were added.

    Example:
      >>> environment = {"XLA_FLAGS": "--xla_gpu_autotune_level=2"}
      >>> deterministic_kernels(True, environment)
      {'--xla_gpu_exclude_nondeterministic_ops': 'true'}
      >>> environment["XLA_FLAGS"]
      '--xla_gpu_autotune_level=2 --xla_gpu_exclude_nondeterministic_ops=true'
    """
    there = environment.get("XLA_FLAGS", "").split()
    known = {flag.partition("=")[0] for flag in there}
    added = {name: value for name, value in FLAGS.items() if wanted and name not in known}
    if added:
        words = [f"{name}={value}" for name, value in added.items()]
        environment["XLA_FLAGS"] = " ".join([*there, *words])
    return added
