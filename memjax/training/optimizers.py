"""Optimisers and schedules from optax, by the names of the config."""

from typing import Any

import jax
import optax

import memjax.config as config_lib
from memjax.models.regularizers import is_off

WITH_BETAS = ("adam", "adamw", "lion")
WITH_EPS = ("adam", "adamw", "rmsprop", "adagrad")
# Theirs is not 0 unless it is told to be.
WITH_OWN_DECAY = ("adamw", "lion")
# Some of several axes too: the biases of attention heads, a transformer's positions.
NOT_DECAYED = ("bias", "scale", "position_embedding", "class_token")


def make_schedule(config: config_lib.Optimizer, steps_per_epoch: int, num_epochs: int):
    """Returns the learning rate as a function of the step.

    Args:
      config: durations in epochs.
      steps_per_epoch: turns epochs into steps.
      num_epochs: where the cosine schedule reaches 0.

    Returns:
      An optax schedule.

    Example:
      >>> config = config_lib.Optimizer(schedule="step", learning_rate=0.01, decay_epochs=15)
      >>> schedule = make_schedule(config, steps_per_epoch=10, num_epochs=100)
      >>> [round(float(schedule(step)), 6) for step in (0, 149, 150, 300)]
      [0.01, 0.01, 0.005, 0.0025]
    """
    peak = config.learning_rate
    # However short, it is at least a step.
    warmup_steps = max(config.warmup_epochs > 0, round(config.warmup_epochs * steps_per_epoch))
    if config.schedule == "constant":
        schedule = optax.constant_schedule(peak)
    elif config.schedule == "step":
        schedule = optax.exponential_decay(
            peak,
            transition_steps=max(1, round(config.decay_epochs * steps_per_epoch)),
            decay_rate=config.decay_factor,
            staircase=True,
        )
    else:
        decay_steps = max(1, num_epochs * steps_per_epoch - warmup_steps)
        schedule = optax.cosine_decay_schedule(peak, decay_steps)
    if not warmup_steps:
        return schedule
    warmup = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([warmup, schedule], [warmup_steps])


def make_optimizer(
    config: config_lib.Optimizer,
    weight_decay: float | jax.Array,
    steps_per_epoch: int,
    num_epochs: int,
) -> optax.GradientTransformation:
    """Returns the gradient transformation of a run.

    The gradient is clipped to `config.clip_norm` first. `weight_decay` adds its multiple of the
    parameters that `config.decay_mask` names to the gradient (an L2 penalty of half that
    strength); for adamw and lion it is optax's decoupled decay. It and `config.learning_rate` may
    be traced scalars.

    Example:
      >>> import jax.numpy as jnp
      >>> config = config_lib.Optimizer(learning_rate=1.0, clip_norm=2.0, decay_mask="kernels")
      >>> optimizer = make_optimizer(config, weight_decay=0.5, steps_per_epoch=10, num_epochs=1)
      >>> params = {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}
      >>> gradient = jax.tree.map(lambda leaf: 0 * leaf, params)
      >>> updates, _ = optimizer.update(gradient, optimizer.init(params), params)
      >>> {name: float(update.sum()) for name, update in updates.items()}
      {'bias': -0.0, 'kernel': -0.5}
    """
    learning_rate = make_schedule(config, steps_per_epoch, num_epochs)
    if config.schedule == "constant" and not config.warmup_epochs:
        learning_rate = config.learning_rate  # no step counter to carry
    mask = is_decayed if config.decay_mask == "kernels" else None
    parts = []
    if not is_off(config.clip_norm):
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    is_decoupled = config.name in WITH_OWN_DECAY
    decays = {"weight_decay": weight_decay, "mask": mask} if is_decoupled else {}
    if not decays and not is_off(weight_decay):
        parts.append(optax.add_decayed_weights(weight_decay, mask))
    parts.append(_named(config, learning_rate, decays))
    return parts[0] if len(parts) == 1 else optax.chain(*parts)


def _named(config: config_lib.Optimizer, learning_rate: Any, decays: dict[str, Any]):
    fields = dict(decays)
    if config.name in ("sgd", "rmsprop"):
        fields |= {"momentum": config.momentum or None, "nesterov": config.nesterov}
    if config.betas and config.name in WITH_BETAS:
        fields |= {"b1": config.betas[0], "b2": config.betas[1]}
    if config.eps and config.name in WITH_EPS:
        fields["eps"] = config.eps
    return getattr(optax, config.name)(learning_rate, **fields)


def is_decayed(params: Any) -> Any:
    """Returns which parameters weight decay acts on where norms and biases are left out.

    Kernels and embeddings: of two axes or more, and not named as what is added or scales.

    Args:
      params: a pytree of arrays, of one member.

    Returns:
      A pytree of bool like `params`.

    Example:
      >>> import jax.numpy as jnp
      >>> is_decayed({"Dense_0": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}})
      {'Dense_0': {'bias': False, 'kernel': True}}
    """

    def one(path: tuple, leaf: jax.Array) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return leaf.ndim > 1 and name not in NOT_DECAYED

    return jax.tree_util.tree_map_with_path(one, params)
