"""Which boxes hold no other class: bounds by intervals, then by lines, the surest boxes first."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis import interval
from memjax.analysis._search import search
from memjax.analysis._search.search import Problem
from memjax.analysis.inputs import LogitsFn

# How many boxes are tried before the next ones: fixed, so that microbatch_size changes no result.
# Where a whole group of them fails, the less sure others would be work for nothing.
_GROUPS = {"intervals": 256, "lines": 64, "refined": 32}


@functools.partial(
    jax.jit, static_argnames=("logits_fn", "sharding", "refine_up_to", "use_lines", "clip")
)
def _certified_batch(
    logits_fn, sharding, refine_up_to, use_lines, clip, params, images, logits, radii, index
):
    """Certifies examples `index` [b], their boxes rounded outwards."""
    images, logits, radii = search.take((images, logits, radii), index, sharding)
    radii = radii.reshape(-1, *[1] * (images.ndim - 1))
    lower = jnp.nextafter(images - radii, -jnp.inf)
    upper = jnp.nextafter(images + radii, jnp.inf)
    if clip is not None:
        lower, upper = jnp.maximum(lower, clip[0]), jnp.minimum(upper, clip[1])
    labels = logits.argmax(-1)
    return interval.certified(
        logits_fn, params, lower, upper, labels, refine_up_to, use_lines=use_lines
    )


def certify(
    logits_fn: LogitsFn,
    params: Any,
    problem: Problem,
    radii: np.ndarray,
    candidates: np.ndarray,
    method: str,
    refine_up_to: int = 0,
    stop_early: bool = True,
) -> np.ndarray:
    """Returns which boxes are certified to hold no image of another predicted class, [n] bool.

    Args:
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode.
      params: the network's parameters, any pytree of arrays.
      problem: images, logits and clip; its radius is not read.
      radii: [n], float64, of each example's box.
      candidates: [n] bool; the others are not looked at.
      method: 'intervals', 'lines' (CROWN) or 'refined' (lines for the units of ReLU layers too).
      refine_up_to: for 'refined', the most units of a layer.
      stop_early: whether a group of examples that gains nothing ends it.
    """
    num_examples = len(radii)
    sharding, shards = search.slot_sharding(problem.images)
    dtype = problem.images.dtype
    outer = np.nextafter(np.asarray(radii, dtype), np.asarray(np.inf, dtype))
    order = np.flatnonzero(candidates).astype(np.int32)
    ranked = np.sort(np.asarray(problem.logits, np.float32), axis=-1)
    lead = (ranked[:, -1] - ranked[:, -2]) / np.maximum(np.asarray(radii), 1e-30)
    order = order[np.argsort(-lead[order], kind="stable")]
    is_safe = np.zeros(num_examples + 1, bool)  # The last one is for padding.
    size = -(-_GROUPS[method] // shards) * shards
    while order.size:
        index = next(search.padded_batches(order, num_examples, size))
        order = order[size:]
        is_safe[index] = _certified_batch(
            logits_fn, sharding, refine_up_to if method == "refined" else 0, method != "intervals",
            problem.clip, params, problem.images, problem.logits, outer, index,
        )  # fmt: skip
        if stop_early and not is_safe[index[index < num_examples]].any():
            break
    return is_safe[:num_examples]
