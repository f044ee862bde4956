"""Pass `gradients`: how hard each example pulls at the parameters, and how it is classified."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd

from memjax.analysis.gradients import gradient_norms
from memjax.analysis.microbatch import over_devices
from memjax.analysis.scores import example_scores
from memjax.passes.base import EXAMPLE_COLUMNS, Context, Pass
from memjax.split_arrays import SplitArrays

COLUMNS = {
    **EXAMPLE_COLUMNS,
    "gradient_norm": "l2 norm of d loss / d parameters (GraNd; nats per unit of parameter)",
    "el2n": "l2 norm of softmax probabilities - one-hot label (EL2N), in [0, sqrt 2]",
    "loss": "softmax cross-entropy (nats)",
    "margin": "label logit - largest other logit",
    "entropy": "entropy of the predicted probabilities (nats)",
    "is_correct": "whether the prediction is `label`",
    "prediction": "the predicted class",
}


def _values(context: Context) -> Callable[[Any, SplitArrays], dict[str, jax.Array]]:
    norms = over_devices(
        lambda params, images, labels: gradient_norms(
            context.run.logits_fn,
            params,
            images,
            labels,
            microbatch_size=context.microbatch_size,
            with_logits=True,
        ),
        context.mesh,
    )

    def values(params: Any, arrays: SplitArrays) -> dict[str, jax.Array]:
        labels = jnp.asarray(arrays.labels)
        found, logits = norms(params, arrays.images, labels)
        scores = example_scores(logits, labels)
        return {
            "gradient_norm": found,
            **scores._asdict(),
            "prediction": jnp.argmax(logits, axis=-1),
        }

    return values


def _compute(context: Context, step: int) -> pd.DataFrame:
    return context.example_table(step, context.shared(_values))


GRADIENTS = Pass(
    name="gradients",
    summary="per-example gradient norms (GraNd), EL2N, loss, margin, entropy",
    columns=COLUMNS,
    options=("splits", "num_examples", "members"),
    compute=_compute,
)
