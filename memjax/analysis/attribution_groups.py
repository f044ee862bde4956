"""How many networks, or queries about one network, are computed together."""

import math
from typing import Any

import jax

from memjax import memory
from memjax.analysis._unrolled import sensitivity_inputs as inputs
from memjax.analysis.attribution_run import Problem

# On a CPU what one step needs of about so many bytes of parameters stays in the cache.
_CPU_CACHE_BYTES = 2**22
_LEAST_ON_CPU = 8


def group_size(
    problem: Problem, count: int, chunk_size: int | None, name: str = "chunk_size"
) -> int:
    """Returns the members of a group, evened out so that the last one is not a small one.

    Args:
      problem: the training.
      count: members in all.
      chunk_size: the most on each device; None for as many as are quick.
      name: of that argument, for the message.
    """
    num_devices = problem.training.program.num_devices
    on_cpu = jax.default_backend() == "cpu"
    most_bytes = _CPU_CACHE_BYTES if on_cpu else memory.working_bytes()
    automatic = max(_LEAST_ON_CPU, most_bytes // inputs.num_bytes(problem.start.params))
    most = inputs.positive(name, chunk_size, automatic)
    num_groups = math.ceil(count / (most * num_devices))
    return math.ceil(count / (num_groups * num_devices)) * num_devices


def transposed(tree: Any) -> Any:
    """Returns the tree with its matrices transposed, its own inverse.

    Adjoints (and members) are kept as [queries out in] where the network has a matrix [in out]: XLA
    gives gradients in that order, and products with all queries are one large matrix product.
    """
    return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, tree)
