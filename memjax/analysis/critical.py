"""Critical samples: which images have a point of another predicted class nearby.

Arpit et al. 2017, section 4.1: x is critical at radius r where some x' with max-norm distance at
most r has another predicted class; the critical sample ratio (CSR) is the share of critical
points. Predictions count, never labels. Every search gives a lower bound, interval propagation an
upper one.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis import attacks, interval, search
from memjax.analysis.attacks import lass, pgd
from memjax.analysis.search import Lass, LogitsFn
from memjax.errors import InputError

__all__ = [
    "Bounds",
    "Lass",
    "critical_bounds",
    "critical_bounds_over_radii",
    "critical_sample_ratio",
    "lass",
    "pgd",
]


class Bounds(NamedTuple):
    """Two bounds of whether each image is critical; lower implies upper.

    Attributes:
      lower: [n] bool, a point of another predicted class was found.
      upper: [n] bool, not certified to be safe.
    """

    lower: jax.Array
    upper: jax.Array


@functools.partial(jax.jit, static_argnames=("logits_fn", "sharding"))
def _certified(logits_fn, sharding, params, problem, index):
    """Certifies examples `index` [b], their boxes rounded outwards."""
    images, logits = search.take((problem.images, problem.logits), index, sharding)
    lower = jnp.nextafter(images - problem.radius, -jnp.inf)
    upper = jnp.nextafter(images + problem.radius, jnp.inf)
    if problem.clip is not None:
        lower, upper = jnp.maximum(lower, problem.clip[0]), jnp.minimum(upper, problem.clip[1])
    return interval.certified(logits_fn, params, lower, upper, logits.argmax(-1))


def _uncertified(logits_fn, params, problem, candidates, microbatch_size):
    """Returns those of `candidates` (indices) that interval propagation does not certify."""
    sharding, shards = search.slot_sharding(problem.images)
    size = search.batch_sizes(microbatch_size, shards, candidates.size)[0]
    dtype = problem.images.dtype
    outer = np.nextafter(np.asarray(problem.radius, dtype), np.asarray(np.inf, dtype))
    problem = problem._replace(radius=outer)
    is_safe = [
        np.asarray(_certified(logits_fn, sharding, params, problem, index))
        for index in search.padded_batches(candidates, problem.images.shape[0], size)
    ]
    return candidates[~np.concatenate([*is_safe, np.zeros(0, bool)])[: candidates.size]]


def _found(key, logits_fn, params, problem, is_affine, candidates, budget):
    """Returns those of `candidates` (indices) for which one of the searches succeeds."""
    max_steps, num_starts, microbatch_size = budget
    lass_key, pgd_key = jax.random.split(key)
    num_others = problem.logits.shape[1] - 1
    radius, dtype = problem.radius, problem.images.dtype
    searches = [(key, attacks.CORNERS, (), num_others if is_affine else min(3, num_others))]
    if not is_affine:
        pgd_settings = attacks.pgd_settings(radius, None, 40, False, dtype)
        searches += [
            (lass_key, attacks.LASS, attacks.lass_settings(radius, None, None, dtype), max_steps),
            (pgd_key, attacks.PGD, pgd_settings, 40 * num_starts),
        ]
    unfound = candidates
    for search_key, attack, settings, num_steps in searches:
        result = search.run_attack(
            search_key, attack, logits_fn, params, problem, settings, num_steps, unfound,
            microbatch_size,
        )  # fmt: skip
        unfound = unfound[~np.asarray(result.is_critical)[unfound]]
    return np.setdiff1d(candidates, unfound, assume_unique=True)


def critical_bounds_over_radii(
    key: jax.Array,
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    radii: Sequence[float],
    *,
    max_steps: int = 100,
    num_starts: int = 1,
    clip: tuple[float, float] | None = None,
    microbatch_size: int = 512,
) -> Bounds:
    """Bounds of which images are critical, at several radii that share their work.

    What is certified at a radius is safe at every smaller one, and what is found at a radius is
    critical at every larger one, so each radius looks only at what is still open, and both bounds
    grow with the radius. See `critical_bounds`.

    Args:
      key: typed key.
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode; one image's logits
        depend on that image alone.
      params: the network's parameters, any pytree of arrays.
      images: [n ...], float, for memjax's networks in [0, 1].
      radii: max-norm radii in any order, in the units of `images`.
      max_steps: of LASS, per example and radius.
      num_starts: of PGD, 40 steps each.
      clip: (lowest, highest) valid pixel, which the box is cut to, or None.
      microbatch_size: how many examples advance at once; changes no result.

    Returns:
      Bounds(lower [radii n], upper [radii n]), in the order of `radii`.

    Raises:
      InputError: images not float or outside `clip`; a radius negative or not finite.

    Example:
      >>> logits_fn = lambda params, images: jnp.tanh(images @ params)
      >>> images = jnp.array([[0.6, 0.5], [0.9, 0.1]])
      >>> bounds = critical_bounds_over_radii(
      ...     jax.random.key(0), logits_fn, jnp.eye(2), images, [0.1, 0.5])
      >>> bounds.lower.tolist()
      [[True, False], [True, True]]
    """
    if not len(radii):
        raise InputError("radii: empty, at least one radius is needed")
    for radius in radii:
        search.check_radius(radius)
    order = np.argsort(np.asarray(radii, float))
    problem = search.make_problem(logits_fn, params, images, radii[0], clip, microbatch_size)
    is_affine = interval.is_affine(logits_fn, params, problem.images)
    num_examples = problem.images.shape[0]
    lower, upper = np.zeros((2, len(radii), num_examples), bool)

    candidates = np.arange(num_examples)
    for k in order[::-1]:
        candidates = candidates if radii[k] > 0 else candidates[:0]
        if not is_affine:
            candidates = _uncertified(
                logits_fn, params, problem._replace(radius=radii[k]), candidates, microbatch_size
            )
        upper[k, candidates] = True
    budget = max_steps, num_starts, microbatch_size
    is_found = np.zeros(num_examples, bool)
    for k in order:
        candidates = np.flatnonzero(upper[k] & ~is_found)
        at_radius = problem._replace(radius=radii[k])
        is_found[_found(key, logits_fn, params, at_radius, is_affine, candidates, budget)] = True
        lower[k] = is_found
    # The corners of the box decide an affine network, so that both bounds are their answer.
    return Bounds(jnp.asarray(lower), jnp.asarray(lower if is_affine else upper))


def critical_bounds(
    key: jax.Array,
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    radius: float,
    *,
    max_steps: int = 100,
    num_starts: int = 1,
    clip: tuple[float, float] | None = None,
    microbatch_size: int = 512,
) -> Bounds:
    """Bounds of which images are critical: found by a search, and not certified to be safe.

    Interval propagation first certifies what it can. The rest is searched: the corners of the box
    towards the most likely other classes, then LASS, then PGD, each on what the ones before left.
    An affine network is decided exactly, up to float ties: x is critical iff for some j the
    distance (z_i - z_j) / ||w_i - w_j||_1 is less than the radius, and lower equals upper.

    Args:
      key: typed key.
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode; one image's logits
        depend on that image alone.
      params: the network's parameters, any pytree of arrays.
      images: [n ...], float, for memjax's networks in [0, 1].
      radius: max-norm radius of the box, in the units of `images`; at 0 nothing is critical.
      max_steps: of LASS, per example.
      num_starts: of PGD, 40 steps each.
      clip: (lowest, highest) valid pixel, which the box is cut to, or None.
      microbatch_size: how many examples advance at once; changes no result.

    Returns:
      Bounds(lower [n], upper [n]).

    Raises:
      InputError: images not float or outside `clip`; radius negative or not finite.

    Example:
      >>> logits_fn = lambda params, images: images @ params
      >>> images = jnp.array([[0.6, 0.5], [0.9, 0.1]])
      >>> bounds = critical_bounds(jax.random.key(0), logits_fn, jnp.eye(2), images, 0.1)
      >>> bounds.lower.tolist(), bounds.upper.tolist()
      ([True, False], [True, False])
    """
    bounds = critical_bounds_over_radii(
        key, logits_fn, params, images, [radius], max_steps=max_steps, num_starts=num_starts,
        clip=clip, microbatch_size=microbatch_size,
    )  # fmt: skip
    return Bounds(bounds.lower[0], bounds.upper[0])


def critical_sample_ratio(is_critical: jax.Array) -> jax.Array:
    """Returns the critical sample ratio (CSR), the share of critical points.

    Args:
      is_critical: [... n] bool, as found by a search, or a bound.

    Returns:
      [...] float32, in [0, 1].

    Example:
      >>> critical_sample_ratio(jnp.array([True, False, False, False])).item()
      0.25
    """
    return jnp.asarray(is_critical).mean(-1, dtype=jnp.float32)
