"""Who is trained: the members of a group as arrays, and where they stand on the devices.

A group is one run, or many points of a sweep that one program trains. The images are on the devices
once; a member has its own rows, labels and masks, and its Gaussian inputs are drawn from key and
index where they are used, unless all members have the same. Points that take other parts of one
source have their parts there one behind the other.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from memjax.config import Config, flatten
from memjax.corruption_kinds import parse_kinds
from memjax.data.corruption import gaussian_image
from memjax.data.dataset import Dataset
from memjax.data.pixels import noise_moments
from memjax.runtime.mesh import place, place_images, replicated, split_batch, take_rows
from memjax.training.setup import Setup, member_subsets
from memjax.training.step import Network, unit_pixels


class Part(NamedTuple):
    """A member's part of the joined data; each leaf has a leading member axis.

    Attributes:
      first: int32 [members], its first row among the training images.
      first_validation: int32 [members], its first row among the validation images.
      mean: float32 [members ...], taken off its pixels.
      std: float32 [members ...], its pixels are divided by it.
      noise_mean: float32 [members ...], of its Gaussian inputs, broadcasts to one image.
      noise_std: float32 [members ...], likewise.
    """

    first: Any
    first_validation: Any
    mean: Any
    std: Any
    noise_mean: Any
    noise_std: Any


class Members(NamedTuple):
    """What differs from member to member; each leaf has a leading member axis.

    Attributes:
      seeds: int32 [members].
      rows: int32 [members n], the member's examples among the shared images.
      labels: int32 [members n], trained on.
      is_corrupted: bool [members n].
      is_noise: bool [members n], where the input is Gaussian noise to be drawn; None if nowhere.
      noise_seeds: int32 [members], of the corruption.
      values: traced fields of the config, float32 [members] each.
      part: where the points have parts of the source of their own; None if all have the same.
    """

    seeds: Any
    rows: Any
    labels: Any
    is_corrupted: Any
    is_noise: Any | None
    noise_seeds: Any
    values: dict[str, Any]
    part: Part | None = None


class Images(NamedTuple):
    """What all members draw their examples from.

    Attributes:
      images: [n height width channels], as stored; whole on every device, or split over `data`.
      labels: int32 [n], the true ones.
      noise_mean: float32, of the Gaussian inputs, broadcasts to one image.
      noise_std: float32, likewise.
    """

    images: Any
    labels: Any
    noise_mean: Any
    noise_std: Any


def have_common_inputs(configs: Sequence[Config]) -> bool:
    """Whether all points have the same training images, so that noise is made once, on the host."""

    def key(config: Config) -> tuple[Any, ...]:
        kinds = set(parse_kinds(config.corruption.kind))
        kinds &= {"random_inputs", "shuffled_pixels", "shuffled_pixels_each", "removed"}
        chosen = (config.corruption.fraction, config.corruption.seed) if kinds else ()
        return (config.dataset.seed, *sorted(kinds), *chosen)

    return len({key(config) for config in configs}) == 1


def point_members(setup: Setup, traced: Sequence[str], common: bool) -> Members:
    """Returns the members of one point, on the host.

    Args:
      setup: of the point.
      traced: fields that the program takes as arguments.
      common: whether the group has common inputs: rows are then among the point's examples, else
        in the source's training split.
    """
    examples, size = setup.examples, setup.config.ensemble.size
    subsets = np.asarray(member_subsets(setup))
    is_corrupted = examples.is_corrupted[subsets]
    rows, is_noise = subsets, None
    if not common:
        order = np.argsort(setup.dataset.train.index)
        found = np.searchsorted(setup.dataset.train.index, examples.index, sorter=order)
        rows = order[found].astype(np.int32)[subsets]
        uses_noise = "random_inputs" in parse_kinds(setup.config.corruption.kind)
        is_noise = examples.is_chosen[subsets] & uses_noise
    flat = flatten(setup.config.as_dict())
    return Members(
        seeds=np.asarray(setup.seeds),
        rows=rows,
        labels=examples.labels[subsets],
        is_corrupted=is_corrupted,
        is_noise=is_noise,
        noise_seeds=np.full(size, setup.config.corruption.seed, np.int32),
        values={name: np.full(size, flat[name], np.float32) for name in traced},
    )


def group_members(setups: Sequence[Setup], traced: Sequence[str], common: bool) -> Members:
    """Returns the members of a group on the host, point after point.

    Args:
      setups: of the points.
      traced: as in `point_members`.
      common: likewise.
    """
    parts = [point_members(setup, traced, common) for setup in setups]
    datasets = _datasets(setups)
    if len(datasets) > 1:
        places = {id(dataset): place for place, dataset in enumerate(datasets)}
        train = np.cumsum([0, *(len(dataset.train) for dataset in datasets)])
        validation = np.cumsum([0, *(len(dataset.validation) for dataset in datasets)])
        of = setups[0].config.corruption.noise_moments
        noise = [noise_moments(dataset.train.images, of) for dataset in datasets]
        for point, setup in enumerate(setups):
            place = places[id(setup.dataset)]
            moments = setup.network.mean, setup.network.std, *noise[place]
            size = len(parts[point].seeds)
            own = Part(
                *(np.full(size, firsts[place], np.int32) for firsts in (train, validation)),
                *(np.stack([np.asarray(moment, np.float32)] * size) for moment in moments),
            )
            rows = parts[point].rows + np.int32(train[place])
            parts[point] = parts[point]._replace(rows=rows, part=own)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _datasets(setups: Sequence[Setup]) -> list[Dataset]:
    """Returns the data sets of some points, each once."""
    return list({id(setup.dataset): setup.dataset for setup in setups}.values())


def group_images(setups: Sequence[Setup], common: bool, mesh: Mesh) -> Images:
    """Returns the training images of a group on its devices."""
    setup = setups[0]
    trains, examples = [dataset.train for dataset in _datasets(setups)], setup.examples
    # Shuffled ones are made on the host, equal in a group.
    if common or "shuffled" in setup.config.corruption.kind:
        images = examples.images
    else:
        images = _joined([train.images for train in trains])
    labels = examples.true_labels if common else _joined([train.true_labels for train in trains])
    # Noise is made on the host, or by members that have moments of their own, or here.
    has_own = common or len(trains) > 1
    of = setup.config.corruption.noise_moments
    moments = (0.0, 1.0) if has_own else noise_moments(trains[0].images, of)
    return place_split(images, labels, mesh, setup.images_are_split, moments)


def validation_images(setups: Sequence[Setup], mesh: Mesh) -> Images:
    """Returns the validation images of a group on its devices."""
    splits = [dataset.validation for dataset in _datasets(setups)]
    images = _joined([split.images for split in splits])
    labels = _joined([split.labels for split in splits])
    return place_split(images, labels, mesh, setups[0].images_are_split)


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def own_network(network: Network, member: Members | None) -> Network:
    """Returns the network with a member's own moments, where it has some."""
    if member is None or member.part is None:
        return network
    return network._replace(mean=member.part.mean, std=member.part.std)


def place_split(
    images: np.ndarray, labels: np.ndarray, mesh: Mesh, is_split: bool, moments: Any = (0.0, 1.0)
) -> Images:
    """Returns images and labels on the devices, the images split over `data` or whole."""
    rest = place((labels, *(np.float32(m) for m in moments)), replicated(mesh))
    return Images(place_images(mesh, images, is_split), *rest)


def images_at(mesh: Mesh, is_split: bool, data: Images, index: jax.Array) -> jax.Array:
    """Returns the rows `index` of the images, as stored, split over `data` as a batch is."""
    if is_split:
        return take_rows(mesh, data.images, index)
    return data.images[split_batch(mesh, index)]


def member_examples(
    mesh: Mesh, is_split: bool, data: Images, member: Members, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the examples at some positions among a member's own.

    Args:
      mesh: the devices.
      is_split: whether the images are split over `data`.
      data: the images.
      member: one member, without the leading axis.
      rows: int32 [batch].

    Returns:
      images: [batch height width channels], as stored; float32 if some member has noise drawn.
      labels: int32 [batch].
    """
    rows = rows if is_split else split_batch(mesh, rows)
    index, labels = member.rows[rows], split_batch(mesh, member.labels[rows])
    images = images_at(mesh, is_split, data, index)
    if member.is_noise is None:
        return images, labels
    images, is_noise = unit_pixels(images), member.is_noise[rows]

    def with_noise() -> jax.Array:
        key, part = jax.random.key(member.noise_seeds), member.part
        moments = (data.noise_mean, data.noise_std)
        positions = index
        if part is not None:
            moments, positions = (part.noise_mean, part.noise_std), index - part.first

        def draw(position: jax.Array) -> jax.Array:
            return gaussian_image(key, position, images.shape[1:], *moments)

        return jax.vmap(jnp.where)(is_noise, jax.vmap(draw)(positions), images)

    return jax.lax.cond(jnp.any(is_noise), with_noise, lambda: images), labels


def arrange(
    alive: Sequence[int], ended: Sequence[int], num_devices: int, places_per_device: int
) -> np.ndarray:
    """Returns which member stands where: those alive in front on every device, then the others.

    Args:
      alive: members that are still training; at least one.
      ended: members whose states are kept.
      num_devices: that share them.
      places_per_device: enough for all.

    Returns:
      int [num_devices * places_per_device]; copies of the first one alive fill empty places.

    Example:
      >>> arrange([3, 5, 8], [4], num_devices=2, places_per_device=3).reshape(2, 3).tolist()
      [[3, 5, 4], [8, 3, 3]]
    """
    grid = np.full((num_devices, places_per_device), alive[0])
    is_empty = np.ones(grid.shape, bool)
    for device, part in enumerate(np.array_split(np.asarray(alive), num_devices)):
        grid[device, : len(part)], is_empty[device, : len(part)] = part, False
    free = np.flatnonzero(is_empty)[: len(ended)]
    grid.reshape(-1)[free] = ended
    return grid.reshape(-1)


def places_of(arrangement: np.ndarray, members: Sequence[int]) -> np.ndarray:
    """Returns the first place of each member, int32."""
    _, first = np.unique(arrangement, return_index=True)
    found = np.searchsorted(arrangement[first], members)
    return first[found].astype(np.int32)
