"""Passes `jacobians`, `jacobian_spectrum` and `ntk`: how logits move with pixels and parameters."""

import functools
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
from memjax.analysis.microbatch import over_devices, over_microbatches
from memjax.passes.base import CHECKPOINT_COLUMNS, EXAMPLE_COLUMNS, Context, Pass, as_lists
from memjax.split_arrays import SplitArrays

JACOBIAN_COLUMNS = {
    **EXAMPLE_COLUMNS,
    "input_jacobian_norm": "Frobenius norm of d logits / d image (per unit of pixel)",
    "singular_values": "of d logits / d image, largest first (per unit of pixel)",
    "class_norms": "l2 norm of d logit / d image, a class each (per unit of pixel)",
    "parameter_jacobian_norms": "l2 norm of d logit / d parameters, a class each",
}
SPECTRUM_COLUMNS = {
    **CHECKPOINT_COLUMNS,
    "split": EXAMPLE_COLUMNS["split"],
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


BLOCK = 1000  # examples whose [classes pixels] Jacobians are held at once


def _norms_of_examples(context: Context) -> Callable[..., dict[str, jax.Array]]:
    logits_fn, size = context.run.logits_fn, context.microbatch_size

    def norms(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        jacobians = input_jacobians(logits_fn, params, images, microbatch_size=size)
        return {
            "input_jacobian_norm": jacobian_norms(jacobians),
            "singular_values": jacobian_singular_values(jacobians),
            "class_norms": jax.vmap(jacobian_norms)(jacobians),
            "parameter_jacobian_norms": parameter_jacobian_norms(
                logits_fn, params, images, microbatch_size=size
            ),
        }

    def in_blocks(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        return over_microbatches(
            functools.partial(norms, params), images, microbatch_size=size or BLOCK
        )

    return over_devices(in_blocks, context.mesh)


def _jacobians(context: Context, step: int) -> pd.DataFrame:
    norms = context.shared(_norms_of_examples)

    def values(params: Any, arrays: SplitArrays) -> dict[str, Any]:
        found = norms(params, arrays.images)
        return {k: v if v.ndim == 1 else as_lists(v) for k, v in found.items()}

    return context.example_table(step, values)


def _input_jacobians(context: Context) -> Callable[[Any, jax.Array], jax.Array]:
    def jacobians(params: Any, images: jax.Array) -> jax.Array:
        return input_jacobians(
            context.run.logits_fn, params, images, microbatch_size=context.microbatch_size
        )

    return over_devices(jacobians, context.mesh)


def _spectrum(context: Context, step: int) -> pd.DataFrame:
    all_params = context.run.member_params(step)
    parts = []
    for member in context.members:
        params = context.member(all_params, member)
        for name, arrays in context.splits:
            images = arrays.images[: context.options.spectrum_examples]
            jacobians = context.shared(_input_jacobians)(params, images)
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


def _kernel(context: Context) -> Callable[[Any, jax.Array], jax.Array]:
    def kernel(params_and_all_images: tuple[Any, jax.Array], images: jax.Array) -> jax.Array:
        params, all_images = params_and_all_images
        return empirical_ntk(
            context.run.logits_fn, params, images, all_images, context.microbatch_size
        )

    return over_devices(kernel, context.mesh)


def _ntk(context: Context, step: int) -> pd.DataFrame:
    arrays = context.run.train.at(slice(context.options.ntk_examples))
    row, column = np.divmod(np.arange(len(arrays.labels) ** 2), len(arrays.labels))
    all_params = context.run.member_params(step)
    parts = []
    for member in context.members:
        params = context.member(all_params, member)
        kernel = context.shared(_kernel)((params, arrays.images), arrays.images)
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
