"""The engine that searches the box around each image for a point of another class.

One engine runs every search. A fixed number of slots each hold one unfinished example with its own
step counter; a dispatch advances all slots on the device until a quarter of them is finished, and
their slots then go to examples that wait. So the cost follows the unfinished examples, memory
follows the slots, and there are only as many compiled sizes as halvings of the slots at the end.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis._arguments import check_number
from memjax.analysis._search.lass_step import inner_box
from memjax.analysis.inputs import LogitsFn, check_model
from memjax.analysis.microbatch import check_size
from memjax.errors import InputError


class Found(NamedTuple):
    """What a search found.

    Attributes:
      is_critical: [n] bool, whether a point of another predicted class was found.
      adversarial: [n ...], that point; the last point searched where none was found.
      num_steps: [n] int32, after how many steps it was found; all steps where none was.
    """

    is_critical: jax.Array
    adversarial: jax.Array
    num_steps: jax.Array


class Problem(NamedTuple):
    """What a search is about.

    Attributes:
      images: [n ...], float.
      logits: [n classes], of the unmoved images; their argmax is the class to leave.
      radius: scalar, or [n] one for each example, max-norm radius of the box.
      clip: (lowest, highest) valid pixel, which the box is cut to, or None.
    """

    images: jax.Array
    logits: jax.Array
    radius: Any
    clip: tuple[float, float] | None


class Here(NamedTuple):
    """What is known of the point that one example stands at.

    Attributes:
      point: [...].
      value: scalar, the objective there.
      gradient: [...], of the objective.
      step: int32 scalar, how many points were looked at before.
    """

    point: jax.Array
    value: jax.Array
    gradient: jax.Array
    step: jax.Array


def _remembers_nothing(image: jax.Array) -> tuple:
    del image
    return ()


class Attack(NamedTuple):
    """One search, as functions of one example; static, so they are module-level functions.

    Attributes:
      objective: (logits [classes], clean_logits [classes], settings, step) -> scalar to ascend.
      move: (key, settings, image, here, memory, lower, upper) -> (the next point, memory, whether
        to give up).
      start: (image) -> what the search remembers before its first step, any pytree.
    """

    objective: Callable
    move: Callable
    start: Callable = _remembers_nothing


class _Slots(NamedTuple):
    points: jax.Array
    is_found: jax.Array
    is_finished: jax.Array
    steps: jax.Array
    memory: Any


def take(tree: Any, index: jax.Array, sharding: jax.sharding.Sharding | None) -> Any:
    """Gathers examples `index` [b] of every leaf; keeps the slots on all devices of the images."""
    batch = jax.tree.map(lambda leaf: leaf.at[index].get(mode="clip"), tree)
    return batch if sharding is None else jax.lax.with_sharding_constraint(batch, sharding)


@functools.partial(
    jax.jit, static_argnames=("logits_fn", "attack", "sharding"), donate_argnames="slots"
)
def _advance(
    logits_fn, attack, sharding, key, params, settings, problem, slots, index, max_steps, leave_at
):
    """Advances examples `index` [b] until at most `leave_at` of them are unfinished."""
    num_examples = problem.images.shape[0]
    image, clean_logits, radius, batch = take(
        (problem.images, problem.logits, problem.radius, slots), index, sharding
    )
    lower, upper = inner_box(image, radius.reshape(-1, *[1] * (image.ndim - 1)), problem.clip)
    # An index past the end pads the batch: it is finished from the start and written nowhere.
    batch = batch._replace(is_finished=batch.is_finished | (index >= num_examples))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    label = clean_logits.argmax(-1)

    def total(points, steps):
        logits = logits_fn(params, points)
        values = jax.vmap(attack.objective, (0, 0, None, 0))(logits, clean_logits, settings, steps)
        return values.sum(), (logits, values)

    def advance(batch):
        gradient, (logits, values) = jax.grad(total, has_aux=True)(batch.points, batch.steps)
        changed = (logits.argmax(-1) != label) & (batch.steps > 0) & ~batch.is_finished
        is_finished = batch.is_finished | changed | (batch.steps >= max_steps)
        here = Here(batch.points, values, gradient, batch.steps)
        moved, memory, gives_up = jax.vmap(attack.move, (0, None, 0, 0, 0, 0, 0))(
            keys, settings, image, here, batch.memory, lower, upper
        )
        is_moved = ~is_finished & ~gives_up

        def chosen(after, before):
            return jax.vmap(jnp.where)(is_moved, after, before)

        return _Slots(
            points=chosen(moved, batch.points),
            is_found=batch.is_found | changed,
            is_finished=~is_moved,
            steps=batch.steps + is_moved.astype(jnp.int32),
            # What was learned at the last point counts too.
            memory=jax.tree.map(
                lambda after, before: jax.vmap(jnp.where)(is_finished, before, after),
                memory, batch.memory,
            ),
        )  # fmt: skip

    batch = jax.lax.while_loop(lambda batch: jnp.sum(~batch.is_finished) > leave_at, advance, batch)
    slots = jax.tree.map(lambda whole, part: whole.at[index].set(part, mode="drop"), slots, batch)
    if sharding is not None:
        slots = jax.lax.with_sharding_constraint(slots, sharding)
    return slots, batch.is_finished


@functools.partial(jax.jit, static_argnames=("logits_fn", "sharding"))
def _clean_logits(logits_fn, sharding, params, images, index):
    return logits_fn(params, take(images, index, sharding))


def slot_sharding(images: jax.Array) -> tuple[jax.sharding.Sharding | None, int]:
    """Returns how a batch of examples is laid out, as `images` are, and over how many shards."""
    sharding = images.sharding
    if not isinstance(sharding, jax.sharding.NamedSharding) or not sharding.spec:
        return None, 1
    axis = jax.sharding.NamedSharding(sharding.mesh, jax.P(sharding.spec[0]))
    return axis, images.shape[0] // axis.shard_shape((images.shape[0],))[0]


def padded_batches(
    candidates: np.ndarray, num_examples: int, batch_size: int
) -> Iterator[np.ndarray]:
    """Yields `candidates` in batches of one size; the last is padded with `num_examples`."""
    for start in range(0, candidates.size, batch_size):
        batch = candidates[start : start + batch_size]
        yield np.pad(batch, (0, batch_size - batch.size), constant_values=num_examples)


def batch_sizes(microbatch_size: int, shards: int, num_waiting: int) -> list[int]:
    """Returns the batch size for `num_waiting` examples, and the smaller ones, each half as large.

    They come from one ladder below `microbatch_size`, so that few sizes are ever compiled.
    """
    sizes = [-(-microbatch_size // shards) * shards]
    while sizes[-1] >= 2 * max(shards, 32):
        sizes.append(-(-sizes[-1] // (2 * shards)) * shards)
    smaller = [size for size in sizes if size < num_waiting]
    return sizes[max(len(sizes) - len(smaller) - 1, 0) :]


def make_problem(
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    radius: float,
    clip: tuple[float, float] | None,
    microbatch_size: int,
) -> Problem:
    """Checks the arguments and computes the logits of the unmoved images."""
    check_number("radius", radius, at_least=0)
    check_size("microbatch_size", microbatch_size)
    mesh = getattr(getattr(images, "sharding", None), "mesh", None)
    if mesh is not None and mesh.explicit_axes:
        raise InputError(f"images: sharded over explicit axes {mesh.explicit_axes}, must be auto")
    params, images, _ = check_model(logits_fn, params, images, by_images=True, one_device=False)
    _check_images(images, clip)
    sharding, shards = slot_sharding(images)
    everything = np.arange(images.shape[0], dtype=np.int32)
    size = batch_sizes(microbatch_size, shards, everything.size)[0]
    batches = padded_batches(everything, everything.size, size)
    parts = [_clean_logits(logits_fn, sharding, params, images, index) for index in batches]
    logits = jnp.concatenate(parts)[: everything.size]
    if logits.shape[1] < 2:
        raise InputError(f"logits_fn: gives {logits.shape}, must be [n classes], 2 classes or more")
    logits = jax.device_put(logits, sharding)
    return Problem(images, logits, radius, clip)


def _check_images(images: jax.Array, clip: tuple[float, float] | None) -> None:
    """Raises InputError for images without pixels, or with pixels that `clip` excludes."""
    if images.ndim < 2 or images.size == 0:
        raise InputError(f"images: {images.dtype}{images.shape}, must be float [n ...], not empty")
    if clip is not None and not bool(((images >= clip[0]) & (images <= clip[1])).all()):
        raise InputError(f"clip: {clip}, every pixel of images must lie within it")


def _rounded_down(radius: np.ndarray, dtype: Any) -> np.ndarray:
    rounded = radius.astype(dtype)
    below = np.nextafter(rounded, np.zeros_like(rounded))
    return np.where(rounded.astype(float) > radius, below, rounded)


def run_attack(
    key: jax.Array,
    attack: Attack,
    logits_fn: LogitsFn,
    params: Any,
    problem: Problem,
    settings: Any,
    max_steps: int,
    candidates: np.ndarray,
    microbatch_size: int,
) -> tuple[Found, Any]:
    """Searches for the examples `candidates` (indices, int32); the others stay as they are.

    Returns what it found, and what it remembers.

    An example's key is fold_in(key, its index), so its result depends neither on `candidates` nor
    on `microbatch_size`, but for rounding in `logits_fn`.
    """
    num_examples = problem.images.shape[0]
    sharding, shards = slot_sharding(problem.images)
    slots = _Slots(
        points=jnp.copy(problem.images),
        is_found=jnp.zeros(num_examples, bool),
        is_finished=jnp.zeros(num_examples, bool),
        steps=jnp.zeros(num_examples, jnp.int32),
        memory=jax.tree.map(jnp.copy, jax.vmap(attack.start)(problem.images)),
    )
    slots = jax.device_put(slots, sharding)
    radii = np.broadcast_to(np.asarray(problem.radius, float), num_examples)
    problem = problem._replace(radius=_rounded_down(radii, problem.images.dtype))
    waiting = candidates.astype(np.int32)
    while waiting.size:
        size, *smaller = batch_sizes(microbatch_size, shards, waiting.size)
        leave_at = smaller[0] if smaller else 0
        if waiting.size > size:
            leave_at = size * 3 // 4
        index = next(padded_batches(waiting, num_examples, size))
        slots, is_finished = _advance(
            logits_fn, attack, sharding, key, params, settings, problem, slots, index,
            np.int32(max_steps), np.int32(leave_at),
        )  # fmt: skip
        is_waiting = np.ones(waiting.size, bool)
        is_waiting[:size] = ~np.asarray(is_finished)[: waiting.size]
        waiting = waiting[is_waiting]
    return Found(slots.is_found, slots.points, slots.steps), slots.memory
