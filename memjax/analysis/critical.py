"""Critical samples: which images have a point of another predicted class nearby.

Arpit et al. 2017, section 4.1: x is critical at radius r where some x' with max-norm distance at
most r has another predicted class; the critical sample ratio (CSR) is the share of critical
points. Predictions count, never labels. Every search gives a lower bound, interval propagation an
upper one.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis import interval
from memjax.analysis._arguments import check_key, check_number
from memjax.analysis._certificates.certificates import certify
from memjax.analysis._search import attacks, climbing, search
from memjax.analysis._search.attacks import Lass, lass, pgd
from memjax.analysis._search.search import Found
from memjax.analysis.critical_distance import CriticalRadius, critical_radius
from memjax.analysis.inputs import LogitsFn
from memjax.analysis.microbatch import check_size
from memjax.errors import InputError
from memjax.keys import tagged

__all__ = [
    "Bounds",
    "CriticalRadius",
    "Found",
    "Lass",
    "critical_bounds",
    "critical_bounds_over_radii",
    "critical_radius",
    "critical_sample_ratio",
    "lass",
    "pgd",
]


_logger = logging.getLogger(__name__)

_PGD_STEPS = 40
_CLIMB_STEPS = 30
_NUM_TARGETS = 3
# A second search is for those that the first one moved most of the way to another class.
_CLOSE, _CLOSEST = 0.25, 0.08


class Bounds(NamedTuple):
    """Two bounds of whether each image is critical; lower implies upper.

    Attributes:
      lower: [n] bool, a point of another predicted class was found.
      upper: [n] bool, not certified to be safe.
      unknown: the primitive of the network that certificates have no rule for, so that `upper` is
        no finding; None where every one has a rule.
    """

    lower: jax.Array
    upper: jax.Array
    unknown: str | None = None


class _Plan(NamedTuple):
    unknown: str | None
    is_affine: bool
    refine_up_to: int
    max_steps: int
    num_starts: int
    microbatch_size: int


def _search_box(key, logits_fn, params, problem, plan, candidates):
    """Returns which of the candidates [n] a search finds: the cheap one first, then on what is
    left, and near another class, the others.
    """
    lass_key, pgd_key, climb_key = (tagged(key, use) for use in ("lass", "pgd", "climb"))
    is_found, radius, dtype = np.zeros_like(candidates), problem.radius, problem.images.dtype

    def run(key, attack, settings, max_steps, is_tried):
        result, memory = search.run_attack(
            key, attack, logits_fn, params, problem, settings, max_steps,
            np.flatnonzero(is_tried & ~is_found), plan.microbatch_size,
        )  # fmt: skip
        is_found[:] |= np.asarray(result.is_critical)
        return memory

    climb = run(
        climb_key, climbing.CLIMB, climbing.climb_settings(), _CLIMB_STEPS,
        candidates,
    )  # fmt: skip
    is_close = candidates & (climbing.is_close(climb, _CLOSE) | plan.is_affine)
    num_others = problem.logits.shape[1] - 1
    # Of an affine network, one step towards each class decides the box.
    for rank in range(1, num_others + 1 if plan.is_affine else min(_NUM_TARGETS, num_others) + 1):
        settings = climbing.climb_settings(rank)
        run(climb_key, climbing.CLIMB, settings, _CLIMB_STEPS, is_close)
    if plan.is_affine:
        return is_found
    is_closest = candidates & climbing.is_close(climb, _CLOSEST)
    settings = attacks.pgd_settings(radius, None, _PGD_STEPS, False, dtype)
    run(pgd_key, attacks.PGD, settings, _PGD_STEPS * plan.num_starts, is_closest)
    settings = attacks.lass_settings(radius, None, None, dtype)
    run(lass_key, attacks.LASS, settings, plan.max_steps, is_closest)
    return is_found


def _bound_one_radius(key, logits_fns, params, problem, plan, is_safe, is_found):
    """Returns (is_safe, is_found) at the problem's radius, given both at all smaller radii."""
    logits_fn, search_logits_fn = logits_fns
    radii = np.full(len(is_safe), problem.radius, float)
    may_be_safe, is_safe = is_safe & ~is_found, np.zeros_like(is_safe)

    def certified(method):
        candidates = may_be_safe & ~is_safe & ~is_found
        return certify(
            logits_fn, params, problem, radii, candidates, method, plan.refine_up_to,
            stop_early=not plan.is_affine,
        )  # fmt: skip

    if plan.unknown is None:
        is_safe = certified("intervals")
    candidates = ~is_safe & ~is_found
    is_found = is_found | _search_box(key, search_logits_fn, params, problem, plan, candidates)
    if plan.unknown is None and not plan.is_affine:
        is_safe = is_safe | certified("lines")
        if plan.refine_up_to:
            is_safe = is_safe | certified("refined")
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
      max_steps: of LASS, per example and radius, where the quick searches nearly succeeded.
      num_starts: of PGD, 40 steps each, where they nearly succeeded.
      refine_up_to: ReLU layers of at most so many units are bounded unit by unit where intervals do
        not suffice, two backward passes a unit, for the most confident examples first and until
        a group of 32 gains nothing; 0: never.
      clip: (lowest, highest) valid pixel, which the box is cut to, or None.
      microbatch_size: how many examples advance at once; changes no result.
      search_logits_fn: the same network computed another way, equal to rounding, for the searches,
        which differentiate it; None is `logits_fn`, which the certificates read.

    Returns:
      Bounds(lower [radii n], upper [radii n], unknown), in the order of `radii`.

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
    key = check_key(key)
    if not len(radii):
        raise InputError("radii: empty, at least one radius is needed")
    for radius in radii:
        check_number("radius", radius, at_least=0)
    max_steps, num_starts = check_size("max_steps", max_steps), check_size("num_starts", num_starts)
    search_logits_fn = search_logits_fn or logits_fn
    problem = search.make_problem(search_logits_fn, params, images, radii[0], clip, microbatch_size)
    unknown = interval.unknown_primitive(logits_fn, params, problem.images)
    if unknown is not None:
        _logger.warning("no upper bound: interval propagation has no rule for '%s'", unknown)
    is_refinable = unknown is None and interval.is_refinable(
        logits_fn, params, problem.images, refine_up_to
    )
    plan = _Plan(
        unknown, interval.is_affine(logits_fn, params, problem.images),
        refine_up_to * is_refinable, max_steps, num_starts, microbatch_size,
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
    return Bounds(jnp.asarray(lower), jnp.asarray(upper), unknown)


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

    What intervals do not certify is searched, each search on what is left: a climb from corner to
    corner of the box, which gives up where it stands still; then, for the examples that it moved
    most of the way, climbs towards single classes, PGD and LASS. Last come the tighter
    certificates (CROWN), the surest examples first. An affine network is decided exactly, up to
    rounding: x is critical iff for some j the distance (z_i - z_j) / ||w_i - w_j||_1 is less than
    the radius, and lower equals upper.

    Args:
      key: typed key.
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode; one image's logits
        depend on that image alone.
      params: the network's parameters, any pytree of arrays.
      images: [n ...], float, for memjax's networks in [0, 1].
      radius: max-norm radius of the box, in the units of `images`; at 0 nothing is critical.
      max_steps: of LASS, per example, where the quick searches nearly succeeded.
      num_starts: of PGD, 40 steps each, where they nearly succeeded.
      refine_up_to: ReLU layers of at most so many units are bounded unit by unit where intervals do
        not suffice, two backward passes a unit, for the most confident examples first and until
        a group of 32 gains nothing; 0: never.
      clip: (lowest, highest) valid pixel, which the box is cut to, or None.
      microbatch_size: how many examples advance at once; changes no result.

    Returns:
      Bounds(lower [n], upper [n], unknown).

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
    return Bounds(bounds.lower[0], bounds.upper[0], bounds.unknown)


def critical_sample_ratio(
    is_critical: jax.Array, radius: jax.typing.ArrayLike | None = None
) -> jax.Array:
    """Returns the critical sample ratio (CSR), the share of critical points.

    Args:
      is_critical: [... n] bool, as found by a search, or a bound; where `radius` is given, the
        distances to the nearest critical point, [n] float, as `critical_radius` gives them.
      radius: the max-norm radius, or radii [k], at which to read off the CSR.

    Returns:
      [...] float32, in [0, 1]; the shape of `radius` where it is given. Of found distances it is a
      lower bound of the CSR, of certified ones an upper one.

    Raises:
      InputError: no examples, or a radius beside what are no distances.

    Example:
      >>> critical_sample_ratio(jnp.array([True, False, False, False])).item()
      0.25
      >>> found = jnp.array([0.01, 0.02, 0.3, jnp.inf])
      >>> critical_sample_ratio(found, jnp.array([0.0, 0.02, 1.0])).tolist()
      [0.0, 0.5, 0.75]
    """
    values = jnp.asarray(is_critical)
    if not values.ndim or not values.shape[-1]:
        raise InputError(f"is_critical: shape {values.shape}, must be [... n] with n at least 1")
    if radius is not None:
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise InputError(f"is_critical: {values.dtype}, must be float distances with a radius")
        radii = jnp.asarray(radius, values.dtype)[..., None]
        values = values[(None,) * (radii.ndim - 1)] <= radii
    return values.mean(-1, dtype=jnp.float32)
