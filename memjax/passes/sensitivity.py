"""Pass `sensitivity`: how much each training example shaped the loss, through all of training."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd

from memjax.analysis.sensitivity import Sensitivity, loss_sensitivity
from memjax.analysis.statistics import gini
from memjax.errors import InputError
from memjax.passes.base import EXAMPLE_COLUMNS, Context, Pass
from memjax.passes.updates import check_updates, last_step_of, member_examples, member_updates

MAX_CLASSES = 100


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


def _check(context: Context) -> None:
    check_updates(context, "sensitivity")


def _check_by_class(context: Context) -> None:
    _check(context)
    num_classes = context.run.setup.examples.num_classes
    if num_classes > MAX_CLASSES:
        raise InputError(
            f"pass class_sensitivity: {num_classes} classes, must be at most {MAX_CLASSES}"
        )


def probes(context: Context, count: int, member: int = 0) -> np.ndarray:
    """Returns the steps probed: `count` evenly spread ones, the member's last step always."""
    last = last_step_of(context, member)
    return np.unique(np.linspace(0, last, min(count, last) + 1).astype(int))[1:]


def _measure(
    context: Context, member: int, steps: np.ndarray, **chosen: Any
) -> tuple[Sensitivity, float]:
    """Returns the sensitivity of a member's run at the probes, and the trajectory error."""
    updates, error = member_updates(context, member)
    found = loss_sensitivity(
        context.run.trained_logits_fn,
        **updates,
        probe_steps=jnp.asarray(steps),
        include_direct=context.options.include_direct,
        microbatch_size=context.microbatch_size,
        mesh=context.mesh if context.mesh.size > 1 else None,
        **chosen,
    )
    return found, error


def _compute(context: Context, step: None) -> pd.DataFrame:
    parts = []
    for member in context.members:
        steps = probes(context, context.options.num_probes, member)
        arrays = member_examples(context, member)
        found, error = _measure(context, member, steps, norm_order=context.options.norm_order)
        ginis = np.asarray(gini(found.per_step, axis=1))
        per_step = np.asarray(found.per_step)
        for probe, values, coefficient in zip(steps, per_step, ginis, strict=True):
            columns = context.example_columns(int(probe), member, "train", arrays)
            found_here = {"sensitivity": values, "gini": coefficient, "trajectory_error": error}
            parts.append(pd.DataFrame(columns | found_here))
    return pd.concat(parts, ignore_index=True)


def _compute_by_class(context: Context, step: None) -> pd.DataFrame:
    num_classes = context.run.setup.examples.num_classes
    loss_class, image_class = np.divmod(np.arange(num_classes**2), num_classes)
    parts = []
    for member in context.members:
        steps = probes(context, context.options.num_class_probes, member)
        found, _ = _measure(context, member, steps, num_classes=num_classes)
        columns = {"member": member, "loss_class": loss_class, "image_class": image_class}
        values = {"sensitivity": np.asarray(found.per_class).ravel()}
        parts.append(pd.DataFrame(columns | values))
    return pd.concat(parts, ignore_index=True)


_OPTIONS = ("steps", "members", "include_direct", "freeze_statistics")
SENSITIVITY = Pass(
    name="sensitivity",
    summary="loss-sensitivity of every training example through all SGD updates, its Gini",
    columns=COLUMNS,
    options=(*_OPTIONS, "num_probes", "norm_order"),
    compute=_compute,
    per_checkpoint=False,
    check=_check,
)
CLASS_SENSITIVITY = Pass(
    name="class_sensitivity",
    summary="loss-sensitivity by pair of classes (the paper's figure 4)",
    columns=CLASS_COLUMNS,
    options=(*_OPTIONS, "num_class_probes"),
    compute=_compute_by_class,
    per_checkpoint=False,
    check=_check_by_class,
)
