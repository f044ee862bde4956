"""Pass `inputs`: how steep and how curved each example's loss is around its image."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd

from memjax.analysis.input_gradients import input_gradient_norms, input_loss_curvature
from memjax.analysis.microbatch import over_devices
from memjax.keys import tagged
from memjax.passes.base import EXAMPLE_COLUMNS, Context, Pass
from memjax.split_arrays import SplitArrays

COLUMNS = {
    **EXAMPLE_COLUMNS,
    "input_gradient_norm": "l2 norm of d loss / d image (nats per unit of [0, 1] pixels); its "
    "square summed over training is the cumulative sample gradient (CSG)",
    "input_curvature": "root mean square of |H v| over 10 random sign vectors v, H the Hessian of "
    "the loss by the image (nats per squared unit; Garg et al. 2023, exact products)",
}


def _values(context: Context) -> Callable[[Any, SplitArrays], dict[str, jax.Array]]:
    size = context.microbatch_size
    key = tagged(context.key, "curvature")
    # An example has the same probes wherever it is looked at: on any device, in any batch.
    each = jax.jit(jax.vmap(lambda number: jax.random.fold_in(key, number)))
    norms = over_devices(
        lambda params, images, labels: input_gradient_norms(
            context.run.logits_fn, params, images, labels, microbatch_size=size
        ),
        context.mesh,
    )
    curvature = over_devices(
        lambda params, images, labels, keys: input_loss_curvature(
            keys, context.run.logits_fn, params, images, labels, microbatch_size=size
        ),
        context.mesh,
    )

    def values(params: Any, arrays: SplitArrays) -> dict[str, jax.Array]:
        labels = jnp.asarray(arrays.labels)
        keys = each(jnp.asarray(arrays.source_index, jnp.uint32))
        return {
            "input_gradient_norm": norms(params, arrays.images, labels),
            "input_curvature": curvature(params, arrays.images, labels, keys),
        }

    return values


def _compute(context: Context, step: int) -> pd.DataFrame:
    return context.example_table(step, context.shared(_values))


INPUTS = Pass(
    name="inputs",
    summary="slope and curvature of each example's loss around its image (CSG, curvature)",
    columns=COLUMNS,
    options=("splits", "num_examples", "members", "seed"),
    compute=_compute,
)
