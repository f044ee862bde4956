"""Pass `sensitivity`: how much each training example shaped the loss, through all of training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from memjax.analysis.sensitivity import loss_sensitivity, run_sgd
from memjax.analysis.statistics import gini
from memjax.data.batching import batch_rows, epoch_order
from memjax.errors import InputError
from memjax.loading import SplitArrays
from memjax.passes.base import EXAMPLE_COLUMNS, Context, Pass
from memjax.training.optimizers import make_schedule
from memjax.training.state import member_keys

MAX_TRAJECTORY_ERROR = 0.05

COLUMNS = {
    **EXAMPLE_COLUMNS,
    "sensitivity": "norm of d (mean training loss at `step`) / d image, through all updates before "
    "(nats per unit of pixel)",
    "gini": "Gini coefficient of `sensitivity` over the member's examples at this step",
    "trajectory_error": "relative l2 distance between the parameters that the differentiated "
    "updates end at and the run's checkpoint there (rounding, amplified by training); nan where "
    "statistics were frozen",
}
CLASS_COLUMNS = {
    "member": "member of the ensemble, from 0",
    "loss_class": "class i, whose terms of the loss are differentiated",
    "image_class": "class j, whose images they are differentiated by",
    "sensitivity": "mean over probes and over the images of class j of the l1 norm of "
    "d (class-i terms of the mean training loss) / d image (nats per unit of pixel)",
}


def run_batches(context: Context, member: int) -> np.ndarray:
    """Returns the examples of every SGD step of a member, as its run had them.

    Returns:
      int32 [steps padded_size]: rows of the member's own training examples; -1 is padding.
    """
    setup = context.run.setup
    seed = setup.config.seed + member
    positions = jnp.arange(setup.batches.steps_per_epoch)

    @jax.jit
    def one_epoch(epoch: jax.Array) -> jax.Array:
        order = epoch_order(member_keys(seed).order, epoch, setup.batches.num_examples)
        rows, mask = jax.vmap(lambda position: batch_rows(order, position, setup.batches))(
            positions
        )
        return jnp.where(mask, rows, -1)

    last = last_step(context)
    epochs = range(-(-last // setup.batches.steps_per_epoch))
    return np.concatenate([one_epoch(epoch) for epoch in epochs])[:last]


def _check(context: Context) -> None:
    config = context.run.config
    noisy = [name for name in ("dropout", "input_dropout", "input_noise", "hidden_noise")
             if getattr(config.regularizer, name)]  # fmt: skip
    if noisy:
        raise InputError(
            f"pass sensitivity: the run has config.regularizer.{noisy[0]}, whose randomness it "
            "does not differentiate through; it needs a run without"
        )
    if config.optimizer.name != "sgd" or config.optimizer.nesterov:
        raise InputError(
            f"pass sensitivity: config.optimizer.name={config.optimizer.name}, nesterov="
            f"{config.optimizer.nesterov}: it differentiates through sgd with or without momentum"
        )
    if config.train.compute_dtype != "float32":
        raise InputError("pass sensitivity: needs config.train.compute_dtype=float32")
    if context.run.steps[0] != 0 or last_step(context) == 0:
        raise InputError("pass sensitivity: needs the checkpoint of step 0 and a later one")


def last_step(context: Context) -> int:
    """Returns the checkpoint up to which the updates are differentiated: the last of --steps."""
    return max(context.options.steps or context.run.steps)


def _has_batch_statistics(params: dict) -> bool:
    return len(params) > 1


def _trajectory_error(context: Context, params: dict, arguments: tuple, options: dict) -> float:
    """Runs the updates again and returns how far they end from the checkpoint, relatively."""
    again = run_sgd(context.run.logits_fn, *arguments, **options)["params"]
    pairs = zip(jax.tree.leaves(again), jax.tree.leaves(params["params"]), strict=True)
    squares = [(jnp.sum((a - b) ** 2), jnp.sum(b**2)) for a, b in pairs]
    error = float(np.sqrt(sum(a for a, _ in squares) / sum(b for _, b in squares)))
    if not error < MAX_TRAJECTORY_ERROR:
        step = last_step(context)
        raise InputError(
            f"pass sensitivity: the updates run again end {error:.1%} away from the checkpoint of "
            f"step {step} (must be below {MAX_TRAJECTORY_ERROR:.0%}): training has amplified "
            "rounding; choose an earlier checkpoint with --steps"
        )
    return error


def probes(context: Context) -> np.ndarray:
    """Returns the steps probed: evenly spread, the last one always."""
    last = last_step(context)
    return np.unique(np.linspace(0, last, min(context.options.num_probes, last) + 1).astype(int))[
        1:
    ]


def member_examples(context: Context, member: int) -> SplitArrays:
    """Returns the examples that a member was trained on."""
    return context.run.train.at(context.run.is_member[member])


def _arguments(
    context: Context, member: int, arrays: SplitArrays
) -> tuple[tuple[Any, Any, Any, Any, Any], dict[str, Any], float]:
    """Returns what `loss_sensitivity` needs to follow a member's run, and the distance from it."""
    run, last = context.run, last_step(context)
    start = context.member(run.member_params(0), member)
    end = context.member(run.member_params(last), member)
    frozen = _has_batch_statistics(start)
    if frozen and not context.options.freeze_statistics:
        raise InputError(
            "pass sensitivity: the network normalises by the statistics of its training batch; "
            "--freeze_statistics measures it with the last checkpoint's statistics instead, along "
            "its own trajectory"
        )
    if frozen:
        start = {**end, "params": start["params"]}
    config, setup = run.config, run.setup
    schedule = make_schedule(
        config.optimizer, setup.batches.steps_per_epoch, config.train.num_epochs
    )
    arguments = (
        start,
        arrays.images,
        jnp.asarray(arrays.labels),
        jnp.asarray(run_batches(context, member)),
        jnp.asarray([float(schedule(step)) for step in range(last)], jnp.float32),
    )
    options: dict[str, Any] = {
        "momentum": config.optimizer.momentum,
        "weight_decay": config.regularizer.weight_decay,
    }
    error = np.nan if frozen else _trajectory_error(context, end, arguments, options)
    return arguments, options, error


def _compute(context: Context, step: None) -> pd.DataFrame:
    _check(context)
    steps, parts = probes(context), []
    for member in context.members:
        arrays = member_examples(context, member)
        arguments, options, error = _arguments(context, member, arrays)
        found = loss_sensitivity(
            context.run.logits_fn,
            *arguments,
            probe_steps=jnp.asarray(steps),
            include_direct=context.options.include_direct,
            norm_order=context.options.norm_order,
            **options,
        )
        ginis = np.asarray(gini(found.per_step, axis=1))
        per_step = np.asarray(found.per_step)
        for probe, values, coefficient in zip(steps, per_step, ginis, strict=True):
            columns = context.example_columns(int(probe), member, "train", arrays)
            found_here = {"sensitivity": values, "gini": coefficient, "trajectory_error": error}
            parts.append(pd.DataFrame(columns | found_here))
    return pd.concat(parts, ignore_index=True)


def _compute_by_class(context: Context, step: None) -> pd.DataFrame:
    _check(context)
    num_classes = context.run.setup.examples.num_classes
    if num_classes > 100:
        raise InputError(f"pass class_sensitivity: {num_classes} classes, must be at most 100")
    loss_class, image_class = np.divmod(np.arange(num_classes**2), num_classes)
    parts = []
    for member in context.members:
        arrays = member_examples(context, member)
        arguments, options, _ = _arguments(context, member, arrays)
        found = loss_sensitivity(
            context.run.logits_fn,
            *arguments,
            probe_steps=jnp.asarray(probes(context)),
            include_direct=context.options.include_direct,
            num_classes=num_classes,
            **options,
        )
        columns = {"member": member, "loss_class": loss_class, "image_class": image_class}
        values = {"sensitivity": np.asarray(found.per_class).ravel()}
        parts.append(pd.DataFrame(columns | values))
    return pd.concat(parts, ignore_index=True)


_OPTIONS = ("steps", "members", "num_probes", "include_direct", "freeze_statistics")
SENSITIVITY = Pass(
    name="sensitivity",
    summary="loss-sensitivity of every training example through all SGD updates, its Gini",
    columns=COLUMNS,
    options=(*_OPTIONS, "norm_order"),
    compute=_compute,
    per_checkpoint=False,
)
CLASS_SENSITIVITY = Pass(
    name="class_sensitivity",
    summary="loss-sensitivity by pair of classes (the paper's figure 4)",
    columns=CLASS_COLUMNS,
    options=_OPTIONS,
    compute=_compute_by_class,
    per_checkpoint=False,
)
