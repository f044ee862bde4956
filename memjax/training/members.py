"""One program for all members: a function of one network, run over a leading member axis."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from memjax.runtime.mesh import DATA, MEMBER


def map_members(fn: Callable[..., Any], members_per_chunk: int, *mapped: Any) -> Any:
    """Applies `fn` to each member.

    Args:
      fn: of one member's pytrees.
      members_per_chunk: members that run side by side (vmap); chunks follow each other (lax.map).
      *mapped: pytrees whose leaves have a leading member axis.

    Returns:
      What fn returns, with a leading member axis.
    """
    num_members = jax.tree.leaves(mapped)[0].shape[0]
    if num_members == 1:
        one = fn(*jax.tree.map(lambda leaf: leaf[0], mapped))
        return jax.tree.map(lambda leaf: leaf[None], one)
    if members_per_chunk >= num_members:
        return jax.vmap(fn)(*mapped)
    batch_size = members_per_chunk if members_per_chunk > 1 else None
    return jax.lax.map(lambda member: fn(*member), mapped, batch_size=batch_size)


def shard_members(fn: Callable[..., Any], mesh: Mesh, num_mapped: int) -> Callable[..., Any]:
    """Returns fn with its first `num_mapped` arguments and its result split over `member`.

    The other arguments are whole on every device; each device works on its own members, and
    nothing is sent between them.
    """
    if mesh.shape[MEMBER] == 1:
        return fn

    def sharded(*args: Any) -> Any:
        specs = tuple(P(MEMBER) if i < num_mapped else P() for i in range(len(args)))
        return jax.shard_map(
            fn, mesh=mesh, in_specs=specs, out_specs=P(MEMBER), axis_names={MEMBER}, check_vma=False
        )(*args)

    return sharded


def split_batch(mesh: Mesh, tree: Any) -> Any:
    """Constrains leading axes (the examples of a batch) to be split over `data`."""
    if mesh.shape[DATA] == 1:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, P(DATA)), tree)
