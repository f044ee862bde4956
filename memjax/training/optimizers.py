"""Optimisers and schedules from optax, by the names of the config."""

import jax
import optax

from memjax import config as config_lib
from memjax.training.regularizers import is_off


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

    `weight_decay` adds its multiple of every parameter to the gradient (an L2 penalty of half
    that strength); for adamw it is optax's decoupled decay. It and `config.learning_rate` may be
    traced scalars.
    """
    learning_rate = make_schedule(config, steps_per_epoch, num_epochs)
    if config.schedule == "constant" and not config.warmup_epochs:
        learning_rate = config.learning_rate  # no step counter to carry
    if config.name == "adamw":
        return optax.adamw(learning_rate, weight_decay=weight_decay)
    if config.name == "sgd":
        momentum = config.momentum or None
        optimizer = optax.sgd(learning_rate, momentum, nesterov=config.nesterov)
    elif config.name == "rmsprop":
        optimizer = optax.rmsprop(
            learning_rate, momentum=config.momentum or None, nesterov=config.nesterov
        )
    else:
        optimizer = getattr(optax, config.name)(learning_rate)
    if not is_off(weight_decay):
        return optax.chain(optax.add_decayed_weights(weight_decay), optimizer)
    return optimizer
