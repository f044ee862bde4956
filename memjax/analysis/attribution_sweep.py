"""Backwards through weighted training: the compiled parts of the attribution.

Of one query, the adjoint is d measure / d state. An update of SGD is `m' = g(p, w) + decay p +
momentum m` and `p' = p - rate m'`, so going backward, with `v = m'_bar - rate p'_bar`,

    p_bar = p'_bar + H v + decay v
    m_bar = momentum v
    w_bar_i += <v, gradient of loss i> / batch

where H is the Hessian of the batch's loss. The derivative of the gradient along v gives H v and all
<v, gradient of loss i> at once; it is linearised once for all queries. Where H might not be
symmetric (custom derivatives), and for any other optimiser, the vjp of the update is taken instead.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from memjax.analysis._leaves import merge_params, split_params
from memjax.analysis._unrolled.sensitivity_inputs import Params, SgdRun
from memjax.analysis._unrolled.trajectory import Segment
from memjax.analysis.attribution_groups import transposed
from memjax.analysis.attribution_run import (
    State,
    Training,
    batch_gradient,
    update,
)

Measure = Callable[[jax.Array, jax.Array], jax.Array]


class Queries(NamedTuple):
    """What is asked: `images: [q ...]`, `labels: [q ...]`, `own: int32 [q]`, see `Adjoints`."""

    images: jax.Array
    labels: jax.Array
    own: jax.Array


class Adjoints(NamedTuple):
    """The adjoints of q queries; over a mesh, every device holds a share of them.

    `state`: those of the state, leading axis [q], matrices `transposed`. `weights`: what
    has been gathered, [n q]; where `Queries.own` counts, [1 q], of each query its own example's.
    """

    state: State
    weights: jax.Array


def _specs(training: Training, tree: Any) -> Any:
    names = training.program.mesh.axis_names  # type: ignore[union-attr]
    return jax.tree.map(lambda _: PartitionSpec(names), tree)


def _adjoint_specs(training: Training, state: State) -> Any:
    """state: of one query, for the number of its axes."""
    names = training.program.mesh.axis_names  # type: ignore[union-attr]
    specs: Any = PartitionSpec(None, names)
    return Adjoints(_specs(training, state), specs)


@functools.partial(jax.jit, static_argnames=("training", "measure", "own_only"))
def start_adjoints(
    training: Training,
    run: SgdRun,
    segment: Segment,
    step: jax.Array,
    queries: Queries,
    measure: Measure,
    own_only: bool,
) -> Adjoints:
    """Returns the adjoints at a step: the gradients of the queries' measures there."""

    def on_device(run, segment, step, queries):
        state = _state_at(training, segment, step)

        def value(params: Params, image: jax.Array, label: jax.Array) -> jax.Array:
            whole = merge_params(params, run.fixed)
            return measure(training.program.logits_fn(whole, image[None])[0], label)

        def gradient(image: jax.Array, label: jax.Array) -> Params:
            return transposed(jax.grad(value)(state.params, image, label))

        params = jax.vmap(gradient)(queries.images, queries.labels)
        num_queries = queries.own.shape[0]
        own = _zeros_like_queries(_differentiable(state.optimizer), num_queries)
        rows = 1 if own_only else run.images.shape[0]
        leaf = jax.tree.leaves(params)[0]
        return Adjoints(State(params, own), jnp.zeros((rows, num_queries), leaf.dtype))

    if training.program.mesh is None:
        return on_device(run, segment, step, queries)
    state = jax.eval_shape(lambda: _differentiable(_state_at(training, segment, step)))
    names = PartitionSpec(training.program.mesh.axis_names)
    return jax.shard_map(
        on_device,
        mesh=training.program.mesh,
        in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(), names),
        out_specs=_adjoint_specs(training, state),
        check_vma=False,
    )(run, segment, step, queries)


def _zeros_like_queries(tree: Any, num_queries: int) -> Any:
    return jax.tree.map(
        lambda leaf: jnp.zeros((num_queries, *leaf.shape), leaf.dtype), transposed(tree)
    )


def _differentiable(tree: Any) -> Any:
    """Returns the tree without the leaves that have no derivative (an optimiser's counters)."""
    return split_params(tree)[0]


def _state_at(training: Training, segment: Segment, step: jax.Array) -> State:
    """Returns what is known of the state at a step; of SGD's momentum, only its shapes matter."""
    found = segment.at(step)
    if training.optimizer is not None:
        return State(*found)
    return State(found, found if training.has_momentum else None)


@functools.partial(
    jax.jit, static_argnames=("training", "symmetric", "own_only"), donate_argnames="adjoints"
)
def sweep(
    training: Training,
    adjoints: Adjoints,
    run: SgdRun,
    segment: Segment,
    start: jax.Array,
    stop: jax.Array,
    own: jax.Array,
    symmetric: bool,
    own_only: bool,
) -> Adjoints:
    """Takes adjoints at step `stop` back to step `start`, both in `segment`."""
    if training.optimizer is not None:
        step_back = _vjp_of_update
    elif symmetric:
        step_back = _sgd_by_hessian
    else:
        step_back = _sgd_by_vjp

    def on_device(adjoints, run, segment, start, stop, own):
        def body(count: jax.Array, adjoints: Adjoints) -> Adjoints:
            step = stop - 1 - count
            state, weights = step_back(training, adjoints.state, run, segment, step)
            gathered = _gather(adjoints.weights, run.batches[step], weights, own, own_only)
            return Adjoints(state, gathered)

        return jax.lax.fori_loop(0, stop - start, body, adjoints)

    if training.program.mesh is None:
        return on_device(adjoints, run, segment, start, stop, own)
    state = jax.eval_shape(lambda: _differentiable(_state_at(training, segment, start)))
    specs = _adjoint_specs(training, state)
    everywhere = [PartitionSpec()] * 4
    return jax.shard_map(
        on_device,
        mesh=training.program.mesh,
        in_specs=(specs, *everywhere, PartitionSpec(training.program.mesh.axis_names)),
        out_specs=specs,
        check_vma=False,
    )(adjoints, run, segment, start, stop, own)


def _gather(
    gathered: jax.Array, indices: jax.Array, weights: jax.Array, own: jax.Array, own_only: bool
) -> jax.Array:
    """Adds a step's derivatives [batch_size q] to those of the examples (padding to none)."""
    if own_only:
        is_own = indices[:, None] == own[None]
        return gathered + jnp.sum(jnp.where(is_own, weights, 0), axis=0, keepdims=True)
    rows = jnp.where(indices < 0, gathered.shape[0], indices)
    return gathered.at[rows].add(weights, mode="drop")


def _of_queries(fn: Callable[[Any], tuple[Any, jax.Array]]) -> Callable[[Any], Any]:
    """Returns `fn(tree) -> (tree, [batch_size])` of one query for all, as adjoints are kept.

    The vectors over the batch come back as [batch_size queries].
    """

    def of_one(adjoint: Any) -> tuple[Any, jax.Array]:
        tree, of_batch = fn(transposed(adjoint))
        return transposed(tree), of_batch

    return jax.vmap(of_one, out_axes=(0, 1))


def _moves(training: Training, run: SgdRun, adjoint: State, step: jax.Array) -> Params:
    """Returns v, the adjoint of the momentum buffer after the update."""
    rate = run.learning_rates[step]
    if not training.has_momentum:
        return jax.tree.map(lambda param: -rate.astype(param.dtype) * param, adjoint.params)
    return jax.tree.map(
        lambda momentum, param: momentum - rate.astype(param.dtype) * param,
        adjoint.optimizer,
        adjoint.params,
    )


def _sgd_back(training: Training, run: SgdRun, adjoint: State, moves: Params, product: Params):
    params = jax.tree.map(
        lambda param, product, move, decay: param + product + decay.astype(param.dtype) * move,
        adjoint.params,
        product,
        moves,
        run.weight_decay,
    )
    own = None
    if training.has_momentum:
        own = jax.tree.map(lambda move: run.momentum.astype(move.dtype) * move, moves)
    return State(params, own)


def _sgd_by_hessian(
    training: Training, adjoint: State, run: SgdRun, segment: Segment, step: jax.Array
) -> tuple[State, jax.Array]:
    params = segment.at(step)
    ones = _ones(run, params)
    _, derivative = jax.linearize(
        lambda params: batch_gradient(training, run, params, step, ones), params
    )
    along = _of_queries(derivative)
    is_real = (run.batches[step] >= 0).astype(ones.dtype)
    share = (is_real / jnp.sum(is_real))[:, None]
    if training.has_momentum:
        moves = _moves(training, run, adjoint, step)
        product, losses = along(moves)
        return _sgd_back(training, run, adjoint, moves, product), losses * share
    # Without momentum v is a multiple of the adjoint: it need not be written down.
    product, losses = along(adjoint.params)
    rate = run.learning_rates[step].astype(ones.dtype)
    before = jax.tree.map(
        lambda param, product, decay: (
            param - rate.astype(param.dtype) * (product + decay.astype(param.dtype) * param)
        ),
        adjoint.params,
        product,
        run.weight_decay,
    )
    return State(before, None), losses * (-rate * share)


def _sgd_by_vjp(
    training: Training, adjoint: State, run: SgdRun, segment: Segment, step: jax.Array
) -> tuple[State, jax.Array]:
    params = segment.at(step)
    moves = _moves(training, run, adjoint, step)
    _, pull_back = jax.vjp(
        lambda params, weights: batch_gradient(training, run, params, step, weights)[0],
        params,
        _ones(run, params),
    )
    product, weights = _of_queries(pull_back)(moves)
    return _sgd_back(training, run, adjoint, moves, product), weights


def _vjp_of_update(
    training: Training, adjoint: State, run: SgdRun, segment: Segment, step: jax.Array
) -> tuple[State, jax.Array]:
    state = _state_at(training, segment, step)
    floating, fixed = split_params(state)

    def floating_update(floating: State, weights: jax.Array) -> State:
        after = update(training, run, merge_params(floating, fixed), step, weights)
        return _differentiable(after)

    ones = _ones(run, state.params)
    _, pull_back = jax.vjp(floating_update, floating, ones)
    before, weights = _of_queries(pull_back)(adjoint)
    return before, weights


def _ones(run: SgdRun, params: Params) -> jax.Array:
    return jnp.ones(run.batches.shape[1], jax.tree.leaves(params)[0].dtype)
