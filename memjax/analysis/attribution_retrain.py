"""The truth that an attribution predicts: training again with other weights of the examples."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

import memjax.analysis.attribution_run as training_lib
from memjax.analysis._leaves import merge_params
from memjax.analysis._unrolled import sensitivity_inputs as inputs
from memjax.analysis.attribution_groups import group_size, transposed
from memjax.analysis.attribution_measures import Measure, check_queries, make_measure
from memjax.analysis.losses import softmax_cross_entropy
from memjax.errors import InputError


def retrain(
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    learning_rate: float | jax.Array | None,
    weights: Any,
    *,
    momentum: float = 0.0,
    weight_decay: Any = 0.0,
    optimizer: optax.GradientTransformation | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    example_loss: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
) -> Any:
    """Returns the parameters after training again with every row of weights.

    All start from the same parameters and see the same batches: only the weights differ. The
    members of a chunk are one program, their first layer one matrix product. Arguments are those of
    `example_attribution`, and:

    Args:
      logits_fn: as in `example_attribution`.
      params: likewise.
      images: likewise.
      labels: likewise.
      batches: likewise.
      learning_rate: likewise.
      weights: [k n], float; 1 is as in the run, 0 leaves the example out. The divisor of a batch's
        loss stays the number of its examples.
      momentum: likewise.
      weight_decay: likewise.
      optimizer: likewise.
      chunk_size: trainings at a time, on each device; changes rounding only.
      mesh: the devices to share the trainings out over.
      example_loss: likewise.

    Returns:
      The params tree, every floating-point leaf with a leading axis [k].

    Raises:
      InputError: as `example_attribution`, or weights of another shape.

    Example:
      >>> retrain(
      ...     lambda weights, images: images @ weights, jnp.zeros((2, 2)), images=jnp.eye(2),
      ...     labels=jnp.array([0, 1]), batches=jnp.array([[0, 1]]), learning_rate=1.0,
      ...     weights=jnp.array([[1.0, 1.0], [1.0, 0.0]])).shape
      (2, 2, 2)
    """
    problem = training_lib.make_problem(
        logits_fn, params, images, labels, batches, learning_rate, momentum=momentum,
        weight_decay=weight_decay, optimizer=optimizer, example_loss=example_loss, mesh=mesh,
    )  # fmt: skip
    found = list(_retrain_chunks(problem, weights, chunk_size))
    stacked = jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
    return merge_params(stacked, problem.run.fixed)


def retrained_measures(
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    learning_rate: float | jax.Array | None,
    weights: Any,
    query_images: jax.Array,
    query_labels: jax.Array,
    *,
    measure: str | Measure = "loss",
    example_loss: Callable[[jax.Array, jax.Array], jax.Array] = softmax_cross_entropy,
    momentum: float = 0.0,
    weight_decay: Any = 0.0,
    optimizer: optax.GradientTransformation | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Returns the queries' measures after training again with every row of weights.

    What `example_attribution` predicts: its product with `weights - 1`, plus the measure with all
    weights 1. Arguments as of `retrain` and `example_attribution`; only one chunk of networks is
    in memory.

    Args:
      logits_fn: as in `example_attribution`.
      params: likewise.
      images: likewise.
      labels: likewise.
      batches: likewise.
      learning_rate: likewise.
      weights: [k n], as of `retrain`.
      query_images: [queries ...].
      query_labels: [queries ...].
      measure: as in `example_attribution`.
      example_loss: likewise.
      momentum: likewise.
      weight_decay: likewise.
      optimizer: likewise.
      chunk_size: as of `retrain`.
      mesh: likewise.

    Returns:
      [k queries].

    Raises:
      InputError: as `retrain`, or queries of another shape.

    Example:
      >>> retrained_measures(
      ...     lambda weights, images: images @ weights, jnp.zeros((2, 2)), images=jnp.eye(2),
      ...     labels=jnp.array([0, 1]), batches=jnp.array([[0, 1]]), learning_rate=1.0,
      ...     weights=jnp.array([[1.0, 1.0], [0.0, 1.0]]), query_images=jnp.eye(2)[:1],
      ...     query_labels=jnp.array([0])).round(4)
      Array([[0.4741],
             [0.6931]], dtype=float32)
    """
    problem = training_lib.make_problem(
        logits_fn, params, images, labels, batches, learning_rate, momentum=momentum,
        weight_decay=weight_decay, optimizer=optimizer, example_loss=example_loss, mesh=mesh,
    )  # fmt: skip
    measure = make_measure(measure, example_loss)
    query_images, query_labels = check_queries(problem, query_images, query_labels, measure)
    chunks = _retrain_chunks(problem, weights, chunk_size)
    return jnp.concatenate(
        [
            _measures(problem.training, problem.run, params, query_images, query_labels, measure)
            for params in chunks
        ]
    )


def _retrain_chunks(
    problem: training_lib.Problem, weights: Any, chunk_size: int | None
) -> Iterator[Any]:
    """Yields the parameters [chunk ...] of one chunk after the other."""
    weights = np.asarray(weights)
    num_examples = problem.run.images.shape[0]
    if weights.ndim != 2 or weights.shape[1] != num_examples or not len(weights):
        raise InputError(f"weights have shape {weights.shape}, must be [k {num_examples}]")
    if not np.isfinite(weights).all():
        raise InputError("weights are not all finite")
    dtype = jax.tree.leaves(problem.start.params)[0].dtype
    size = group_size(problem, len(weights), chunk_size)
    for first in range(0, len(weights), size):
        rows = np.minimum(np.arange(first, first + size), len(weights) - 1)
        own = jax.device_put(
            jnp.asarray(weights[rows].astype(dtype)), problem.training.program.sharding()
        )
        params = _retrain(problem.training, problem.run, problem.start, own)
        count = min(size, len(weights) - first)
        yield jax.tree.map(lambda leaf, count=count: leaf[:count], params)


@functools.partial(jax.jit, static_argnames="training")
def _retrain(
    training: training_lib.Training,
    run: inputs.SgdRun,
    start: training_lib.State,
    weights: jax.Array,
) -> Any:
    """Returns the parameters [k ...] after training with weights [k n]."""

    def on_device(run, start, weights):
        def body(step: jax.Array, states: training_lib.State) -> training_lib.State:
            def of_one(state: Any, weights: jax.Array) -> Any:
                return transposed(
                    training_lib.update(training, run, transposed(state), step, weights)
                )

            return jax.vmap(of_one)(states, weights[:, jnp.maximum(run.batches[step], 0)])

        states = jax.tree.map(
            lambda leaf: jnp.repeat(leaf[None], len(weights), axis=0), transposed(start)
        )
        states = jax.lax.fori_loop(0, run.batches.shape[0], body, states)
        return jax.vmap(transposed)(states.params)

    if training.program.mesh is None:
        return on_device(run, start, weights)
    over = PartitionSpec(training.program.mesh.axis_names)
    return jax.shard_map(
        on_device,
        mesh=training.program.mesh,
        in_specs=(PartitionSpec(), PartitionSpec(), over),
        out_specs=over,
        check_vma=False,
    )(run, start, weights)


@functools.partial(jax.jit, static_argnames=("training", "measure"))
def _measures(
    training: training_lib.Training,
    run: inputs.SgdRun,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    measure: Measure,
) -> jax.Array:
    """Returns [k queries] of params [k ...]."""

    def of_network(params: Any) -> jax.Array:
        logits = training.program.logits_fn(merge_params(params, run.fixed), images)
        return jax.vmap(measure)(logits, labels)

    return jax.lax.map(of_network, params)
