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
from memjax.keys import tagged

__all__ = [
    "Bounds",
    "Lass",
    "critical_bounds",
    "critical_bounds_over_radii",
    "critical_sample_ratio",
    "lass",
    "pgd",
]


_PGD_STEPS = 40
_REFINED_GROUP = 64  # Fixed, so that microbatch_size changes no result.


class Bounds(NamedTuple):
    """Two bounds of whether each image is critical; lower implies upper.

    Attributes:
      lower: [n] bool, a point of another predicted class was found.
      upper: [n] bool, not certified to be safe.
    """

    lower: jax.Array
    upper: jax.Array


class _Plan(NamedTuple):
    is_affine: bool
    refine_up_to: int
    max_steps: int
    num_starts: int
    microbatch_size: int


@functools.partial(jax.jit, static_argnames=("logits_fn", "sharding", "refine_up_to"))
def _certified_batch(logits_fn, sharding, refine_up_to, params, problem, index):
    """Certifies examples `index` [b], their boxes rounded outwards."""
    images, logits = search.take((problem.images, problem.logits), index, sharding)
    lower = jnp.nextafter(images - problem.radius, -jnp.inf)
    upper = jnp.nextafter(images + problem.radius, jnp.inf)
    if problem.clip is not None:
        lower, upper = jnp.maximum(lower, problem.clip[0]), jnp.minimum(upper, problem.clip[1])
    labels = logits.argmax(-1)
    return interval.certified(logits_fn, params, lower, upper, labels, refine_up_to)


def _certified(logits_fn, params, problem, microbatch_size, refine_up_to, is_candidate):
    """Returns which of the candidates [n] are certified to be safe, [n]."""
    num_examples, dtype = len(is_candidate), problem.images.dtype
    candidates = np.flatnonzero(is_candidate).astype(np.int32)
    sharding, shards = search.slot_sharding(problem.images)
    if refine_up_to:
        # The surest first: where a whole group of them fails, the others would be work for nothing.
        ranked = np.sort(np.asarray(problem.logits), axis=-1)
        candidates = candidates[np.argsort(ranked[candidates, -2] - ranked[candidates, -1])]
        microbatch_size = _REFINED_GROUP
    size = search.batch_sizes(microbatch_size, shards, num_examples)[0]
    outer = np.nextafter(np.asarray(problem.radius, dtype), np.asarray(np.inf, dtype))
    problem = problem._replace(radius=outer)
    is_safe = np.zeros(num_examples + 1, bool)  # The last one is for padding.
    for index in search.padded_batches(candidates, num_examples, size):
        is_safe[index] = _certified_batch(logits_fn, sharding, refine_up_to, params, problem, index)
        if refine_up_to and not is_safe[index].any():
            break
    return is_safe[:num_examples]


def _bound_one_radius(key, logits_fns, params, problem, plan, is_safe, is_found):
    """Returns (is_safe, is_found) at the problem's radius, given both at all smaller radii."""
    logits_fn, search_logits_fn = logits_fns
    radius, dtype, num_others = problem.radius, problem.images.dtype, problem.logits.shape[1] - 1
    lass_key, pgd_key = tagged(key, "lass"), tagged(key, "pgd")
    certified = functools.partial(_certified, logits_fn, params, problem, plan.microbatch_size)

    def found(key, attack, settings, max_steps):
        candidates = np.flatnonzero(~is_safe & ~is_found)
        result = search.run_attack(
            key, attack, search_logits_fn, params, problem, settings, max_steps, candidates,
            plan.microbatch_size,
        )  # fmt: skip
        return np.asarray(result.is_critical)

    if plan.is_affine:  # Its corners decide it.
        is_safe = np.zeros_like(is_safe)
        is_found = is_found | found(key, attacks.CORNERS, (), num_others)
        return ~is_found, is_found
    may_be_safe = is_safe
    is_safe = certified(0, may_be_safe)
    is_found = is_found | found(key, attacks.CORNERS, (), min(3, num_others))
    if plan.refine_up_to:
        is_safe = is_safe | certified(plan.refine_up_to, may_be_safe & ~is_safe & ~is_found)
    lass_settings = attacks.lass_settings(radius, None, None, dtype)
    is_found = is_found | found(lass_key, attacks.LASS, lass_settings, plan.max_steps)
    pgd_settings = attacks.pgd_settings(radius, None, _PGD_STEPS, False, dtype)
    is_found = is_found | found(pgd_key, attacks.PGD, pgd_settings, _PGD_STEPS * plan.num_starts)
    return is_safe, is_found


def critical_bounds_over_radii(
    key: jax.Array,
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    radii: Sequence[float],
    *,
    max_steps: int = 100,
    num_starts: int = 1,
    refine_up_to: int = 512,
    clip: tuple[float, float] | None = None,
    microbatch_size: int = 512,
    search_logits_fn: LogitsFn | None = None,
) -> Bounds:
    """Bounds of which images are critical, at several radii that share their work.

    From the smallest radius up: what was found is critical at every larger radius, and what could
    not be certified is only searched from then on. So both bounds grow with the radius. See
    `critical_bounds`.

    Args:
      key: typed key.
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode; one image's logits
        depend on that image alone.
      params: the network's parameters, any pytree of arrays.
      images: [n ...], float, for memjax's networks in [0, 1].
      radii: max-norm radii in any order, in the units of `images`.
      max_steps: of LASS, per example and radius.
      num_starts: of PGD, 40 steps each.
      refine_up_to: ReLU layers of at most so many units are bounded unit by unit where intervals do
        not suffice, two backward passes a unit, for the most confident examples first and until
        a group of 64 gains nothing; 0: never.
      clip: (lowest, highest) valid pixel, which the box is cut to, or None.
      microbatch_size: how many examples advance at once; changes no result.
      search_logits_fn: the same network computed another way, equal to rounding, for the searches,
        which differentiate it; None is `logits_fn`, which the certificates read.

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
    search_logits_fn = search_logits_fn or logits_fn
    problem = search.make_problem(search_logits_fn, params, images, radii[0], clip, microbatch_size)
    plan = _Plan(
        interval.is_affine(logits_fn, params, problem.images),
        refine_up_to if interval.is_refinable(logits_fn, params, images, refine_up_to) else 0,
        max_steps, num_starts, microbatch_size,
    )  # fmt: skip
    num_examples = problem.images.shape[0]
    lower, upper = np.zeros((2, len(radii), num_examples), bool)
    is_safe, is_found = np.ones(num_examples, bool), np.zeros(num_examples, bool)
    for k in np.argsort(np.asarray(radii, float)):
        if radii[k] > 0:
            is_safe, is_found = _bound_one_radius(
                key, (logits_fn, search_logits_fn), params, problem._replace(radius=radii[k]), plan,
                is_safe, is_found,
            )  # fmt: skip
        lower[k], upper[k] = is_found, ~is_safe
    return Bounds(jnp.asarray(lower), jnp.asarray(upper))


def critical_bounds(
    key: jax.Array,
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    radius: float,
    *,
    max_steps: int = 100,
    num_starts: int = 1,
    refine_up_to: int = 512,
    clip: tuple[float, float] | None = None,
    microbatch_size: int = 512,
) -> Bounds:
    """Bounds of which images are critical: found by a search, and not certified to be safe.

    What interval propagation does not certify is searched, each search on what is left: the corners
    of the box towards the most likely other classes, then, after a second and tighter certificate
    (CROWN, for ReLU networks with small layers), LASS and PGD. An affine network is decided
    exactly, up to float ties: x is critical iff for some j the distance
    (z_i - z_j) / ||w_i - w_j||_1 is less than the radius, and lower equals upper.

    Args:
      key: typed key.
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode; one image's logits
        depend on that image alone.
      params: the network's parameters, any pytree of arrays.
      images: [n ...], float, for memjax's networks in [0, 1].
      radius: max-norm radius of the box, in the units of `images`; at 0 nothing is critical.
      max_steps: of LASS, per example.
      num_starts: of PGD, 40 steps each.
      refine_up_to: ReLU layers of at most so many units are bounded unit by unit where intervals do
        not suffice, two backward passes a unit, for the most confident examples first and until
        a group of 64 gains nothing; 0: never.
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
        refine_up_to=refine_up_to, clip=clip, microbatch_size=microbatch_size,
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
