"""The searches for critical samples: LASS and PGD.

Each is two functions of one example, an objective and a move, run by `search`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis._arguments import check_key, check_number
from memjax.analysis._search import search
from memjax.analysis._search.lass_step import (
    NOISE_SCALE_PER_RADIUS,
    STEP_SIZE_PER_RADIUS,
    lass_move,
    lass_objective,
)
from memjax.analysis._search.search import Attack, Found
from memjax.analysis.inputs import LogitsFn
from memjax.analysis.microbatch import check_size
from memjax.analysis.scores import margin


class Lass(NamedTuple):
    """What LASS found.

    Attributes:
      is_critical: [n] bool, whether a point of another predicted class was found.
      adversarial: [n ...], that point; the last point searched where none was found.
      num_steps: [n] int32, after how many steps it was found; all steps where none was.
    """

    is_critical: jax.Array
    adversarial: jax.Array
    num_steps: jax.Array


def _lass_objective(logits, clean_logits, settings, step):
    del settings, step
    return lass_objective(logits, clean_logits.argmax())


def _lass_move(key, settings, image, here, memory, lower, upper):
    del image
    step_size, noise_scale = settings
    key = jax.random.fold_in(key, here.step)
    moved = lass_move(key, here.point, here.gradient, lower, upper, step_size, noise_scale)
    return moved, memory, False


def margin_objective(logits, clean_logits, settings, step):
    """How far the logit of the strongest other class lies above that of the predicted one."""
    del settings, step
    return -margin(logits, clean_logits.argmax())


def _pgd_move(key, settings, image, here, memory, lower, upper):
    step_size, steps_per_start, first_start_is_random = settings
    moved = jnp.clip(here.point + step_size * jnp.sign(here.gradient), lower, upper)
    restart, step_of_start = jnp.divmod(here.step, steps_per_start)
    share = jax.random.uniform(jax.random.fold_in(key, restart), image.shape, image.dtype)
    start = jnp.clip(lower + share * (upper - lower), lower, upper)
    is_start = (step_of_start == 0) & ((restart > 0) | first_start_is_random)
    return jnp.where(is_start, start, moved), memory, False


LASS = Attack(_lass_objective, _lass_move)
PGD = Attack(margin_objective, _pgd_move)


def lass_settings(radius, step_size, noise_scale, dtype) -> tuple:
    """Returns what the moves of LASS need; the paper's steps where they are None."""
    step_size = radius * STEP_SIZE_PER_RADIUS if step_size is None else step_size
    noise_scale = radius * NOISE_SCALE_PER_RADIUS if noise_scale is None else noise_scale
    return np.asarray(step_size, dtype), np.asarray(noise_scale, dtype)


def pgd_settings(radius, step_size, steps_per_start, random_start, dtype) -> tuple:
    """Returns what the moves of PGD need."""
    step_size = radius / 4 if step_size is None else step_size
    return np.asarray(step_size, dtype), np.int32(steps_per_start), np.bool_(random_start)


def lass(
    key: jax.Array,
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    radius: float,
    step_size: float | None = None,
    noise_scale: float | None = None,
    max_steps: int = 100,
    *,
    clip: tuple[float, float] | None = None,
    microbatch_size: int = 512,
) -> Lass:
    """Langevin adversarial sample search (Arpit et al. 2017, algorithm 1).

    Each step adds step_size * sign(gradient of the predicted class's cross-entropy) and
    noise_scale * normal noise, and clips to the box; an example stops as soon as its class changes,
    and leaves the batch.

    Args:
      key: typed key; example i uses fold_in(fold_in(key, i), step), whatever batch it is in.
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode.
      params: the network's parameters, any pytree of arrays.
      images: [n ...], float, for memjax's networks in [0, 1].
      radius: max-norm radius of the box, in the units of `images`.
      step_size: in the units of `images`; None: radius * .25 / .3, as in the paper.
      noise_scale: in the units of `images`; None: radius * .2 / .3, as in the paper.
      max_steps: at most so many steps per example.
      clip: (lowest, highest) valid pixel, which the box is cut to, or None.
      microbatch_size: how many examples advance at once; changes no result.

    Returns:
      Lass(is_critical [n], adversarial [n ...], num_steps [n]).

    Raises:
      InputError: images not float or outside `clip`; a number that is negative or not finite; no
        steps at all.

    Example:
      >>> logits_fn = lambda params, images: images @ params
      >>> images = jnp.array([[0.6, 0.5], [0.9, 0.1]])
      >>> lass(jax.random.key(0), logits_fn, jnp.eye(2), images, 0.1).is_critical.tolist()
      [True, False]
    """
    key, max_steps = check_key(key), check_size("max_steps", max_steps)
    if step_size is not None:
        check_number("step_size", step_size)
    if noise_scale is not None:
        check_number("noise_scale", noise_scale, at_least=0)
    problem = search.make_problem(logits_fn, params, images, radius, clip, microbatch_size)
    settings = lass_settings(radius, step_size, noise_scale, problem.images.dtype)
    found, _ = search.run_attack(
        key, LASS, logits_fn, params, problem, settings, max_steps,
        np.arange(problem.images.shape[0]), microbatch_size,
    )  # fmt: skip
    return Lass(*found)


def pgd(
    key: jax.Array,
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    radius: float,
    step_size: float | None = None,
    steps_per_start: int = 40,
    num_starts: int = 1,
    *,
    random_start: bool = False,
    clip: tuple[float, float] | None = None,
    microbatch_size: int = 512,
) -> Found:
    """Projected gradient descent in the max norm on the margin of the predicted class.

    Signed steps ascend max_{j != i} z_j - z_i, i the predicted class (Madry et al. 2018, with the
    margin of Carlini and Wagner 2017). The first start is the image itself, or a random point of
    the box; later ones are random. Moving to a random start counts as a step.

    Args:
      key: typed key; example i uses fold_in(fold_in(key, i), start), whatever batch it is in.
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode.
      params: the network's parameters, any pytree of arrays.
      images: [n ...], float, for memjax's networks in [0, 1].
      radius: max-norm radius of the box, in the units of `images`.
      step_size: in the units of `images`; None: radius / 4.
      steps_per_start: steps before the next start.
      num_starts: starts at most; an example stops at the first success.
      random_start: whether the first start is random too.
      clip: (lowest, highest) valid pixel, which the box is cut to, or None.
      microbatch_size: how many examples advance at once; changes no result.

    Returns:
      Found(is_critical [n], adversarial [n ...], num_steps [n]), num_steps over all starts.

    Raises:
      InputError: images not float or outside `clip`; a number that is negative or not finite; no
        steps at all.

    Example:
      >>> logits_fn = lambda params, images: images @ params
      >>> images = jnp.array([[0.6, 0.5], [0.9, 0.1]])
      >>> pgd(jax.random.key(0), logits_fn, jnp.eye(2), images, 0.1).is_critical.tolist()
      [True, False]
    """
    key = check_key(key)
    steps_per_start = check_size("steps_per_start", steps_per_start)
    num_starts = check_size("num_starts", num_starts)
    if step_size is not None:
        check_number("step_size", step_size)
    problem = search.make_problem(logits_fn, params, images, radius, clip, microbatch_size)
    settings = pgd_settings(radius, step_size, steps_per_start, random_start, problem.images.dtype)
    found, _ = search.run_attack(
        key, PGD, logits_fn, params, problem, settings, steps_per_start * num_starts,
        np.arange(problem.images.shape[0]), microbatch_size,
    )  # fmt: skip
    return found
