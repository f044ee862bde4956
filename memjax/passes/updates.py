"""The updates of a run, as what differentiates through training takes them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memjax.analysis.sensitivity import run_sgd
from memjax.config import flatten
from memjax.data.batching import Batches, batch_rows, epoch_order
from memjax.errors import InputError
from memjax.models.adapters import FIXED
from memjax.passes.base import Context
from memjax.split_arrays import SplitArrays
from memjax.training.optimizers import is_decayed, make_schedule
from memjax.training.setup import abstract_state
from memjax.training.state import TrainState, member_keys
from memjax.training.step import Batch, make_train_step

# What makes an update another one than plain SGD on the images and labels.
NOT_DIFFERENTIATED = (
    "regularizer.dropout",
    "regularizer.input_dropout",
    "regularizer.input_noise",
    "regularizer.hidden_noise",
    "regularizer.adversarial_weight",
    "augmentation.crop",
    "augmentation.flip",
    "augmentation.cutout",
    "augmentation.mixup",
    "train.label_smoothing",
    "optimizer.clip_norm",
)


@functools.partial(jax.jit, static_argnames=("batches", "num_epochs"))
def _batches_of_epochs(seed: jax.Array, batches: Batches, num_epochs: int) -> jax.Array:
    key = member_keys(seed).order
    positions = jnp.arange(batches.steps_per_epoch)

    def one_epoch(epoch: jax.Array) -> jax.Array:
        order = epoch_order(key, epoch, batches.num_examples)
        rows, mask = jax.vmap(lambda position: batch_rows(order, position, batches))(positions)
        return jnp.where(mask, rows, -1)

    return jnp.concatenate(jax.lax.map(one_epoch, jnp.arange(num_epochs)))


def run_batches(context: Context, member: int) -> jax.Array:
    """Returns the examples of every SGD step of a member, as its run had them.

    Returns:
      int32 [steps padded_size]: rows of the member's own training examples; -1 is padding.
    """
    setup, last = context.run.setup, last_step_of(context, member)
    num_epochs = -(-last // setup.batches.steps_per_epoch)
    seed = jnp.int32(setup.config.seed + member)
    return _batches_of_epochs(seed, setup.batches, num_epochs)[:last]


def check_updates(context: Context, name: str, any_optimizer: bool = False) -> None:
    """Raises InputError unless a pass of that name can differentiate through the run's updates."""
    config = context.run.config
    values = flatten(config.as_dict())
    used = [field for field in NOT_DIFFERENTIATED if values[field]]
    if used:
        raise InputError(
            f"pass {name}: the run has config.{used[0]}={values[used[0]]}, and the updates "
            "that are differentiated know nothing of it; it needs a run without"
        )
    is_sgd = config.optimizer.name == "sgd" and not config.optimizer.nesterov
    if not (is_sgd or any_optimizer):
        raise InputError(
            f"pass {name}: config.optimizer.name={config.optimizer.name}, nesterov="
            f"{config.optimizer.nesterov}: it differentiates through sgd with or without momentum"
        )
    if config.train.compute_dtype != "float32":
        raise InputError(f"pass {name}: needs config.train.compute_dtype=float32")
    if context.run.steps[0] != 0 or last_step(context) == 0:
        raise InputError(f"pass {name}: needs the checkpoint of step 0 and a later one")
    if _draws_numbers(context):
        raise InputError(
            f"pass {name}: the network draws random numbers in training (dropout, noise), and "
            "an update is then no function of the images alone that could be differentiated; it "
            "needs a network without"
        )
    if not _has_batch_statistics(context):
        return
    if not is_sgd:
        raise InputError(
            f"pass {name}: the network normalises by the statistics of its training batch, and "
            f"with config.optimizer.name={config.optimizer.name} these cannot be frozen; it needs "
            "sgd"
        )
    if not context.options.freeze_statistics:
        raise InputError(
            f"pass {name}: the network normalises by the statistics of its training batch; "
            "--freeze_statistics measures it with the last checkpoint's statistics instead, along "
            "its own trajectory"
        )


def _draws_numbers(context: Context) -> bool:
    """Whether the training loss of some examples changes with the step's key."""
    return bool(context.shared(_find_drawn_numbers))


def _find_drawn_numbers(context: Context) -> bool:
    optimizer = optax.sgd(0.0)
    train_step = make_train_step(context.run.setup.network, optimizer)
    params = context.member(context.run.member_params(context.run.steps[0]), 0)
    arrays = member_examples(context, 0).at(slice(16))
    batch = Batch(arrays.images, jnp.asarray(arrays.labels))

    @jax.jit
    def loss(params: Any, batch: Batch, key: jax.Array) -> jax.Array:
        state = TrainState(params, optimizer.init(params["params"]))
        return train_step(state, batch, key)[1]["loss"]

    first, *others = (np.asarray(loss(params, batch, jax.random.key(seed))) for seed in range(3))
    return not all(np.array_equal(first, other, equal_nan=True) for other in others)


def last_step(context: Context) -> int:
    """Returns the checkpoint up to which the updates are differentiated: the last of --steps."""
    return context.steps[-1]


def last_step_of(context: Context, member: int) -> int:
    """Returns the last of these updates that a member was trained with; it may have ended."""
    return min(last_step(context), context.run.last_step(member))


def _has_batch_statistics(context: Context) -> bool:
    return not set(abstract_state(context.run.setup).params) <= {"params", FIXED}


def _trajectory_error(context: Context, params: dict, updates: dict[str, Any]) -> float:
    """Runs the updates again and returns how far they end from the checkpoint, relatively."""
    return check_end(context, run_sgd(context.run.trained_logits_fn, **updates), params)


def check_end(context: Context, again: Any, params: Any, name: str = "sensitivity") -> float:
    """Returns how far apart the trained leaves are, relatively; raises InputError where too far."""
    pairs = zip(jax.tree.leaves(again["params"]), jax.tree.leaves(params["params"]), strict=True)
    squares = [(jnp.sum((a - b) ** 2), jnp.sum(b**2)) for a, b in pairs]
    error = float(np.sqrt(sum(a for a, _ in squares) / sum(b for _, b in squares)))
    most = context.options.max_trajectory_error
    if not error < most:
        step = last_step(context)
        raise InputError(
            f"pass {name}: the updates run again end {error:.1%} away from the checkpoint of "
            f"step {step} (must be below {most:.0%}): training has amplified rounding; choose an "
            "earlier checkpoint with --steps, or allow more with --max_trajectory_error: what is "
            "measured is then a training of its own, from the same start in the same order"
        )
    return error


def member_examples(context: Context, member: int) -> SplitArrays:
    """Returns the examples that a member was trained on."""
    return context.run.train.at(context.run.is_member[member])


def sgd_updates(context: Context, member: int) -> dict[str, Any]:
    """Returns a member's run as `run_sgd` takes it."""
    run, last = context.run, last_step_of(context, member)
    config, arrays = run.config, member_examples(context, member)
    start = context.member(run.member_params(0), member)
    end = member_end(context, member)
    frozen = _has_batch_statistics(context)
    if frozen:
        start = {**end, "params": start["params"]}
    schedule = make_schedule(
        config.optimizer, run.setup.batches.steps_per_epoch, config.train.num_epochs
    )
    decay: Any = config.regularizer.weight_decay
    if decay and config.optimizer.decay_mask == "kernels":
        decay = jax.tree.map(lambda decays: decay * decays, is_decayed(start["params"]))
    return {
        "params": start,
        "images": arrays.images,
        "labels": jnp.asarray(arrays.labels),
        "batches": run_batches(context, member),
        "learning_rate": jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32))(
            jnp.arange(last)
        ),
        "momentum": config.optimizer.momentum,
        "weight_decay": {name: decay if name == "params" else 0.0 for name in start},
    }


def member_updates(context: Context, member: int) -> tuple[dict[str, Any], float]:
    """Returns a member's run as `run_sgd` takes it, and how far from the checkpoint that ends."""
    updates = sgd_updates(context, member)
    if _has_batch_statistics(context):
        return updates, np.nan
    return updates, _trajectory_error(context, member_end(context, member), updates)


def member_end(context: Context, member: int) -> Any:
    """Returns a member's params at the last checkpoint looked at."""
    return context.member(context.run.member_params(last_step(context)), member)
