"""The members of a group as arrays, and where they stand on the devices."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from memjax.config import flatten
from memjax.data.dataset import Dataset, pixel_moments
from memjax.data.examples import Examples, parse_kinds
from memjax.sweeps.program import Members, SharedImages
from memjax.training.setup import Setup, member_subsets


def uses_noise(setup: Setup) -> bool:
    """Whether some inputs of the run are Gaussian."""
    return "random_inputs" in parse_kinds(setup.config.corruption.kind)


def point_members(setup: Setup, traced: Sequence[str], with_noise: bool) -> Members:
    """Returns the members of one point, on the host.

    Args:
      setup: of the point.
      traced: fields that the program takes as arguments.
      with_noise: whether some point of the group has Gaussian inputs.
    """
    examples, size = setup.examples, setup.config.ensemble.size
    subsets = np.asarray(member_subsets(setup))
    rows = _positions(setup.dataset, examples).astype(np.int32)[subsets]
    is_corrupted = examples.is_corrupted[subsets]
    is_noise = examples.is_chosen[subsets] if uses_noise(setup) else np.zeros_like(is_corrupted)
    flat = flatten(setup.config.as_dict())
    return Members(
        seeds=np.asarray(setup.seeds),
        rows=rows,
        labels=examples.labels[subsets],
        is_corrupted=is_corrupted,
        is_noise=is_noise if with_noise else None,
        noise_seeds=np.full(size, setup.config.corruption.seed, np.int32),
        values={name: np.full(size, flat[name], np.float32) for name in traced},
    )


def join_members(parts: Sequence[Members]) -> Members:
    """Returns the members of several points, one after the other."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def shared_images(setup: Setup) -> SharedImages:
    """Returns what the members of a group draw their examples from.

    Args:
      setup: of any of its points.
    """
    shuffled = any("shuffled" in kind for kind in parse_kinds(setup.config.corruption.kind))
    images = setup.examples.images if shuffled else setup.dataset.train.images
    mean, std = pixel_moments(setup.dataset.train.images, per_channel=False)
    return SharedImages(jnp.asarray(images), jnp.asarray(mean), jnp.asarray(std))


def _positions(dataset: Dataset, examples: Examples) -> np.ndarray:
    """Returns where the examples stand in the training split; removal leaves some out."""
    order = np.argsort(dataset.train.index)
    return order[np.searchsorted(dataset.train.index, examples.index, sorter=order)]


def arrange(alive: Sequence[int], num_devices: int, places_per_device: int) -> np.ndarray:
    """Returns which member stands where: those alive in front, dealt out over the devices.

    Args:
      alive: members that are still training; at least one.
      num_devices: that share them.
      places_per_device: enough for them.

    Returns:
      int [num_devices * places_per_device]; the first of `alive` also fills the empty places.

    Example:
      >>> arrange([3, 5, 8], num_devices=2, places_per_device=3).reshape(2, 3).tolist()
      [[3, 8, 3], [5, 3, 3]]
    """
    grid = np.full((num_devices, places_per_device), alive[0])
    for turn, member in enumerate(alive):
        grid[turn % num_devices, turn // num_devices] = member
    return grid.reshape(-1)


def places_of(arrangement: np.ndarray, members: Sequence[int]) -> np.ndarray:
    """Returns the first place of each member, int32."""
    return np.array([np.flatnonzero(arrangement == member)[0] for member in members], np.int32)
