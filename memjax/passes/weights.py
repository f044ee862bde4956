"""Passes `filters` and `sharpness`: the network itself, not its examples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from memjax.analysis.filters import (
    filter_quality,
    first_layer,
    first_layer_filters,
    rank_against_initial,
)
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.sharpness import hessian_eigenvalue, hessian_trace
from memjax.errors import InputError
from memjax.keys import tagged
from memjax.passes.base import CHECKPOINT_COLUMNS, Context, Pass, as_lists

NUM_TRACE_PROBES = 30

FILTER_COLUMNS = {
    **CHECKPOINT_COLUMNS,
    "filter": "unit or output channel of the first layer, from 0",
    "height": "of the filter (pixels)",
    "width": "of the filter (pixels)",
    "channels": "of the filter",
    "weights": "the filter, [height width channels] in C order",
    "roughness": "mean step between neighbours over the root mean square weight; noise: 1.13",
    "low_frequency_share": "share of power at up to .25 cycles per pixel",
    "spectral_entropy": "entropy of the power spectrum over its maximum",
    "kurtosis": "excess kurtosis of the weights",
    "roughness_rank": "share of the network's initial filters that are less rough",
}
SHARPNESS_COLUMNS = {
    **CHECKPOINT_COLUMNS,
    "split": "'train' or 'validation': whose mean loss is differentiated",
    "num_examples": "how many of its examples",
    "eigenvalue": "largest-magnitude eigenvalue of the Hessian (nats per parameter unit^2)",
    "eigenvalue_residual": "|H v - eigenvalue v|: some eigenvalue is within this",
    "trace": "of the Hessian, Hutchinson's estimate (nats per parameter unit^2)",
    "trace_standard_error": "its standard error",
}


def _filters_of(context: Context, params: Any) -> jax.Array:
    """Returns [filters height width channels] of the layer that meets the images first."""
    images = jax.ShapeDtypeStruct((1, *context.run.setup.image_shape), jnp.float32)
    layer = first_layer(context.run.logits_fn, params, images)
    if layer is None:  # a kernel made of several leaves: the one whose shape fits
        return first_layer_filters(params["params"], context.run.setup.image_shape)
    return first_layer_filters(params, context.run.setup.image_shape, layer=layer)


def _check_filters(context: Context) -> None:
    shape = context.run.setup.image_shape
    if len(shape) != 3:
        raise InputError(f"pass filters: is for images; this run has {shape[0]} features")
    params = context.member(context.run.member_params(context.steps[0]), 0)
    _filters_of(context, params)


def _filters(context: Context, step: int) -> pd.DataFrame:
    at_start = context.run.member_params(context.run.steps[0])
    all_params = context.run.member_params(step)
    parts = []
    for member in context.members:
        filters = _filters_of(context, context.member(all_params, member))
        initial = _filters_of(context, context.member(at_start, member))
        quality = filter_quality(filters)
        rank = rank_against_initial(quality, filter_quality(initial))
        columns = {
            **context.checkpoint_columns(step, member),
            "filter": np.arange(len(filters)),
            "height": filters.shape[1],
            "width": filters.shape[2],
            "channels": filters.shape[3],
            "weights": as_lists(filters),
            **{name: np.asarray(value) for name, value in quality._asdict().items()},
            "roughness_rank": np.asarray(rank.roughness),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _loss_unless_padding(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Cross-entropy; 0 for what fills up the devices, whose label is -1."""
    return jnp.where(label >= 0, softmax_cross_entropy(logits, jnp.maximum(label, 0)), 0.0)


def _sharpness(context: Context, step: int) -> pd.DataFrame:
    all_params = context.run.member_params(step)
    rows = []
    for member in context.members:
        params = context.member(all_params, member)
        for name, arrays in context.splits:
            images, count = context.on_devices(arrays.images), len(arrays.labels)
            labels = np.pad(arrays.labels, (0, len(images) - count), constant_values=-1)
            settings: dict[str, Any] = {
                "microbatch_size": context.microbatch_size,
                "example_loss": _loss_unless_padding,
            }
            arguments = (context.run.logits_fn, params, images, jnp.asarray(labels))
            eigen_key, trace_key = (
                jax.random.fold_in(tagged(context.key, use), member)
                for use in ("eigenvalue", "trace")
            )
            found = hessian_eigenvalue(eigen_key, *arguments, **settings)
            trace = hessian_trace(trace_key, *arguments, num_probes=NUM_TRACE_PROBES, **settings)
            scale = len(images) / count  # from the mean over the padded to that over the real
            rows.append(
                {
                    **context.checkpoint_columns(step, member),
                    "split": name,
                    "num_examples": count,
                    "eigenvalue": scale * float(found.eigenvalue),
                    "eigenvalue_residual": scale * float(found.residual),
                    "trace": scale * float(trace.trace),
                    "trace_standard_error": scale * float(trace.standard_error),
                }
            )
    return pd.DataFrame(rows)


FILTERS = Pass(
    name="filters",
    summary="first-layer weights as pictures, and how they differ from noise",
    columns=FILTER_COLUMNS,
    options=("members",),
    compute=_filters,
    check=_check_filters,
    reads_logits=False,
)
SHARPNESS = Pass(
    name="sharpness",
    summary="largest-magnitude Hessian eigenvalue (Lanczos) and trace (Hutchinson)",
    columns=SHARPNESS_COLUMNS,
    options=("splits", "num_examples", "members", "seed"),
    compute=_sharpness,
)
