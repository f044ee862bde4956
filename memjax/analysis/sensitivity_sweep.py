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

import jax
import jax.numpy as jnp

from memjax.analysis.sensitivity_inputs import Functions, Params, SgdRun, SgdState, merge_params


def zero_adjoints(floating: Params, num_adjoints: int) -> SgdState:
    """Returns `num_adjoints` adjoints of zero, stacked along a leading axis."""

    return SgdState(_stacked_zeros(floating, num_adjoints), _stacked_zeros(floating, num_adjoints))


def _stacked_zeros(floating: Params, length: int) -> Params:
    return jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), floating)


def _example_losses(
    functions: Functions, run: SgdRun, params: Params, images: jax.Array, indices: jax.Array
) -> jax.Array:
    """Returns the losses [batch_size]; those of padding are another example's, to be masked."""
    logits = functions.logits_fn(merge_params(params, run.fixed), images)
    return jax.vmap(functions.example_loss)(logits, run.labels[jnp.maximum(indices, 0)])


def _batch_gradient(
    functions: Functions, run: SgdRun, params: Params, images: jax.Array, indices: jax.Array
) -> Params:
    """Returns the gradient of the mean loss over the real examples of one batch."""

    def mean_loss(params: Params) -> jax.Array:
        losses = _example_losses(functions, run, params, images, indices)
        is_real = (indices >= 0).astype(losses.dtype)
        return jnp.sum(losses * is_real) / jnp.sum(is_real)

    return jax.grad(mean_loss)(params)


def _update(functions: Functions, run: SgdRun, state: SgdState, step: jax.Array) -> SgdState:
    """Returns the state after one update, with the arithmetic of `optax.sgd`."""
    indices = run.batches[step]
    images = run.images[jnp.maximum(indices, 0)]
    gradient = _batch_gradient(functions, run, state.params, images, indices)

    def trace(gradient: jax.Array, param: jax.Array, momentum: jax.Array) -> jax.Array:
        decayed = gradient + run.weight_decay.astype(param.dtype) * param
        return decayed + run.momentum.astype(param.dtype) * momentum

    momentum = jax.tree.map(trace, gradient, state.params, state.momentum)
    learning_rate = run.learning_rates[step]
    params = jax.tree.map(
        lambda param, move: param + -learning_rate.astype(param.dtype) * move,
        state.params,
        momentum,
    )
    return SgdState(params, momentum)


@functools.partial(jax.jit, static_argnames="functions")
def advance(
    functions: Functions, run: SgdRun, state: SgdState, start: jax.Array, stop: jax.Array
) -> SgdState:
    """Returns the state after the updates of steps `start` to `stop - 1`."""
    return jax.lax.fori_loop(
        start, stop, lambda step, state: _update(functions, run, state, step), state
    )


@functools.partial(jax.jit, static_argnames=("functions", "length"))
def record(
    functions: Functions,
    run: SgdRun,
    state: SgdState,
    start: jax.Array,
    stop: jax.Array,
    length: int,
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
        state = _update(functions, run, state, step)
        return state, keep(trajectory, state.params, step + 1 - start)

    trajectory = keep(_stacked_zeros(state.params, length + 1), state.params, start - start)
    return jax.lax.fori_loop(start, stop, body, (state, trajectory))


@functools.partial(
    jax.jit, static_argnames="functions", donate_argnames=("adjoints", "accumulator")
)
def sweep(
    functions: Functions,
    run: SgdRun,
    trajectory: Params,
    first_step: jax.Array,
    start: jax.Array,
    stop: jax.Array,
    adjoints: SgdState,
    accumulator: jax.Array,
) -> tuple[SgdState, jax.Array]:
    """Takes adjoints of the state at step `stop` back to step `start`.

    Args:
      functions: the network and the loss.
      run: the SGD run.
      trajectory: parameters, leading axis [length + 1], row 0 at step `first_step`.
      first_step: step of the trajectory's first row.
      start: step to go back to, at least `first_step`.
      stop: step to start from.
      adjoints: leading axis [adjoints].
      accumulator: [n adjoints ...], gradients with respect to the images, gathered so far. A
        batch's rows are contiguous in this layout, which is twice as fast as the other one.

    Returns:
      The adjoints of the state at `start`, and the accumulator with the steps between added.
    """

    def body(count: jax.Array, carry: tuple[SgdState, jax.Array]) -> tuple[SgdState, jax.Array]:
        adjoints, accumulator = carry
        step = stop - 1 - count
        params = jax.tree.map(lambda rows: rows[step - first_step], trajectory)
        indices = run.batches[step]
        images = run.images[jnp.maximum(indices, 0)]
        learning_rate = run.learning_rates[step]
        _, gradient_vjp = jax.vjp(
            lambda params, images: _batch_gradient(functions, run, params, images, indices),
            params,
            images,
        )
        gradient_bar = jax.tree.map(
            lambda momentum, params: momentum - learning_rate.astype(params.dtype) * params,
            adjoints.momentum,
            adjoints.params,
        )
        product, images_bar = jax.vmap(gradient_vjp, out_axes=(0, 1))(gradient_bar)
        adjoints = SgdState(
            jax.tree.map(
                lambda bar, product, v: bar + product + run.weight_decay.astype(v.dtype) * v,
                adjoints.params,
                product,
                gradient_bar,
            ),
            jax.tree.map(lambda v: run.momentum.astype(v.dtype) * v, gradient_bar),
        )
        return adjoints, _add_rows(accumulator, indices, images_bar)

    return jax.lax.fori_loop(0, stop - start, body, (adjoints, accumulator))


def _add_rows(accumulator: jax.Array, indices: jax.Array, rows: jax.Array) -> jax.Array:
    """Adds one row per example; an index past the end drops the rows of padding."""
    rows_of = jnp.where(indices < 0, accumulator.shape[0], indices)
    return accumulator.at[rows_of].add(rows, mode="drop")


@functools.partial(
    jax.jit,
    static_argnames=("functions", "num_classes", "include_direct"),
    donate_argnames=("adjoints", "accumulator"),
)
def add_probe(
    functions: Functions,
    run: SgdRun,
    trajectory: Params,
    row: jax.Array,
    slot: jax.Array,
    microbatches: jax.Array,
    adjoints: SgdState,
    accumulator: jax.Array,
    num_classes: int | None,
    include_direct: bool,
) -> tuple[SgdState, jax.Array]:
    """Adds the gradient of the average loss at one step, split by class where asked for.

    Args:
      functions: the network and the loss.
      run: the SGD run.
      trajectory: parameters with a leading axis.
      row: which of them the loss is taken at.
      slot: where in the adjoints' axis the first (or only) class of this probe stands.
      microbatches: int [count microbatch_size], every example once, negative entries padding.
      adjoints: leading axis [adjoints]; those of this probe are zero.
      accumulator: [n adjoints ...]; those of this probe are zero.
      num_classes: number of classes, or None for the whole loss only.
      include_direct: whether an image's own term of the loss counts.

    Returns:
      The adjoints and the accumulator with this probe in.
    """
    params = jax.tree.map(lambda rows: rows[row], trajectory)
    num_examples = run.images.shape[0]
    num_columns = num_classes or 1

    def body(
        carry: tuple[Params, jax.Array], indices: jax.Array
    ) -> tuple[tuple[Params, jax.Array], None]:
        params_bar, direct = carry
        examples = jnp.maximum(indices, 0)
        losses, losses_vjp = jax.vjp(
            lambda params, images: _example_losses(functions, run, params, images, indices),
            params,
            run.images[examples],
        )
        if num_classes is None:
            members = jnp.ones((1, indices.size), losses.dtype)
        else:
            members = jax.nn.one_hot(run.labels[examples], num_classes, dtype=losses.dtype).T
        weights = jnp.where(indices >= 0, 1 / num_examples, 0).astype(losses.dtype)
        product, images_bar = jax.vmap(losses_vjp, out_axes=(0, 1))(members * weights[None])
        params_bar = jax.tree.map(jnp.add, params_bar, product)
        return (params_bar, _add_rows(direct, indices, images_bar)), None

    def add_at_slot(stacked: jax.Array, values: jax.Array, axis: int) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(stacked, values, slot, axis)

    zero = _stacked_zeros(params, num_columns)
    no_direct = jnp.zeros((num_examples, num_columns, *run.images.shape[1:]), run.images.dtype)
    (params_bar, direct), _ = jax.lax.scan(body, (zero, no_direct), microbatches)
    params_bar = jax.tree.map(
        lambda stacked, values: add_at_slot(stacked, values, 0), adjoints.params, params_bar
    )
    if include_direct:
        accumulator = add_at_slot(accumulator, direct, 1)
    return SgdState(params_bar, adjoints.momentum), accumulator
