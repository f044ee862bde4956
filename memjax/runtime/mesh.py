"""Devices: the one place that knows of the mesh and of sharding.

Two axes: `member` splits the members of an ensemble, `data` the examples of a batch.
"""

import math

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from memjax.errors import InputError

MEMBER = "member"
DATA = "data"


def make_mesh(num_members: int = 1, num_devices: int = 0, member_devices: int = 0) -> Mesh:
    """Returns a mesh of [member_devices, num_devices / member_devices] devices.

    Args:
      num_members: how many networks train side by side.
      num_devices: devices to use; 0 means all.
      member_devices: size of the `member` axis; 0 means as many as divide both `num_members` and
        the number of devices, so that members need no communication.

    Raises:
      InputError: if there are fewer devices, or the sizes do not divide.
    """
    devices = jax.devices()
    num_devices = num_devices or len(devices)
    if num_devices > len(devices):
        raise InputError(
            f"config.run.num_devices={num_devices}: must be at most {len(devices)}, the "
            f"{devices[0].platform} devices of this machine"
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
