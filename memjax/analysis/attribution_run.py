"""Training with a weight for every example, as data and as one differentiable step."""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

from memjax.analysis._leaves import merge_params
from memjax.analysis._unrolled import sensitivity_inputs as inputs
from memjax.analysis._unrolled.sensitivity_inputs import Params, SgdRun
from memjax.analysis.inputs import as_array, check_model, check_params
from memjax.errors import InputError


class Training(NamedTuple):
    """What the compiled functions are specialised to.

    Attributes:
      program: the network, the loss, and the devices that queries are shared out over.
      optimizer: any optax optimiser; None is SGD by the fields of the run, whose way back is known
        in closed form.
      has_momentum: for SGD, whether there is a momentum buffer at all.
    """

    program: inputs.Program
    optimizer: optax.GradientTransformation | None
    has_momentum: bool


class State(NamedTuple):
    """The floating-point parameters, and the momentum buffer or the optimiser's own state."""

    params: Params
    optimizer: Any


class Problem(NamedTuple):
    """A checked training, as the compiled functions take it."""

    training: Training
    run: SgdRun
    start: State
    num_steps: int


def make_problem(
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    learning_rate: float | jax.Array | None,
    *,
    momentum: float,
    weight_decay: Any,
    optimizer: optax.GradientTransformation | None,
    example_loss: Callable[[jax.Array, jax.Array], jax.Array],
    mesh: jax.sharding.Mesh | None = None,
) -> Problem:
    """Returns the training, or raises InputError."""
    program = inputs.make_program(logits_fn, example_loss, mesh)
    _check_optimizer(optimizer, learning_rate, momentum, weight_decay)
    check_precision(check_params(params), images)
    check_model(logits_fn, params, images, labels, example_loss=example_loss, by_params=True)
    checked = inputs.check_run(
        program, params, images, labels, batches,
        0.0 if learning_rate is None else learning_rate, momentum, weight_decay,
    )  # fmt: skip
    training = Training(program, optimizer, bool(np.any(momentum)))
    floating = checked.start.params
    if optimizer is not None:
        own = optimizer.init(floating)
    else:
        own = checked.start.momentum if training.has_momentum else None
    start = jax.device_put(State(floating, own), program.sharding(shared=False))
    return Problem(training, checked.run, start, checked.num_steps)


def _check_optimizer(
    optimizer: optax.GradientTransformation | None,
    learning_rate: Any,
    momentum: Any,
    weight_decay: Any,
) -> None:
    if optimizer is None:
        if learning_rate is None:
            raise InputError("learning_rate is None, must be a number or [steps] without optimizer")
    else:
        given = {"learning_rate": learning_rate is not None, "momentum": np.any(momentum)}
        given["weight_decay"] = any(np.any(leaf) for leaf in jax.tree.leaves(weight_decay))
        for name, is_given in given.items():
            if is_given:
                raise InputError(
                    f"{name} is given beside optimizer, which has its own; leave it "
                    + ("None" if name == "learning_rate" else "0")
                )


def check_precision(params: Any, images: Any, name: str = "images") -> None:
    """Raises InputError where a difference of two trainings would drown in rounding."""
    for named, tree in (("params", params), (name, images)):
        for leaf in jax.tree.leaves(tree):
            dtype = as_array(named, leaf).dtype
            if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32:
                raise InputError(
                    f"{named} are {dtype}: its rounding is larger than what one example does to "
                    "training; attribution needs float32 or float64"
                )


def batch_examples(run: SgdRun, step: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the indices [batch_size] of a step, its images and its labels (padding: row 0)."""
    indices = run.batches[step]
    examples = jnp.maximum(indices, 0)
    return indices, run.images[examples], run.labels[examples]


def example_losses(
    program: inputs.Program, fixed: Params, params: Params, images: jax.Array, labels: jax.Array
) -> jax.Array:
    """Returns the losses [batch_size]."""
    logits = program.logits_fn(merge_params(params, fixed), images)
    return jax.vmap(program.example_loss)(logits, labels)


def batch_gradient(
    training: Training, run: SgdRun, params: Params, step: jax.Array, weights: jax.Array
) -> tuple[Params, jax.Array]:
    """Returns the gradient of sum_i weights_i loss_i / (real examples), and the losses.

    weights: [batch_size], those of the step's examples.
    """
    indices, images, labels = batch_examples(run, step)

    def mean_loss(params: Params) -> tuple[jax.Array, jax.Array]:
        losses = example_losses(training.program, run.fixed, params, images, labels)
        is_real = (indices >= 0).astype(losses.dtype)
        counted = losses * (is_real * weights.astype(losses.dtype))
        return jnp.sum(counted) / jnp.sum(is_real), losses

    return jax.grad(mean_loss, has_aux=True)(params)


def apply_gradient(
    training: Training, run: SgdRun, state: State, gradient: Params, step: jax.Array
) -> State:
    """Returns the state after the optimiser's update, with the arithmetic of optax."""
    if training.optimizer is not None:
        updates, own = training.optimizer.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), own)

    def decayed(gradient, param, decay):
        return gradient + decay.astype(param.dtype) * param

    move = jax.tree.map(decayed, gradient, state.params, run.weight_decay)
    own = None
    if training.has_momentum:
        move = own = jax.tree.map(
            lambda move, momentum: move + run.momentum.astype(move.dtype) * momentum,
            move,
            state.optimizer,
        )
    rate = run.learning_rates[step]
    params = jax.tree.map(
        lambda param, move: param + -rate.astype(param.dtype) * move, state.params, move
    )
    return State(params, own)


def update(
    training: Training, run: SgdRun, state: State, step: jax.Array, weights: jax.Array
) -> State:
    """Returns the state after one update; weights: [batch_size]."""
    gradient, _ = batch_gradient(training, run, state.params, step, weights)
    return apply_gradient(training, run, state, gradient, step)


@functools.partial(jax.jit, static_argnames="training")
def advance(training: Training, run: SgdRun, state: State) -> State:
    """Returns the state after all updates, all weights 1."""
    ones = jnp.ones(run.batches.shape[1])
    return jax.lax.fori_loop(
        0,
        run.batches.shape[0],
        lambda step, state: update(training, run, state, step, ones),
        state,
    )


def kept(training: Training, state: State) -> Any:
    """Returns what the way back needs of a state: of SGD, the parameters are enough."""
    return state.params if training.optimizer is None else state


@functools.partial(jax.jit, static_argnames=("training", "length"))
def record(
    training: Training, run: SgdRun, state: State, start: jax.Array, stop: jax.Array, length: int
) -> tuple[State, Any]:
    """Returns the state at `stop`, and what is kept of steps `start` to `start + length`."""
    ones = jnp.ones(run.batches.shape[1])

    def keep(rows: Any, state: State, row: jax.Array) -> Any:
        return jax.tree.map(lambda rows, leaf: rows.at[row].set(leaf), rows, kept(training, state))

    def body(step: jax.Array, carry: tuple[State, Any]) -> tuple[State, Any]:
        state, rows = carry
        state = update(training, run, state, step, ones)
        return state, keep(rows, state, step + 1 - start)

    rows = jax.tree.map(
        lambda leaf: jnp.zeros((length + 1, *jnp.shape(leaf)), jnp.asarray(leaf).dtype),
        kept(training, state),
    )
    return jax.lax.fori_loop(start, stop, body, (state, keep(rows, state, start - start)))


def symmetric_second_derivative(problem: Problem) -> bool:
    """Returns whether the Hessian of the loss is sure to equal its transpose.

    It does where JAX derives it. A custom derivative may be none (straight-through estimators, for
    example), and a `custom_vjp` has no forward mode at all.
    """
    training, run, params = problem.training, problem.run, problem.start.params
    losses = jax.make_jaxpr(
        lambda params: example_losses(
            training.program, run.fixed, params, *batch_examples(run, jnp.int32(0))[1:]
        )
    )(params)
    return all(map(_is_true_derivative, _custom_derivatives(losses.jaxpr)))


# Functions of JAX and of memjax whose custom derivative is the derivative.
_TRUE_DERIVATIVES = frozenset({"relu", "relu6", "logsumexp", "softmax", "_window_max"})
_OWN_FOLDERS = (f"{Path(jax.__file__).parent}{os.sep}", f"{Path(__file__).parents[1]}{os.sep}")


def _is_true_derivative(function: str) -> bool:
    """Whether a function "name at file:line" is one of those; a user's may have the same name."""
    name, _, place = function.partition(" at ")
    return name in _TRUE_DERIVATIVES and place.startswith(_OWN_FOLDERS)


def _custom_derivatives(jaxpr: Any) -> Iterator[str]:
    """Yields all functions with a custom derivative in a jaxpr, as "name at file:line"."""
    for equation in jaxpr.eqns:
        if equation.primitive.name.startswith("custom_jvp"):
            info = getattr(equation.params.get("call_jaxpr"), "jaxpr", None)
            yield str(getattr(getattr(info, "debug_info", None), "func_src_info", ""))
        elif equation.primitive.name.startswith("custom"):
            yield equation.primitive.name
        for inner in core.jaxprs_in_params(equation.params):
            yield from _custom_derivatives(inner)
