"""Examples that are there twice: to the bit, or nearly so."""

import hashlib
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

_COMPONENTS = 64
_NEAR = 0.15  # of the usual distance to the nearest other example


class Duplicates(NamedTuple):
    """Groups of examples that are the same.

    Attributes:
      exact: int [n], number of the group of identical examples; -1 where there is no other.
      near: int [n], the nearest example where that is a near duplicate (identical ones too); -1.
      distance: float [n], to the nearest other example, in units of the usual such distance.
    """

    exact: np.ndarray
    near: np.ndarray
    distance: np.ndarray


def find_duplicates(images: np.ndarray, seed: int = 0) -> Duplicates:
    """Returns which examples are there more than once.

    Near duplicates are closer than .15 of the median distance of an example to its nearest
    neighbour, in the leading 64 principal components of the pixels (Euclidean distance).

    Args:
      images: [n ...], pixels or features; training and validation examples together show leakage.
      seed: of the principal components.

    Example:
      >>> images = np.random.default_rng(0).random((50, 8))
      >>> find_duplicates(np.concatenate([images, images[:1]])).exact[[0, 1, 50]].tolist()
      [0, -1, 0]
    """
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    components = min(_COMPONENTS, *flat.shape)
    reduced = PCA(components, random_state=seed).fit_transform(flat.astype(np.float32))
    neighbors = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(reduced)
    distances, indices = neighbors.kneighbors(reduced)
    own = np.arange(len(flat))
    # The nearest of all is the example itself, or one that is identical to it.
    first_is_own = indices[:, 0] == own
    nearest = np.where(first_is_own, indices[:, 1], indices[:, 0])
    distance = np.where(first_is_own, distances[:, 1], distances[:, 0])
    usual = np.median(distance[distance > 0]) if (distance > 0).any() else 1.0
    exact = _groups([hashlib.blake2b(row.data, digest_size=16).digest() for row in flat])
    relative = np.where(exact >= 0, 0.0, distance / usual)
    return Duplicates(exact, np.where(relative < _NEAR, nearest, -1), relative)


def _groups(keys: list[bytes]) -> np.ndarray:
    """Returns the number of each key's group, by first appearance; -1 for a key that is alone."""
    members: dict[bytes, list[int]] = {}
    for place, key in enumerate(keys):
        members.setdefault(key, []).append(place)
    groups = np.full(len(keys), -1)
    for number, places in enumerate(p for p in members.values() if len(p) > 1):
        groups[places] = number
    return groups
