"""An SGD run as data: what the loss-sensitivity is given, checked and put into arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.errors import InputError

Params = Any


class Functions(NamedTuple):
    """What the compiled functions are specialised to."""

    logits_fn: Callable[[Params, jax.Array], jax.Array]
    example_loss: Callable[[jax.Array, jax.Array], jax.Array]


class SgdRun(NamedTuple):
    """All that an SGD run is made of, but for the parameters that it moves.

    `images: [n ...]`, `labels: [n ...]`, `batches: [steps batch_size]` (negative: padding),
    `learning_rates: [steps]`, `momentum` and `weight_decay` scalars, `fixed` the params tree with
    None in place of every floating-point leaf.
    """

    images: jax.Array
    labels: jax.Array
    batches: jax.Array
    learning_rates: jax.Array
    momentum: jax.Array
    weight_decay: jax.Array
    fixed: Params


class SgdState(NamedTuple):
    """The floating-point parameters and their momentum buffers; the adjoint has the same form."""

    params: Params
    momentum: Params


def split_params(params: Params) -> tuple[Params, Params]:
    """Returns `params` twice: with floating-point leaves only, and with all the others only."""
    arrays = jax.tree.map(jnp.asarray, params)
    is_float = jax.tree.map(lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating), arrays)
    floating = jax.tree.map(lambda leaf, keep: leaf if keep else None, arrays, is_float)
    fixed = jax.tree.map(lambda leaf, drop: None if drop else leaf, arrays, is_float)
    return floating, fixed


def merge_params(floating: Params, fixed: Params) -> Params:
    """Returns the whole params tree again, the inverse of `split_params`."""
    return jax.tree.map(
        lambda left, right: right if left is None else left,
        floating,
        fixed,
        is_leaf=lambda leaf: leaf is None,
    )


def initial_state(floating: Params) -> SgdState:
    """Returns the state before the first update: a momentum of zeros."""
    return SgdState(floating, jax.tree.map(jnp.zeros_like, floating))


class Problem(NamedTuple):
    """A checked run, as the compiled functions take it."""

    functions: Functions
    run: SgdRun
    start: SgdState
    num_steps: int


def check_run(
    logits_fn: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    learning_rate: float | jax.Array,
    momentum: float,
    weight_decay: float,
    example_loss: Callable[[jax.Array, jax.Array], jax.Array],
) -> Problem:
    """Returns the run, or raises InputError."""
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    if images.ndim == 0 or images.shape[0] == 0:
        raise InputError(f"images have shape {images.shape}, must be [n ...] with n at least 1")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"images are {images.dtype}, must be floating point to be differentiated")
    if labels.ndim == 0 or labels.shape[0] != images.shape[0]:
        raise InputError(f"labels have shape {labels.shape}, must be [{images.shape[0]} ...]")
    indices = _integers("batches", batches, num_axes=2)
    if indices.max() >= images.shape[0]:
        raise InputError(f"batches name example {indices.max()} of {images.shape[0]}")
    if not (indices >= 0).any(axis=1).all():
        step = int((indices >= 0).any(axis=1).argmin())
        raise InputError(f"batches[{step}] is all padding, must hold at least one example")
    num_steps = len(indices)
    rates = np.asarray(learning_rate)
    if rates.shape not in ((), (num_steps,)):
        raise InputError(f"learning_rate has shape {rates.shape}, must be () or ({num_steps},)")
    floating, fixed = split_params(params)
    if not jax.tree.leaves(floating):
        raise InputError("params have no floating-point leaf, so there is nothing to train")
    run = SgdRun(
        images, labels, jnp.asarray(indices, jnp.int32),
        jnp.broadcast_to(jnp.asarray(rates, float), (num_steps,)),
        jnp.asarray(momentum, float), jnp.asarray(weight_decay, float), fixed,
    )  # fmt: skip
    return Problem(Functions(logits_fn, example_loss), run, initial_state(floating), num_steps)


def _integers(name: str, values: Any, num_axes: int) -> np.ndarray:
    """Returns `values` as a NumPy array, or raises InputError unless they are integers."""
    array = np.asarray(values)
    if array.ndim != num_axes or array.size == 0:
        raise InputError(f"{name} have shape {array.shape}, must have {num_axes} axes, none empty")
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} are {array.dtype}, must be integers")
    return array


def check_probes(probe_steps: Any, num_steps: int) -> np.ndarray:
    steps = _integers("probe_steps", probe_steps, num_axes=1)
    outside = steps[(steps < 0) | (steps > num_steps)]
    if outside.size:
        raise InputError(f"probe_steps hold {outside[0]}, must be in 0..{num_steps} (updates)")
    return steps


def check_num_classes(num_classes: int | None, labels: jax.Array) -> None:
    if num_classes is None:
        return
    classes = _integers("labels", labels, num_axes=1)
    if classes.min() < 0 or classes.max() >= num_classes:
        raise InputError(
            f"labels are in {classes.min()}..{classes.max()}, must be in 0..{num_classes - 1} "
            f"(num_classes is {num_classes})"
        )


def positive(name: str, value: int | None, default: int) -> int:
    if value is None:
        return default
    if value < 1:
        raise InputError(f"{name} is {value}, must be at least 1")
    return int(value)
