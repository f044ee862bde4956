"""The quick search of the box: from corner to corner, with shorter steps where that does not help.

A step goes along the sign of the gradient, at first right across the box, and from the best point
so far; where it did not raise the margin it is halved, until too short to matter. On a piecewise
linear network a handful of steps is enough, and the last margin says whether more would be.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis._search.attacks import PGD, margin_objective
from memjax.analysis._search.search import Attack

# The step, in half widths of the box, halves from the first to the last of these, then it gives up.
_FIRST_STEP, _LAST_STEP = 2.0, 0.2


class Climb(NamedTuple):
    """What the search remembers of one example.

    Attributes:
      start_value: the objective at the image.
      value: the best one so far.
      point: where that was.
      gradient: the one there.
      step_size: in half widths of the box.
    """

    start_value: jax.Array
    value: jax.Array
    point: jax.Array
    gradient: jax.Array
    step_size: jax.Array


def _start(image):
    lowest = jnp.array(-jnp.inf, jnp.float32)
    return Climb(lowest, lowest, image, jnp.zeros_like(image), jnp.array(_FIRST_STEP, jnp.float32))


def _target_objective(logits, clean_logits, settings, step):
    """Of the k-th most likely class against the predicted one; the strongest where k is 0."""
    rank, _ = settings
    ranking = jnp.argsort(clean_logits, descending=True)
    target = ranking[jnp.minimum(rank, clean_logits.size - 1)]
    margin = logits[target] - logits[ranking[0]]
    return jnp.where(rank > 0, margin, margin_objective(logits, clean_logits, settings, step))


def _move(key, settings, image, here, memory, lower, upper):
    _, is_random = settings
    value = here.value.astype(jnp.float32)
    is_better = value > memory.value
    best = Climb(
        start_value=jnp.where(here.step == 0, value, memory.start_value),
        value=jnp.maximum(value, memory.value),
        point=jnp.where(is_better, here.point, memory.point),
        gradient=jnp.where(is_better, here.gradient, memory.gradient),
        step_size=jnp.where(is_better, memory.step_size, memory.step_size / 2),
    )
    step_size = (best.step_size * (upper - lower).max() / 2).astype(image.dtype)
    moved = jnp.clip(best.point + step_size * jnp.sign(best.gradient), lower, upper)
    share = jax.random.uniform(key, image.shape, image.dtype)
    random = jnp.clip(lower + share * (upper - lower), lower, upper)
    goes_to_start = is_random & (here.step == 0)
    # The image is no point of a random start's climb.
    best = best._replace(value=jnp.where(goes_to_start, -jnp.inf, best.value))
    is_still = (moved == best.point).all() & ~goes_to_start
    gives_up = (best.step_size < _LAST_STEP) | is_still
    return jnp.where(goes_to_start, random, moved), best, gives_up


CLIMB = Attack(_target_objective, _move, _start)


def _pgd_move(key, settings, image, here, memory, lower, upper):
    """A step of PGD, a quarter of the half width of the example's own box."""
    _, *rest = settings
    step_size = (upper - lower).max() / 8
    return PGD.move(key, (step_size, *rest), image, here, memory, lower, upper)


# PGD where each example has a radius of its own.
SHRINKING_PGD = Attack(margin_objective, _pgd_move)


def climb_settings(rank: int = 0, is_random: bool = False) -> tuple:
    """Returns what the moves need: the class aimed at (0: any), and whether to start at random."""
    return np.int32(rank), np.bool_(is_random)


def is_close(climb: Climb, share: float) -> np.ndarray:
    """Returns which examples, [n], were moved towards another class by at least 1 / (1 + share) of
    the way: a search further afield is only worth its time for them.
    """
    value, start = np.asarray(climb.value), np.asarray(climb.start_value)
    is_known = np.isfinite(value) & np.isfinite(start)
    gain = np.subtract(value, start, where=is_known, out=np.zeros_like(value))
    return is_known & (-value <= share * gain)
