"""SGD forward and backward: the compiled parts of the loss-sensitivity.

One update is `m' = g(p, x) + weight_decay p + momentum m` and `p' = p - learning_rate m'`. Going
backward, an adjoint of `(p', m')` becomes one of `(p, m)`: with `v = m'_bar - learning_rate p'_bar`

    p_bar = p'_bar + (dg/dp)^T v + weight_decay v
    m_bar = momentum v
    x_bar += (dg/dx)^T v

so the way back needs the parameters before each update, but no momentum buffers. The transposed
products are the vjp of the gradient itself, hence right for custom gradients too, and one vjp
serves many adjoints at once.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from memjax.analysis._leaves import Params, merge_params
from memjax.analysis._unrolled.sensitivity_inputs import Program, SgdRun, SgdState
from memjax.analysis._unrolled.trajectory import Segment


class Adjoints(NamedTuple):
    """Many adjoints at once; over a mesh, every device holds a share of them.

    `state`: leading axis [adjoints]. `images: [n adjoints ...]`, the gradients gathered so far: a
    batch's rows are contiguous in this layout, which is twice as fast as the other one.
    """

    state: SgdState
    images: jax.Array


@functools.partial(jax.jit, static_argnames=("program", "num_adjoints"))
def zero_adjoints(program: Program, run: SgdRun, params: Params, num_adjoints: int) -> Adjoints:
    """Returns `num_adjoints` adjoints of zero."""
    num_examples, *image_shape = run.images.shape
    state = SgdState(_stacked_zeros(params, num_adjoints), _stacked_zeros(params, num_adjoints))
    images = jnp.zeros((num_examples, num_adjoints, *image_shape), run.images.dtype)
    if program.mesh is None:
        return Adjoints(state, images)
    shardings = Adjoints(program.sharding(), program.sharding(None))  # type: ignore[arg-type]
    return jax.lax.with_sharding_constraint(
        Adjoints(state, images),
        Adjoints(jax.tree.map(lambda _: shardings.state, state), shardings.images),
    )


def _over_adjoints(
    program: Program, fn: Callable[..., Adjoints], adjoints: Adjoints, *replicated: Any
) -> Adjoints:
    """Returns `fn(adjoints, *replicated)`, where every device sees its own adjoints only."""
    if program.mesh is None:
        return fn(adjoints, *replicated)
    over_axes = Adjoints(program.sharding().spec, program.sharding(None).spec)  # type: ignore
    in_specs = (over_axes, *(PartitionSpec() for _ in replicated))
    # Under check_vma, gradients of the replicated params would be summed over the devices.
    return jax.shard_map(
        fn, mesh=program.mesh, in_specs=in_specs, out_specs=over_axes, check_vma=False
    )(adjoints, *replicated)


def _stacked_zeros(floating: Params, length: int) -> Params:
    return jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), floating)


def _example_losses(
    program: Program, run: SgdRun, params: Params, images: jax.Array, indices: jax.Array
) -> jax.Array:
    """Returns the losses [batch_size]; those of padding are another example's, to be masked."""
    logits = program.logits_fn(merge_params(params, run.fixed), images)
    return jax.vmap(program.example_loss)(logits, run.labels[jnp.maximum(indices, 0)])


def _batch_gradient(
    program: Program, run: SgdRun, params: Params, images: jax.Array, indices: jax.Array
) -> Params:
    """Returns the gradient of the mean loss over the real examples of one batch."""

    def mean_loss(params: Params) -> jax.Array:
        losses = _example_losses(program, run, params, images, indices)
        is_real = (indices >= 0).astype(losses.dtype)
        return jnp.sum(losses * is_real) / jnp.sum(is_real)

    return jax.grad(mean_loss)(params)


def _update(program: Program, run: SgdRun, state: SgdState, step: jax.Array) -> SgdState:
    """Returns the state after one update, with the arithmetic of `optax.sgd`."""
    indices = run.batches[step]
    images = run.images[jnp.maximum(indices, 0)]
    gradient = _batch_gradient(program, run, state.params, images, indices)

    def trace(gradient, param, momentum, weight_decay):
        decayed = gradient + weight_decay.astype(param.dtype) * param
        return decayed + run.momentum.astype(param.dtype) * momentum

    momentum = jax.tree.map(trace, gradient, state.params, state.momentum, run.weight_decay)
    learning_rate = run.learning_rates[step]
    params = jax.tree.map(
        lambda param, move: param + -learning_rate.astype(param.dtype) * move,
        state.params,
        momentum,
    )
    return SgdState(params, momentum)


@functools.partial(jax.jit, static_argnames="program")
def advance(
    program: Program, run: SgdRun, state: SgdState, start: jax.Array, stop: jax.Array
) -> SgdState:
    """Returns the state after the updates of steps `start` to `stop - 1`."""
    return jax.lax.fori_loop(
        start, stop, lambda step, state: _update(program, run, state, step), state
    )


@functools.partial(jax.jit, static_argnames=("program", "length"))
def record(
    program: Program, run: SgdRun, state: SgdState, start: jax.Array, stop: jax.Array, length: int
) -> tuple[SgdState, Params]:
    """Advances from `start` to `stop` and keeps the parameters on the way.

    Returns:
      The state at `stop`, and the parameters with a leading axis [length + 1]: row i is at step
      `start + i`, rows past `stop` are zero.
    """

    def keep(trajectory: Params, params: Params, row: jax.Array) -> Params:
        return jax.tree.map(lambda rows, leaf: rows.at[row].set(leaf), trajectory, params)

    def body(step: jax.Array, carry: tuple[SgdState, Params]) -> tuple[SgdState, Params]:
        state, trajectory = carry
        state = _update(program, run, state, step)
        return state, keep(trajectory, state.params, step + 1 - start)

    trajectory = keep(_stacked_zeros(state.params, length + 1), state.params, start - start)
    return jax.lax.fori_loop(start, stop, body, (state, trajectory))


@functools.partial(jax.jit, static_argnames="program", donate_argnames="adjoints")
def sweep(
    program: Program,
    adjoints: Adjoints,
    run: SgdRun,
    segment: Segment,
    start: jax.Array,
    stop: jax.Array,
) -> Adjoints:
    """Takes adjoints of the state at step `stop` back to step `start`, both in `segment`."""

    def on_device(adjoints, run, segment, start, stop):
        return jax.lax.fori_loop(
            0,
            stop - start,
            lambda count, adjoints: _step_back(program, adjoints, run, segment, stop - 1 - count),
            adjoints,
        )

    return _over_adjoints(program, on_device, adjoints, run, segment, start, stop)


def _step_back(
    program: Program, adjoints: Adjoints, run: SgdRun, segment: Segment, step: jax.Array
) -> Adjoints:
    """Takes adjoints of the state after one update back to before it."""
    indices = run.batches[step]
    _, gradient_vjp = jax.vjp(
        lambda params, images: _batch_gradient(program, run, params, images, indices),
        segment.at(step),
        run.images[jnp.maximum(indices, 0)],
    )
    learning_rate = run.learning_rates[step]
    params, momentum = adjoints.state
    update = jax.tree.map(
        lambda momentum, param: momentum - learning_rate.astype(param.dtype) * param,
        momentum,
        params,
    )
    product, images = jax.vmap(gradient_vjp, out_axes=(0, 1))(update)
    params = jax.tree.map(
        lambda param, product, update, decay: param + product + decay.astype(param.dtype) * update,
        params,
        product,
        update,
        run.weight_decay,
    )
    momentum = jax.tree.map(lambda update: run.momentum.astype(update.dtype) * update, update)
    return Adjoints(SgdState(params, momentum), _add_rows(adjoints.images, indices, images))


def _add_rows(images: jax.Array, indices: jax.Array, rows: jax.Array) -> jax.Array:
    """Adds one row per example; an index past the end drops the rows of padding."""
    return images.at[jnp.where(indices < 0, images.shape[0], indices)].add(rows, mode="drop")


@functools.partial(
    jax.jit,
    static_argnames=("program", "columns", "include_direct"),
    donate_argnames="adjoints",
)
def add_probe(
    program: Program,
    adjoints: Adjoints,
    run: SgdRun,
    segment: Segment,
    step: jax.Array,
    slot: jax.Array,
    microbatches: jax.Array,
    first_class: jax.Array | int | None,
    columns: int,
    include_direct: bool,
) -> Adjoints:
    """Puts the gradient of the average loss at one step in, split by class where asked for.

    `slot` is the probe's place among the adjoints (which are zero there), counted in probes;
    `microbatches`: int [count microbatch_size] holds every example once, negative entries padding;
    `first_class`: the columns are for the classes from it on; None: one column for all.
    """

    def put(adjoints, run, segment, step, place, microbatches, first_class):
        params, images = _average_loss_gradient(
            program, run, segment.at(step), microbatches, first_class, columns
        )
        at = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=place)
        params = jax.tree.map(functools.partial(at, axis=0), adjoints.state.params, params)
        images = at(adjoints.images, images, axis=1) if include_direct else adjoints.images
        return Adjoints(SgdState(params, adjoints.state.momentum), images)

    def on_device(adjoints, run, segment, step, slot, microbatches, first_class):
        place = slot * columns
        if program.mesh is None:
            return put(adjoints, run, segment, step, place, microbatches, first_class)
        first = jax.lax.axis_index(program.mesh.axis_names) * adjoints.images.shape[1]
        is_here = (place >= first) & (place < first + adjoints.images.shape[1])
        return jax.lax.cond(
            is_here,
            lambda: put(adjoints, run, segment, step, place - first, microbatches, first_class),
            lambda: adjoints,
        )

    return _over_adjoints(
        program, on_device, adjoints, run, segment, step, slot, microbatches, first_class
    )


def _average_loss_gradient(
    program: Program,
    run: SgdRun,
    params: Params,
    microbatches: jax.Array,
    first_class: jax.Array | int | None,
    columns: int,
) -> tuple[Params, jax.Array]:
    """Returns d loss / d params, leading axis [columns], and d loss / d images [n columns ...].

    There is one column for the average loss of all examples, or one for the terms of each
    class from `first_class` on.
    """
    num_examples, *image_shape = run.images.shape

    def body(total: tuple[Params, jax.Array], indices: jax.Array):
        examples = jnp.maximum(indices, 0)
        losses, losses_vjp = jax.vjp(
            lambda params, images: _example_losses(program, run, params, images, indices),
            params,
            run.images[examples],
        )
        weights = jnp.where(indices >= 0, 1 / num_examples, 0).astype(losses.dtype)[None]
        if first_class is not None:
            place = run.labels[examples] - first_class
            weights = weights * jax.nn.one_hot(place, columns, dtype=losses.dtype).T
        params_bar, images_bar = jax.vmap(losses_vjp, out_axes=(0, 1))(weights)
        total_params = jax.tree.map(jnp.add, total[0], params_bar)
        return (total_params, _add_rows(total[1], indices, images_bar)), None

    no_images = jnp.zeros((num_examples, columns, *image_shape), run.images.dtype)
    total, _ = jax.lax.scan(body, (_stacked_zeros(params, columns), no_images), microbatches)
    return total
