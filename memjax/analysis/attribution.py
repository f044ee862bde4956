"""Attribution: what each training example did to a trained network's answers, through training."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import memjax.analysis.attribution_run as training_lib
import memjax.analysis.attribution_sweep as backward
from memjax import memory
from memjax.analysis._unrolled import sensitivity_inputs as inputs
from memjax.analysis._unrolled.trajectory import Trajectory, segment_length
from memjax.analysis.attribution_groups import group_size
from memjax.analysis.attribution_measures import Measure, check_queries, make_measure
from memjax.analysis.losses import softmax_cross_entropy


def example_attribution(
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    learning_rate: float | jax.Array | None,
    query_images: jax.Array,
    query_labels: jax.Array,
    *,
    momentum: float = 0.0,
    weight_decay: Any = 0.0,
    measure: str | Measure = "loss",
    probe_steps: Sequence[int] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    checkpoint_every: int | None = None,
    query_chunk_size: int | None = None,
    mesh: Mesh | None = None,
    example_loss: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
) -> jax.Array:
    """Returns d measure(query) after training / d weight of every training example.

    The loss of a batch is sum_i weight_i loss_i / (its real examples), and all weights are 1: to
    leave a set of examples out changes the measure by about minus the sum of their attributions.
    The derivative is exact, through all updates of `run_sgd`, or of any optax optimiser whose
    update is differentiable. Whether it says what happens when examples are really left out is
    another matter, which `attribution_trust` measures: where training is chaotic, it does not.

    Args:
      logits_fn: `logits_fn(params, images [b ...]) -> [b classes]`, as trained: every image's
        logits a function of that image alone. The same function object saves compiling again.
      params: the network BEFORE training, any pytree, float32 or float64.
      images: [n ...], float.
      labels: [n ...], given to `example_loss` one by one; integer classes [n] by default.
      batches: int [steps batch_size], the examples of each update; a negative entry is padding.
      learning_rate: a scalar, or [steps] for a schedule; None where `optimizer` has it.
      query_images: [queries ...].
      query_labels: [queries ...].
      momentum: decay of SGD's momentum buffer.
      weight_decay: added to the gradient as weight_decay * params; a scalar, or a tree prefix.
      measure: 'loss' (`example_loss`), 'margin' (the label's logit minus the largest other), or
        `measure(logits [classes], label) -> scalar`.
      probe_steps: numbers of updates after which to measure; None is after the last one.
      optimizer: an optax optimiser, instead of SGD by learning_rate, momentum and weight_decay.
      checkpoint_every: states are kept every so many steps and recomputed in between; by default
        about sqrt(steps) where the whole trajectory would take more than 256 MiB. Never changes
        the result.
      query_chunk_size: queries at a time, on each device; changes rounding only.
      mesh: the devices to share the queries out over; by default one device does all.
      example_loss: `example_loss(logits [classes], label) -> scalar`, what is trained on.

    Returns:
      [queries n], or [probes queries n] where `probe_steps` is given: in units of the measure (nats
      for a loss) per unit of weight. Positive: more of the example raises the measure.

    Raises:
      InputError: a shape, an index or an option is out of range, or something is bfloat16.

    Example:
      >>> def logits_fn(weights, images):
      ...     return images @ weights
      >>> found = example_attribution(
      ...     logits_fn, jnp.zeros((2, 2)), images=jnp.eye(2), labels=jnp.array([0, 1]),
      ...     batches=jnp.array([[0, 1]]), learning_rate=1.0,
      ...     query_images=jnp.eye(2), query_labels=jnp.array([0, 0]))
      >>> [[f"{value + 0:.4f}" for value in row] for row in found.tolist()]
      [['-0.1888', '0.0000'], ['0.0000', '0.3112']]

    Reference: Ilyas and Engstrom 2025, "MAGIC"; Maclaurin et al. 2015 for gradients through
    training; Bae et al. 2024, "Training data attribution via approximate unrolling".
    """
    problem = training_lib.make_problem(
        logits_fn, params, images, labels, batches, learning_rate, momentum=momentum,
        weight_decay=weight_decay, optimizer=optimizer, example_loss=example_loss, mesh=mesh,
    )  # fmt: skip
    measure = make_measure(measure, example_loss)
    query_images, query_labels = check_queries(problem, query_images, query_labels, measure)
    last = [problem.num_steps] if probe_steps is None else probe_steps
    probes = inputs.check_probes(last, problem.num_steps)
    rows = _attribute(
        problem, query_images, query_labels, measure, probes, checkpoint_every, query_chunk_size
    )
    found = np.stack(rows)
    return jnp.asarray(found[0] if probe_steps is None else found)


def self_influence(
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    learning_rate: float | jax.Array | None,
    *,
    indices: Sequence[int] | None = None,
    measure: str | Measure = "loss",
    example_loss: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
    checkpoint_every: int | None = None,
    query_chunk_size: int | None = None,
    mesh: Mesh | None = None,
    momentum: float = 0.0,
    weight_decay: Any = 0.0,
    optimizer: optax.GradientTransformation | None = None,
) -> jax.Array:
    """Returns d measure(example) after training / d the example's own weight.

    The diagonal of `example_attribution` with the training examples as queries, in memory [n].
    Strongly negative: without the example its own loss would be higher; its label is memorized.

    Args:
      logits_fn: this and all other arguments as of `example_attribution`.
      params: likewise.
      images: likewise.
      labels: likewise.
      batches: likewise.
      learning_rate: likewise.
      indices: the examples asked about; None is all n, at the price of n queries.
      measure: likewise.
      example_loss: likewise.
      checkpoint_every: likewise.
      query_chunk_size: likewise.
      mesh: likewise.
      momentum: likewise.
      weight_decay: likewise.
      optimizer: likewise.

    Returns:
      [n], or one value for each of `indices`.

    Raises:
      InputError: as `example_attribution`.

    Example:
      >>> found = self_influence(
      ...     lambda weights, images: images @ weights, jnp.zeros((2, 2)), images=jnp.eye(2),
      ...     labels=jnp.array([0, 1]), batches=jnp.array([[0, 1]]), learning_rate=1.0)
      >>> [f"{value:.4f}" for value in found.tolist()]
      ['-0.1888', '-0.1888']

    Reference: Feldman and Zhang 2020 for the question; see `example_attribution`.
    """
    problem = training_lib.make_problem(
        logits_fn, params, images, labels, batches, learning_rate, momentum=momentum,
        weight_decay=weight_decay, optimizer=optimizer, example_loss=example_loss, mesh=mesh,
    )  # fmt: skip
    measure = make_measure(measure, example_loss)
    count = problem.run.images.shape[0]
    own = np.arange(count) if indices is None else inputs.integers("indices", indices, 1)
    inputs.check_below("indices", own, count)
    rows = _attribute(
        problem, problem.run.images[own], problem.run.labels[own], measure,
        np.array([problem.num_steps]), checkpoint_every, query_chunk_size, own=own,
    )  # fmt: skip
    return jnp.asarray(rows[0][:, 0])


class _Group(NamedTuple):
    """Queries that go through a sweep together.

    `probe`: which of the probes; `rows`: where among the queries; `queries`: padded to the group
    size by copies of the last one.
    """

    probe: int
    step: int
    rows: slice
    queries: backward.Queries


def _attribute(
    problem: training_lib.Problem,
    images: jax.Array,
    labels: jax.Array,
    measure: Measure,
    probes: np.ndarray,
    checkpoint_every: int | None,
    query_chunk_size: int | None,
    own: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Returns of every probe [queries n], or [queries 1], each query's own example, of `own`."""
    training = problem.training
    kept = training_lib.kept(training, problem.start)
    length = segment_length(problem.num_steps, kept, checkpoint_every)
    record = functools.partial(training_lib.record, training, problem.run)
    trajectory = Trajectory(record, problem.start, problem.num_steps, length)
    size = group_size(problem, len(images), query_chunk_size, "query_chunk_size")
    groups = _groups(problem, images, labels, probes, size, own)
    columns = problem.run.images.shape[0] if own is None else 1
    dtype = jax.tree.leaves(problem.start.params)[0].dtype
    found = [np.zeros((len(images), columns), dtype) for _ in probes]
    adjoint_bytes = size * (2 * inputs.num_bytes(problem.start) + columns * dtype.itemsize)
    together = max(1, memory.memory_budget() // 4 // adjoint_bytes)
    sweep = functools.partial(
        _sweep_segment, problem, measure, training_lib.symmetric_second_derivative(problem)
    )
    for first in range(0, len(groups), together):
        alive: dict[int, backward.Adjoints] = {}
        chunk = groups[first : first + together]
        for index in reversed(range(trajectory.num_segments)):
            segment, span = trajectory.segment(index, alive), trajectory.steps(index)
            for place, group in enumerate(chunk):
                if group.step > span[0]:
                    alive[place] = sweep(segment, span, group, alive.get(place), own is not None)
        for place, group in enumerate(chunk):
            if place in alive:  # before the first update no example has done anything
                count = group.rows.stop - group.rows.start
                found[group.probe][group.rows] = np.asarray(alive[place].weights).T[:count]
    return found


def _sweep_segment(
    problem: training_lib.Problem,
    measure: Measure,
    symmetric: bool,
    segment: Any,
    span: tuple[int, int],
    group: _Group,
    adjoints: backward.Adjoints | None,
    own_only: bool,
) -> backward.Adjoints:
    """Returns a group's adjoints at the start of a segment; None: they start within it."""
    if adjoints is None:
        adjoints = backward.start_adjoints(
            problem.training, problem.run, segment, group.step, group.queries, measure, own_only
        )
    return backward.sweep(
        problem.training, adjoints, problem.run, segment, span[0], min(group.step, span[1]),
        group.queries.own, symmetric, own_only,
    )  # fmt: skip


def _groups(
    problem: training_lib.Problem,
    images: jax.Array,
    labels: jax.Array,
    probes: np.ndarray,
    size: int,
    own: np.ndarray | None,
) -> list[_Group]:
    own = np.full(len(images), -1) if own is None else own
    groups = []
    for first in range(0, len(images), size):
        rows = np.minimum(np.arange(first, first + size), len(images) - 1)
        queries = backward.Queries(images[rows], labels[rows], jnp.asarray(own[rows], jnp.int32))
        queries = jax.device_put(queries, problem.training.program.sharding())
        stop = min(first + size, len(images))
        groups += [
            _Group(probe, int(step), slice(first, stop), queries)
            for probe, step in enumerate(probes)
        ]
    return groups
