"""Passes `jacobians`, `jacobian_spectrum` and `ntk`: how logits move with pixels and parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from memjax.analysis.jacobians import (
    empirical_ntk,
    extended_data_jacobian_spectra,
    input_jacobians,
    jacobian_norms,
    jacobian_singular_values,
    parameter_jacobian_norms,
)
from memjax.analysis.microbatch import over_devices
from memjax.loading import SplitArrays
from memjax.passes.base import CHECKPOINT_COLUMNS, EXAMPLE_COLUMNS, Context, Pass, as_lists

JACOBIAN_COLUMNS = {
    **EXAMPLE_COLUMNS,
    "input_jacobian_norm": "Frobenius norm of d logits / d image (per unit of pixel)",
    "singular_values": "of d logits / d image, largest first (per unit of pixel)",
    "class_norms": "l2 norm of d logit / d image, a class each (per unit of pixel)",
    "parameter_jacobian_norms": "l2 norm of d logit / d parameters, a class each",
}
SPECTRUM_COLUMNS = {
    **CHECKPOINT_COLUMNS,
    "split": "'train' or 'validation'",
    "num_examples": "rows of the extended data Jacobian",
    "class": "the logit whose input gradients are stacked",
    "singular_values": "of the stack [examples pixels], largest first (per unit of pixel)",
}
NTK_COLUMNS = {
    **CHECKPOINT_COLUMNS,
    "index_a": "training example: position in the source's split",
    "index_b": "another one",
    "kernel": "d logits(a) / d parameters times its transpose for b, [classes classes] in C order",
}


def _norms_of_examples(context: Context) -> Callable[..., tuple[jax.Array, ...]]:
    def norms(params: Any, images: jax.Array) -> tuple[jax.Array, ...]:
        jacobians = input_jacobians(
            context.run.logits_fn, params, images, microbatch_size=context.microbatch_size
        )
        of_parameters = parameter_jacobian_norms(
            context.run.logits_fn, params, images, microbatch_size=context.microbatch_size
        )
        class_norms = jax.vmap(jacobian_norms)(jacobians)
        singular_values = jacobian_singular_values(jacobians)
        return jacobian_norms(jacobians), singular_values, class_norms, of_parameters

    return over_devices(norms, context.mesh)


BLOCK = 1000  # examples whose [classes pixels] Jacobians are held at once


def _jacobians(context: Context, step: int) -> pd.DataFrame:
    norms = context.shared("jacobians", _norms_of_examples)

    def values(params: Any, arrays: SplitArrays) -> dict[str, Any]:
        blocks = range(0, len(arrays.labels), BLOCK)
        parts = [norms(params, arrays.images[start : start + BLOCK]) for start in blocks]
        whole = [np.concatenate(part) for part in zip(*parts, strict=True)]
        return {
            "input_jacobian_norm": whole[0],
            "singular_values": list(whole[1]),
            "class_norms": list(whole[2]),
            "parameter_jacobian_norms": list(whole[3]),
        }

    return context.example_table(step, values)


def _spectrum(context: Context, step: int) -> pd.DataFrame:
    all_params = context.run.member_params(step)
    parts = []
    for member in context.members:
        params = context.member(all_params, member)
        for name, arrays in context.splits:
            images = arrays.images[: context.options.spectrum_examples]
            jacobians = input_jacobians(
                context.run.logits_fn, params, images, microbatch_size=context.microbatch_size
            )
            spectra = extended_data_jacobian_spectra(jacobians)
            columns = {
                **context.checkpoint_columns(step, member),
                "split": name,
                "num_examples": len(images),
                "class": np.arange(len(spectra)),
                "singular_values": as_lists(spectra),
            }
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _ntk(context: Context, step: int) -> pd.DataFrame:
    arrays = context.split("train")
    images = arrays.images[: context.options.ntk_examples]
    row, column = np.divmod(np.arange(len(images) ** 2), len(images))
    all_params = context.run.member_params(step)
    parts = []
    for member in context.members:
        params = context.member(all_params, member)
        kernel = empirical_ntk(context.run.logits_fn, params, images, images)
        columns = {
            **context.checkpoint_columns(step, member),
            "index_a": arrays.source_index[row],
            "index_b": arrays.source_index[column],
            "kernel": as_lists(jnp.reshape(kernel, (len(row), -1))),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


JACOBIANS = Pass(
    name="jacobians",
    summary="per-example Jacobians of the logits: singular values, norms by class",
    columns=JACOBIAN_COLUMNS,
    options=("splits", "num_examples", "members"),
    compute=_jacobians,
)
JACOBIAN_SPECTRUM = Pass(
    name="jacobian_spectrum",
    summary="singular values of the extended data Jacobian of each class (Wang et al. 2016)",
    columns=SPECTRUM_COLUMNS,
    options=("splits", "num_examples", "members", "spectrum_examples"),
    compute=_spectrum,
)
NTK = Pass(
    name="ntk",
    summary="empirical neural tangent kernel of the first training examples",
    columns=NTK_COLUMNS,
    options=("members", "ntk_examples"),
    compute=_ntk,
)
