"""Loss-sensitivity: how much each training image shaped the loss, through all of training."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from memjax import memory
from memjax.analysis._leaves import merge_params
from memjax.analysis._unrolled import sensitivity_inputs as inputs, sensitivity_sweep as sgd
from memjax.analysis._unrolled.trajectory import Trajectory, segment_length
from memjax.analysis.inputs import check_model
from memjax.analysis.losses import softmax_cross_entropy
from memjax.errors import InputError

# A sweep of about ten adjoints is wide enough to be efficient, and narrow enough that few adjoints
# of probes not yet reached ride along.
_ADJOINTS_PER_SWEEP = 10


class Sensitivity(NamedTuple):
    """Norms of the gradient of the average loss with respect to each training image.

    Attributes:
      per_step: [k n], one row per probe, in the order of `probe_steps`.
      mean: [n], the mean over the probes.
      per_class: [classes classes] or None. Entry [i, j] is the mean over probes and over the
        images of class j of the norm for the class-i terms of the loss; NaN where no image is of
        class j.
    """

    per_step: jax.Array
    mean: jax.Array
    per_class: jax.Array | None


def loss_sensitivity(
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    learning_rate: float | jax.Array,
    probe_steps: Sequence[int] | jax.Array,
    momentum: float = 0.0,
    include_direct: bool = True,
    num_classes: int | None = None,
    norm_order: float = 1,
    *,
    weight_decay: Any = 0.0,
    checkpoint_every: int | None = None,
    probe_chunk_size: int | None = None,
    microbatch_size: int | None = None,
    mesh: Mesh | None = None,
    example_loss: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
) -> Sensitivity:
    """Returns ||dL_t/dx|| for every training image x, through all SGD updates before t.

    L_t is the average loss over all n examples after t updates of
    `optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate, momentum))`,
    started from `params` with the loss of a batch the mean over its real examples. The gradient is
    exact: every image changes L_t through each batch that it was in. Every floating-point leaf of
    `params` is trained; one behind `stop_gradient` has a zero gradient and stays (but for weight
    decay).

    `logits_fn` is used for training too, so training must have been a deterministic function of
    each image alone: a network that normalises by the statistics of its training batch, or that
    drops units, was trained differently and its sensitivity is not what this returns.

    Args:
      logits_fn: `logits_fn(params, images [b ...]) -> [b classes]`. The same function object in
        every call saves compiling again.
      params: the network BEFORE training, any pytree.
      images: [n ...], float.
      labels: [n ...], given to `example_loss` one by one; integer classes [n] by default.
      batches: int [steps batch_size], the examples of each update; a negative entry is padding.
      learning_rate: a scalar, or [steps] for a schedule.
      probe_steps: int [k], numbers of updates t in 0..steps, in any order.
      momentum: decay of the momentum buffer.
      include_direct: whether x's own term in L_t counts, besides what x did to the parameters.
      num_classes: given, `per_class` is returned as well, at the price of one adjoint per class;
        of as many classes at once as fit.
      norm_order: 1, 2 or inf, the norm over all of an image's values.
      weight_decay: added to the gradient as weight_decay * params; a scalar, or a tree prefix of
        `params` (for instance to leave running statistics alone).
      checkpoint_every: the parameters are kept every so many steps and recomputed in between. By
        default about sqrt(steps) where the whole trajectory does not fit in the memory, else
        all are kept. Never changes the result.
      probe_chunk_size: probes per backward sweep and device (two sweeps may run at a time), by
        default 10 adjoints' worth or what fits in the memory. Changes rounding only.
      microbatch_size: examples at a time in the gradient of L_t, by default the batch size;
        changes rounding only.
      mesh: the devices to share the probes out over; by default one device does all.
      example_loss: `example_loss(logits [classes], label) -> scalar`.

    Returns:
      `Sensitivity(per_step [k n], mean [n], per_class [classes classes] or None)`, in loss (nats
      by default) per unit of `images`.

    Raises:
      InputError: a shape, an index, a probe or an option is out of range.

    Example:
      >>> def logits_fn(weights, images):
      ...     return images @ weights
      >>> result = loss_sensitivity(
      ...     logits_fn, jnp.zeros((3, 2)), images=jnp.eye(3), labels=jnp.array([0, 1, 1]),
      ...     batches=jnp.array([[0, 1], [2, -1]]), learning_rate=0.5, probe_steps=[1, 2])
      >>> result.per_step.shape, result.mean.shape
      ((2, 3), (3,))

    Reference: Arpit et al. 2017, section 3.2; Maclaurin et al. 2015 for gradients through training.
    """
    check_model(logits_fn, params, images, labels, example_loss=example_loss, by_params=True)
    program = inputs.make_program(logits_fn, example_loss, mesh)
    problem = inputs.check_run(
        program, params, images, labels, batches, learning_rate, momentum, weight_decay
    )
    steps = inputs.check_probes(probe_steps, problem.num_steps)
    if norm_order not in (1, 2, math.inf):
        raise InputError(f"norm_order is {norm_order}, must be 1, 2 or inf")
    inputs.check_num_classes(num_classes, problem.run.labels)
    columns = _classes_at_once(problem, num_classes)
    chunk_size = _chunk_size(problem, len(steps), columns, probe_chunk_size)
    length = segment_length(problem.num_steps, problem.start.params, checkpoint_every)
    record = functools.partial(sgd.record, program, problem.run)
    trajectory = Trajectory(record, problem.start, problem.num_steps, length)
    microbatches = inputs.microbatches(problem, microbatch_size)

    order = np.argsort(-steps, kind="stable")
    chunks = np.split(order, range(chunk_size, len(order), chunk_size))
    norms: list[tuple[jax.Array, np.ndarray | None]] = []
    for chunk in chunks:
        total, sums = None, []
        for first_class in range(0, num_classes or 1, columns):
            gradients = _chunk_gradients(
                problem, trajectory, steps[chunk], chunk_size, microbatches,
                None if num_classes is None else (first_class, columns), include_direct,
            )  # fmt: skip
            # Norms are gathered from all devices. On a CPU a device that waits for the others
            # holds a thread: no other work may be in flight then that could keep them from coming.
            jax.block_until_ready(gradients)
            if num_classes is not None:
                of_classes = _class_norms(
                    program, gradients, problem.run.labels, columns, num_classes, norm_order
                )
                sums.append(np.asarray(of_classes))
            total = _add_columns(program, total, gradients, columns)
        found = jax.block_until_ready(_norms(program, total, norm_order))
        norms.append((found, np.concatenate(sums)[:num_classes] if sums else None))
    rows = [
        np.asarray(of_probes)[_slots(problem, len(chunk), chunk_size)]
        for (of_probes, _), chunk in zip(norms, chunks, strict=True)
    ]
    per_step = np.concatenate(rows)[np.argsort(order)]
    per_class = None
    if num_classes is not None:
        counts = np.bincount(problem.run.labels, minlength=num_classes)
        with np.errstate(invalid="ignore"):  # 0 / 0 for a class without images
            means = sum(sums for _, sums in norms if sums is not None) / (len(steps) * counts)
        per_class = jnp.asarray(means, per_step.dtype)
    return Sensitivity(jnp.asarray(per_step), jnp.asarray(per_step.mean(axis=0)), per_class)


def run_sgd(
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    learning_rate: float | jax.Array,
    momentum: float = 0.0,
    *,
    weight_decay: Any = 0.0,
    example_loss: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
) -> Any:
    """Returns the parameters after all the updates that `loss_sensitivity` differentiates through.

    Compare them with a checkpoint to be sure that the sensitivity is that of the run. Arguments and
    errors are those of `loss_sensitivity`.

    Example:
      >>> def logits_fn(weights, images):
      ...     return images @ weights
      >>> run_sgd(
      ...     logits_fn, jnp.zeros((2, 2)), images=jnp.eye(2), labels=jnp.array([0, 1]),
      ...     batches=jnp.array([[0, 1]]), learning_rate=0.5)
      Array([[ 0.125, -0.125],
             [-0.125,  0.125]], dtype=float32)
    """
    check_model(logits_fn, params, images, labels, example_loss=example_loss, by_params=True)
    program = inputs.make_program(logits_fn, example_loss)
    problem = inputs.check_run(
        program, params, images, labels, batches, learning_rate, momentum, weight_decay
    )
    state = sgd.advance(program, problem.run, problem.start, 0, problem.num_steps)
    return merge_params(state.params, problem.run.fixed)


def _chunk_gradients(
    problem: inputs.Problem,
    trajectory: Trajectory,
    steps: np.ndarray,
    chunk_size: int,
    microbatches: jax.Array,
    classes: tuple[int, int] | None,
    include_direct: bool,
) -> jax.Array:
    """Returns dL_t/dx of a chunk of probes (latest first), [n chunk_size * columns ...].

    `classes`: the first and how many the columns are for; None: one column for all of L_t.
    """
    program, run = problem.program, problem.run
    first_class, columns = classes or (None, 1)
    adjoints = sgd.zero_adjoints(program, run, problem.start.params, chunk_size * columns)

    def back(adjoints: sgd.Adjoints, position: int, target: int) -> sgd.Adjoints:
        while position > target:
            segment = trajectory.before(position, adjoints)
            lowest = max(segment.first_step, target)
            adjoints = sgd.sweep(program, adjoints, run, segment, lowest, position)
            position = lowest
        return adjoints

    position = int(steps[0])
    slots = _slots(problem, len(steps), chunk_size)
    for step, slot in zip(steps.tolist(), slots.tolist(), strict=True):
        adjoints = back(adjoints, position, step)
        adjoints = sgd.add_probe(
            program, adjoints, run, trajectory.before(step, adjoints), step, slot, microbatches,
            first_class, columns=columns, include_direct=include_direct,
        )  # fmt: skip
        position = step
    return back(adjoints, position, 0).images


@functools.partial(jax.jit, static_argnames=("program", "columns"))
def _add_columns(
    program: inputs.Program, total: jax.Array | None, gradients: jax.Array, columns: int
) -> jax.Array:
    """Returns `total` [n probes ...] plus the sum over the columns of every probe."""
    num_examples, num_adjoints, *image_shape = gradients.shape
    shape = num_examples, num_adjoints // columns, columns, *image_shape
    found = jnp.sum(gradients.reshape(shape), axis=2)
    return found if total is None else total + found


@functools.partial(jax.jit, static_argnames=("program", "norm_order"))
def _norms(program: inputs.Program, gradients: jax.Array, norm_order: float) -> jax.Array:
    """Returns the norms [probes n] of gradients [n probes ...]."""
    flat = gradients.reshape(*gradients.shape[:2], -1)
    return _on_all(program, jnp.linalg.norm(flat, ord=norm_order, axis=-1).T)


@functools.partial(jax.jit, static_argnames=("program", "columns", "num_classes", "norm_order"))
def _class_norms(
    program: inputs.Program,
    gradients: jax.Array,
    labels: jax.Array,
    columns: int,
    num_classes: int,
    norm_order: float,
) -> jax.Array:
    """Returns the sums over probes and images of the norms: [columns, class of the image]."""
    num_examples, num_adjoints = gradients.shape[:2]
    gradients = gradients.reshape(num_examples, num_adjoints // columns, columns, -1)
    norms = jnp.sum(jnp.linalg.norm(gradients, ord=norm_order, axis=-1), axis=1)
    members = jax.nn.one_hot(labels, num_classes, dtype=norms.dtype)
    sums = jnp.einsum("xi,xj->ij", norms, members, precision=jax.lax.Precision.HIGHEST)
    return _on_all(program, sums)


def _on_all(program: inputs.Program, values: jax.Array) -> jax.Array:
    if program.mesh is None:
        return values
    return jax.lax.with_sharding_constraint(values, program.sharding(shared=False))


def _slots(problem: inputs.Problem, num_probes: int, chunk_size: int) -> np.ndarray:
    """Returns the places of a chunk's probes: neighbours on different devices, for equal loads."""
    turn, device = np.divmod(np.arange(num_probes), problem.program.num_devices)
    return device * (chunk_size // problem.program.num_devices) + turn


def _adjoints_that_fit(problem: inputs.Problem) -> int:
    """Returns how many a device holds: of every image, and of the state before and after."""
    adjoint_bytes = problem.run.images.nbytes + 4 * inputs.num_bytes(problem.start.params)
    return max(1, memory.memory_budget() // 4 // adjoint_bytes)


def _classes_at_once(problem: inputs.Problem, num_classes: int | None) -> int:
    """Returns the adjoints of a probe that are taken back together, as even chunks as can be."""
    classes = num_classes or 1
    return math.ceil(classes / math.ceil(classes / _adjoints_that_fit(problem)))


def _chunk_size(
    problem: inputs.Problem, num_probes: int, columns: int, probe_chunk_size: int | None
) -> int:
    """Returns the probes per sweep, evened out so that the last sweep is not a small one."""
    automatic = max(1, min(_ADJOINTS_PER_SWEEP, _adjoints_that_fit(problem)) // columns)
    most = inputs.positive("probe_chunk_size", probe_chunk_size, automatic)
    num_devices = problem.program.num_devices
    num_sweeps = math.ceil(num_probes / (most * num_devices))
    return math.ceil(num_probes / (num_sweeps * num_devices)) * num_devices
