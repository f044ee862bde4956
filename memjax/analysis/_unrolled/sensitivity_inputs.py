"""An SGD run as data: what the loss-sensitivity is given, checked and put into arrays."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from memjax.analysis._arguments import check_number
from memjax.analysis._leaves import Params, split_params
from memjax.analysis.microbatch import check_on_one_device, check_size
from memjax.errors import InputError


class Program(NamedTuple):
    """What the compiled functions are specialised to; adjoints are shared out over the mesh."""

    logits_fn: Callable[[Params, jax.Array], jax.Array]
    example_loss: Callable[[jax.Array, jax.Array], jax.Array]
    mesh: Mesh | None

    @property
    def num_devices(self) -> int:
        return self.mesh.size if self.mesh is not None else 1

    def sharding(self, *axes_before: None, shared: bool = True) -> NamedSharding | None:
        """Returns the sharding of an array whose next axis is shared out over all devices."""
        if self.mesh is None:
            return None
        names = (self.mesh.axis_names,) if shared else ()
        return NamedSharding(self.mesh, PartitionSpec(*axes_before, *names))


class SgdRun(NamedTuple):
    """All that an SGD run is made of, but for the parameters that it moves.

    `images: [n ...]`, `labels: [n ...]`, `batches: [steps batch_size]` (negative: padding),
    `learning_rates: [steps]`, `momentum` a scalar, `weight_decay` a scalar per floating-point leaf
    of params, `fixed` the params tree with None in place of those leaves.
    """

    images: jax.Array
    labels: jax.Array
    batches: jax.Array
    learning_rates: jax.Array
    momentum: jax.Array
    weight_decay: Params
    fixed: Params


class SgdState(NamedTuple):
    """The floating-point parameters and their momentum buffers; the adjoint has the same form."""

    params: Params
    momentum: Params


def initial_state(floating: Params) -> SgdState:
    """Returns the state before the first update: a momentum of zeros."""
    return SgdState(floating, jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), floating))


def make_program(
    logits_fn: Callable[[Params, jax.Array], jax.Array],
    example_loss: Callable[[jax.Array, jax.Array], jax.Array],
    mesh: Mesh | None = None,
) -> Program:
    """Returns the program; a mesh of one device counts as none, its axes become automatic ones."""
    if mesh is not None:
        mesh = Mesh(mesh.devices, mesh.axis_names) if mesh.size > 1 else None
    return Program(logits_fn, example_loss, mesh)


class Problem(NamedTuple):
    """A checked run, as the compiled functions take it."""

    program: Program
    run: SgdRun
    start: SgdState
    num_steps: int


def check_run(
    program: Program,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    learning_rate: float | jax.Array,
    momentum: float,
    weight_decay: Any,
) -> Problem:
    """Returns the run, or raises InputError."""
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    if images.ndim == 0 or images.shape[0] == 0:
        raise InputError(f"images have shape {images.shape}, must be [n ...] with n at least 1")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"images are {images.dtype}, must be floating point to be differentiated")
    if labels.ndim == 0 or labels.shape[0] != images.shape[0]:
        raise InputError(f"labels have shape {labels.shape}, must be [{images.shape[0]} ...]")
    check_on_one_device(images, labels)
    indices = _check_batches(batches, images.shape[0])
    rates = _check_rates(learning_rate, len(indices))
    check_number("momentum", momentum)
    floating, fixed = split_params(params)
    if not jax.tree.leaves(floating):
        raise InputError("params have no floating-point leaf, so there is nothing to train")
    # NumPy here: small jax operations one by one would cost more to compile than to run.
    real = jax.dtypes.canonicalize_dtype(float).type
    run = SgdRun(
        images,
        labels,
        jnp.asarray(indices.astype(np.int32)),
        jnp.asarray(np.broadcast_to(rates, indices.shape[:1]).astype(real)),
        real(momentum),
        _weight_decay_per_leaf(weight_decay, params, floating, real),
        fixed,
    )
    everywhere = program.sharding(shared=False)
    run, start = jax.device_put((run, initial_state(floating)), everywhere)
    return Problem(program, run, start, len(indices))


def _check_rates(learning_rate: Any, num_steps: int) -> np.ndarray:
    rates = np.asarray(learning_rate)
    if rates.shape not in ((), (num_steps,)):
        raise InputError(f"learning_rate has shape {rates.shape}, must be () or [{num_steps}]")
    if not any(jnp.issubdtype(rates.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise InputError(f"learning_rate is {learning_rate!r}, must be a number or [{num_steps}]")
    if not np.isfinite(rates).all():
        raise InputError(f"learning_rate is {rates[~np.isfinite(rates)][0]}, must be finite")
    return rates


def _check_batches(batches: Any, num_examples: int) -> np.ndarray:
    indices = integers("batches", batches, num_axes=2)
    if indices.max() >= num_examples:
        raise InputError(f"batches hold {indices.max()}, must be below {num_examples} (examples)")
    has_examples = (indices >= 0).any(axis=1)
    if not has_examples.all():
        step = has_examples.argmin()
        raise InputError(f"batches[{step}] is all padding, must hold at least one example")
    return indices


def _weight_decay_per_leaf(
    weight_decay: Any, params: Params, floating: Params, real: type
) -> Params:
    """Returns a scalar for every floating-point leaf of params."""
    try:
        per_leaf = jax.tree.broadcast(weight_decay, params)
    except ValueError as error:
        raise InputError("weight_decay must be a scalar or a tree prefix of params") from error
    return jax.tree.map(
        lambda leaf, decay: None if leaf is None else real(check_number("weight_decay", decay)),
        floating,
        per_leaf,
        is_leaf=lambda leaf: leaf is None,
    )


def check_below(name: str, indices: np.ndarray, num_examples: int) -> None:
    """Raises InputError for an index that no example has."""
    outside = indices[(indices < 0) | (indices >= num_examples)]
    if outside.size:
        raise InputError(f"{name} hold {outside[0]}, must be in 0..{num_examples - 1} (examples)")


def integers(name: str, values: Any, num_axes: int) -> np.ndarray:
    """Returns `values` as a NumPy array, or raises InputError unless they are integers."""
    array = np.asarray(values)
    if array.ndim != num_axes or array.size == 0:
        raise InputError(f"{name} have shape {array.shape}, must have {num_axes} axes, none empty")
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} are {array.dtype}, must be integers")
    return array


def check_probes(probe_steps: Any, num_steps: int) -> np.ndarray:
    """Returns the probed steps as integers, [k], each in 0..num_steps; raises InputError if not."""
    steps = integers("probe_steps", probe_steps, num_axes=1)
    outside = steps[(steps < 0) | (steps > num_steps)]
    if outside.size:
        raise InputError(f"probe_steps hold {outside[0]}, must be in 0..{num_steps} (updates)")
    return steps


def check_num_classes(num_classes: int | None, labels: jax.Array) -> None:
    """Raises InputError if labels [n] are outside the classes; None checks nothing."""
    if num_classes is None:
        return
    classes = integers("labels", labels, num_axes=1)
    if classes.min() < 0 or classes.max() >= num_classes:
        raise InputError(
            f"labels are in {classes.min()}..{classes.max()}, must be in 0..{num_classes - 1} "
            f"(num_classes is {num_classes})"
        )


def positive(name: str, value: int | None, default: int) -> int:
    """Returns an integer of at least 1, or the default; raises InputError for all else."""
    if value is None:
        return default
    try:
        return check_size(name, value)
    except InputError:
        raise InputError(f"{name} is {value!r}, must be an integer of at least 1") from None


def microbatches(problem: Problem, microbatch_size: int | None) -> jax.Array:
    """Returns every example once, int [count microbatch_size], padded with -1."""
    num_examples = problem.run.images.shape[0]
    size = positive("microbatch_size", microbatch_size, problem.run.batches.shape[1])
    size = min(size, num_examples)
    padded = np.full(math.ceil(num_examples / size) * size, -1, np.int32)
    padded[:num_examples] = np.arange(num_examples)
    return jax.device_put(padded.reshape(-1, size), problem.program.sharding(shared=False))


def num_bytes(tree: Any) -> int:
    """Returns the bytes of all arrays of a pytree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
