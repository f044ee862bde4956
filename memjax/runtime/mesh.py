"""Devices: the one place that knows of the mesh and of sharding.

Two axes: `member` splits the members of an ensemble, `data` the examples of a batch.
"""

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from memjax.errors import InputError

MEMBER = "member"
DATA = "data"


def make_mesh(
    num_members: int = 1,
    num_devices: int = 0,
    member_devices: int = 0,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Returns a mesh of [member_devices, num_devices / member_devices] devices.

    Args:
      num_members: how many networks train side by side.
      num_devices: devices to use; 0 means all.
      member_devices: size of the `member` axis; 0 means as many as divide both `num_members` and
        the number of devices, so that members need no communication.
      devices: to choose from; None: those of all processes of the run.

    Raises:
      InputError: if there are fewer devices, or the sizes do not divide.
    """
    devices = devices or jax.devices()
    num_devices = num_devices or len(devices)
    if num_devices > len(devices):
        raise InputError(
            f"config.run.num_devices={num_devices}: must be at most {len(devices)}, the "
            f"{devices[0].platform} devices of this machine"
        )
    if len({d.process_index for d in devices}) > len(
        {d.process_index for d in devices[:num_devices]}
    ):
        raise InputError(
            f"config.run.num_devices={num_devices}: must be 0, all {len(devices)} devices: every "
            f"one of the run's {jax.process_count()} processes takes part"
        )
    member_devices = member_devices or math.gcd(num_members, num_devices)
    if num_devices % member_devices or num_members % member_devices:
        raise InputError(
            f"config.run.member_devices={member_devices}: must divide both the {num_devices} "
            f"devices and the {num_members} members"
        )
    grid = np.asarray(devices[:num_devices]).reshape(member_devices, -1)
    return Mesh(grid, (MEMBER, DATA))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that puts a whole array on every device."""
    return NamedSharding(mesh, P())


def over_members(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the leading axis, one row a member, over `member`."""
    return NamedSharding(mesh, P(MEMBER))


def data_devices(mesh: Mesh) -> int:
    """Returns how many devices share a batch."""
    return mesh.shape[DATA]


def device_memory(mesh: Mesh) -> int:
    """Returns the bytes of memory that a device has for arrays; a CPU device its share of RAM."""
    device = mesh.local_devices[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return int(limit)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def splits_images(mesh: Mesh, num_bytes: int, placement: str, memory_share: float) -> bool:
    """Returns whether the images of a data set are split over `data`, not whole on every device.

    Args:
      mesh: the devices.
      num_bytes: of all images.
      placement: "replicated", "sharded", or "auto": split if they are larger than the share.
      memory_share: of a device's memory that whole images may take.
    """
    if data_devices(mesh) == 1 or placement == "replicated":
        return False
    return placement == "sharded" or num_bytes > memory_share * device_memory(mesh)


def place_images(mesh: Mesh, images: np.ndarray, is_split: bool) -> jax.Array:
    """Puts images on the devices; a process copies only what its own devices hold.

    Args:
      mesh: the devices.
      images: [n ...], the same in every process.
      is_split: True splits them over `data`, False puts all of them on every device.

    Returns:
      [n ...], or split: [m ...], with m the next multiple of the devices along `data`; the rows
      that fill up are zeros.
    """
    num_rows = len(images)
    if is_split:
        num_rows = -(-num_rows // data_devices(mesh)) * data_devices(mesh)
    sharding = NamedSharding(mesh, P(DATA)) if is_split else replicated(mesh)

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(num_rows)
        found = images[start:stop]
        missing = stop - start - len(found)
        return np.pad(found, ((0, missing), *((0, 0),) * (images.ndim - 1))) if missing else found

    return jax.make_array_from_callback((num_rows, *images.shape[1:]), sharding, part)


def take_rows(mesh: Mesh, images: jax.Array, rows: jax.Array) -> jax.Array:
    """Returns rows of images that are split over `data`, without putting them together anywhere.

    Each device takes the rows that it has, and zeros for the others; the sum over the devices is
    exact, and is itself split. A batch of bytes is sent, however large the data set.

    Args:
      mesh: the devices; inside a jitted function.
      images: [m ...] from `place_images`.
      rows: int32 [batch], a multiple of the devices along `data`, the same on all of them.

    Returns:
      [batch ...], split over `data`.
    """

    def on_device(own: jax.Array, rows: jax.Array) -> jax.Array:
        place = rows - jax.lax.axis_index(DATA) * own.shape[0]
        is_here = (place >= 0) & (place < own.shape[0])
        found = own[jnp.where(is_here, place, 0)]
        found = jnp.where(is_here.reshape(-1, *(1,) * (own.ndim - 1)), found, 0)
        return jax.lax.psum_scatter(found, DATA, scatter_dimension=0, tiled=True)

    # Inside another shard_map (over `member`) the mesh is that of the context.
    is_nested = bool(jax.sharding.get_abstract_mesh().manual_axes)
    take = functools.partial(
        jax.shard_map, in_specs=(P(DATA), P()), out_specs=P(DATA), axis_names={DATA}
    )
    return take(on_device, mesh=None if is_nested else mesh)(images, rows)


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Returns arrays, of which every process has the whole, laid out over the devices.

    A process copies what its own devices need, and nothing is sent between processes.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def place_leaf(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        read: Any = array.__getitem__
        return jax.make_array_from_callback(array.shape, sharding, read)

    return jax.tree.map(place_leaf, tree)


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
