"""How far the nearest point of another predicted class is, from both sides.

From above by points that were found: each success of the search shrinks its box to that point's
distance. From below by certificates. The critical sample ratio (Arpit et al. 2017, section 4.1) at
any radius is the distribution function of these distances.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis import interval
from memjax.analysis._arguments import check_key, check_number
from memjax.analysis._certificates import certificates
from memjax.analysis._search import attacks, climbing, search
from memjax.analysis._search.search import Problem
from memjax.analysis.inputs import LogitsFn
from memjax.analysis.microbatch import check_size
from memjax.keys import tagged

_CLIMB_STEPS, _PGD_STEPS, _NUM_TARGETS = 30, 20, 3
_ROUNDS, _POLISHING_ROUNDS = 14, 4
_HALVINGS = 26
# What a search must win to go on: the brackets' ratio, and the last rounds' gain.
_CLOSED, _GAIN = 1.02, 0.995
_INTERVAL_ROUNDS, _LINE_ROUNDS = 12, 6


class CriticalRadius(NamedTuple):
    """Two bounds of the distance to the nearest point of another predicted class.

    Attributes:
      certified: [n] float32, no point of another class is nearer; 0 where nothing is certified.
      found: [n] float32, such a point was found at this distance; inf where none was found.
      unknown: the primitive of the network that certificates have no rule for, None: all have one.
    """

    certified: jax.Array
    found: jax.Array
    unknown: str | None = None


@functools.partial(jax.jit, static_argnames=("logits_fn", "sharding"))
def _nearest_on_path(logits_fn, sharding, params, problem, points, index):
    """Pulls points towards their images, as far as the class stays another one.

    The path is the image plus the difference, cut to [-t, t]: of a corner, the smaller corners.

    Returns (points, distances [b], inf where the class is not another one).
    """
    images, logits, points = search.take((problem.images, problem.logits, points), index, sharding)
    labels, axes = logits.argmax(-1), tuple(range(1, images.ndim))

    def cut(t):
        t = t.reshape(-1, *[1] * (images.ndim - 1))
        # Between image and point, whatever rounding does: within the valid range as they are.
        moved = images + jnp.clip(points - images, -t, t)
        return jnp.clip(moved, jnp.minimum(images, points), jnp.maximum(images, points))

    def halve(_, bracket):
        low, high = bracket
        middle = low * 0.5 + high * 0.5
        is_other = logits_fn(params, cut(middle)).argmax(-1) != labels
        return jnp.where(is_other, low, middle), jnp.where(is_other, middle, high)

    most = jnp.abs(points - images).max(axes)
    _, nearest = jax.lax.fori_loop(0, _HALVINGS, halve, (jnp.zeros_like(most), most))
    moved = cut(nearest)
    is_other = logits_fn(params, moved).argmax(-1) != labels
    # The difference of two floats, rounded up.
    distances = jnp.nextafter(jnp.abs(moved - images).max(axes), jnp.array(jnp.inf, images.dtype))
    return moved, jnp.where(is_other, distances, jnp.inf)


class _Finder:
    """The nearest points found so far; every search in it is one call of `attempt`."""

    def __init__(self, logits_fns, params, problem: Problem, max_radius, microbatch_size):
        self._logits_fn, self._search_logits_fn = logits_fns
        self._params, self._problem, self._microbatch_size = params, problem, microbatch_size
        self._max_radius = max_radius
        self.found = np.full(problem.images.shape[0], np.inf)

    def attempt(self, key, attack, settings, max_steps, radii, is_tried) -> np.ndarray:
        """Searches boxes of `radii` of examples `is_tried`; returns where it gained, all [n]."""
        problem, before = self._problem, self.found.copy()
        num_examples = len(before)
        result, _ = search.run_attack(
            key, attack, self._search_logits_fn, self._params, problem._replace(radius=radii),
            settings, max_steps, np.flatnonzero(is_tried), self._microbatch_size,
        )  # fmt: skip
        sharding, shards = search.slot_sharding(problem.images)
        hits = np.flatnonzero(np.asarray(result.is_critical)).astype(np.int32)
        size = search.batch_sizes(self._microbatch_size, shards, hits.size)[0]
        for index in search.padded_batches(hits, num_examples, size):
            _, distances = _nearest_on_path(
                self._logits_fn, sharding, self._params,
                problem._replace(radius=0.0, clip=None), result.adversarial, index,
            )  # fmt: skip
            is_real = index < num_examples
            some, distances = index[is_real], np.asarray(distances, float)[is_real]
            distances = np.where(distances <= self._max_radius, distances, np.inf)
            self.found[some] = np.minimum(self.found[some], distances)
        return self.found < before


def _first_radii(logits_fn, params, problem, microbatch_size, max_radius):
    """Returns the distance at which the linearised network changes its class, [n], a bit more."""
    sharding, shards = search.slot_sharding(problem.images)
    num_examples = problem.images.shape[0]
    everything = np.arange(num_examples, dtype=np.int32)
    size = search.batch_sizes(microbatch_size, shards, num_examples)[0]
    parts = [
        np.asarray(_linear_distances(logits_fn, sharding, params, problem.images, index))
        for index in search.padded_batches(everything, num_examples, size)
    ]
    distances = 1.2 * np.concatenate(parts)[:num_examples].astype(float)
    return np.where(np.isfinite(distances), np.clip(distances, 1e-6, max_radius), max_radius)


@functools.partial(jax.jit, static_argnames=("logits_fn", "sharding"))
def _linear_distances(logits_fn, sharding, params, images, index):
    images = search.take(images, index, sharding)

    def total(images):
        logits = logits_fn(params, images)
        value = jax.vmap(attacks.margin_objective, (0, 0, None, None))(logits, logits, (), 0)
        return value.sum(), value

    gradients, values = jax.grad(total, has_aux=True)(images)
    return -values / jnp.abs(gradients).sum(tuple(range(1, images.ndim)))


def _find(
    key, logits_fns, params, problem, max_radius, num_starts, polish, microbatch_size, is_affine
):
    """Returns the distances of the nearest points found, [n]."""
    finder = _Finder(logits_fns, params, problem, max_radius, microbatch_size)
    climb_key, pgd_key = tagged(key, "climb"), tagged(key, "pgd")
    num_others = problem.logits.shape[1] - 1
    everyone = np.ones(len(finder.found), bool)

    def climb(radii, is_tried, rank=0):
        settings = climbing.climb_settings(rank)
        return finder.attempt(climb_key, climbing.CLIMB, settings, _CLIMB_STEPS, radii, is_tried)

    if is_affine:  # The corners towards each class decide it.
        for rank in range(1, num_others + 1):
            climb(np.minimum(finder.found, max_radius), everyone, rank)
        return finder.found
    radii = _first_radii(logits_fns[1], params, problem, microbatch_size, max_radius)
    failed, is_open = np.zeros_like(radii), everyone.copy()
    for _ in range(_ROUNDS):
        gained = climb(radii, is_open)
        failed = np.where(is_open & ~gained, np.maximum(failed, radii), failed)
        known = np.isfinite(finder.found)
        is_open &= ~(known & (finder.found <= _CLOSED * failed)) & ~(failed >= max_radius)
        nearest = np.where(known, finder.found, 0.0)
        shrunk = np.where(failed > 0, np.sqrt(failed * nearest), 0.8 * nearest)
        radii = np.where(known, shrunk, np.minimum(3 * failed, max_radius))
        if not is_open.any():
            break
    is_tried = everyone
    for turn in range(_POLISHING_ROUNDS if polish else 0):
        before = finder.found.copy()

        def nearer():
            return np.minimum(_GAIN * finder.found, max_radius)

        for rank in range(min(_NUM_TARGETS, num_others) + 1):
            climb(nearer(), is_tried, rank)
        settings = attacks.pgd_settings(1.0, 0.0, _PGD_STEPS, turn > 0, problem.images.dtype)
        finder.attempt(
            jax.random.fold_in(pgd_key, turn), climbing.SHRINKING_PGD, settings,
            _PGD_STEPS * (1 if turn else num_starts), nearer(), is_tried,
        )  # fmt: skip
        is_tried = finder.found < before
        if not is_tried.any():
            break
    return finder.found


def _bisect_certificates(
    logits_fn, params, problem, low, high, method, rounds, refine_up_to=0, until=1.03
):
    """Returns certified radii [n], at least `low`, below `high`."""
    low, high = low.copy(), high.copy()
    for _ in range(rounds):
        is_open = (high > until * low) & (high > 1e-9)
        if not is_open.any():
            break
        radii = np.where(low > 0, np.sqrt(low * high), high / 4)
        is_safe = certificates.certify(
            logits_fn, params, problem, radii, is_open, method, refine_up_to, stop_early=False
        )
        low = np.where(is_open & is_safe, radii, low)
        high = np.where(is_open & ~is_safe, radii, high)
    return low


def _certify(logits_fn, params, problem, highest, refine_up_to, is_affine):
    """Returns certified radii [n], at most `highest` [n]."""
    low = np.zeros_like(highest)
    bisect = functools.partial(_bisect_certificates, logits_fn, params, problem)
    if is_affine:
        for slack in 1e-6 * 4.0 ** np.arange(8):
            radii = highest * (1 - slack)
            candidates = (low == 0) & (radii > 0)
            is_safe = certificates.certify(
                logits_fn, params, problem, radii, candidates, "intervals", stop_early=False
            )
            low = np.where(candidates & is_safe, radii, low)
        return bisect(low, highest, "intervals", _INTERVAL_ROUNDS, until=1.0003)
    low = bisect(low, highest, "intervals", _INTERVAL_ROUNDS)
    low = bisect(low, highest, "lines", _LINE_ROUNDS)
    if refine_up_to and interval.is_refinable(logits_fn, params, problem.images, refine_up_to):
        low = bisect(low, highest, "refined", _LINE_ROUNDS, refine_up_to)
    return low


def critical_radius(
    key: jax.Array,
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    max_radius: float = 1.0,
    *,
    num_starts: int = 20,
    polish: bool = True,
    refine_up_to: int = 512,
    certify: bool = True,
    clip: tuple[float, float] | None = None,
    microbatch_size: int = 512,
    search_logits_fn: LogitsFn | None = None,
) -> CriticalRadius:
    """The smallest max-norm distance to a point of another predicted class, from both sides.

    certified <= the true distance <= found. The critical sample ratio at any radius r lies between
    the shares of `found <= r` and of `certified < r`. Climbs from corner to corner in a box that
    each success shrinks to the found distance, bisecting between success and failure; then climbs
    towards single classes and PGD, in a box a little smaller, until nothing is gained. The
    certificates bisect between 0 and what was found. An affine network is decided up to rounding.

    Args:
      key: typed key; example i uses fold_in(key, i), whatever batch it is in.
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode; one image's logits
        depend on that image alone.
      params: the network's parameters, any pytree of arrays.
      images: [n ...], float, for memjax's networks in [0, 1].
      max_radius: how far to look, in the units of `images`; certificates end there too.
      num_starts: of PGD, 20 steps each, the first one from the image.
      polish: False ends the search with the bisection: a third of the time, distances a percent
        larger in the median.
      refine_up_to: ReLU layers of at most so many units are bounded unit by unit, two backward
        passes a unit and image, six times; 0: never, which is far faster and certifies less.
      certify: False leaves the certificates out, for which `certified` is 0.
      clip: (lowest, highest) valid pixel, which the box is cut to, or None.
      microbatch_size: how many examples are searched at once; changes no result but for rounding.
      search_logits_fn: the same network computed another way, equal to rounding, for the searches,
        which differentiate it; None is `logits_fn`, which decides what was found.

    Returns:
      CriticalRadius(certified [n], found [n], unknown).

    Raises:
      InputError: images not float or outside `clip`; max_radius not positive or not finite.

    Example:
      >>> logits_fn = lambda params, images: images @ params
      >>> images = jnp.array([[0.6, 0.5], [0.9, 0.1]])
      >>> radius = critical_radius(jax.random.key(0), logits_fn, jnp.eye(2), images)
      >>> radius.found.round(3).tolist(), radius.certified.round(3).tolist()
      ([0.05000000074505806, 0.4000000059604645], [0.05000000074505806, 0.4000000059604645])
    """
    key = check_key(key)
    check_number("max_radius", max_radius, above=0)
    num_starts = check_size("num_starts", num_starts)
    search_logits_fn = search_logits_fn or logits_fn
    problem = search.make_problem(logits_fn, params, images, max_radius, clip, microbatch_size)
    is_affine = interval.is_affine(logits_fn, params, problem.images)
    found = _find(
        key, (logits_fn, search_logits_fn), params, problem, max_radius, num_starts, polish,
        microbatch_size, is_affine,
    )  # fmt: skip
    unknown = interval.unknown_primitive(logits_fn, params, problem.images) if certify else None
    certified = np.zeros_like(found)
    if certify and unknown is None:
        highest = np.minimum(found, max_radius)
        certified = _certify(logits_fn, params, problem, highest, refine_up_to, is_affine)
    # Rounded outwards: float32 certificates below, and found distances above, the float64 ones.
    low, high = certified.astype(np.float32), found.astype(np.float32)
    low = np.where(low > certified, np.nextafter(low, np.float32(0)), low)
    high = np.where(high < found, np.nextafter(high, np.float32(np.inf)), high)
    return CriticalRadius(jnp.asarray(low), jnp.asarray(high), unknown)
