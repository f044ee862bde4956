"""Pass `critical`: which examples lie near a decision boundary, between two bounds."""

from typing import Any

import numpy as np
import pandas as pd

from memjax.analysis.critical import critical_bounds_over_radii, critical_radius
from memjax.errors import InputError
from memjax.keys import tagged
from memjax.passes.base import EXAMPLE_COLUMNS, Context, Pass

COLUMNS = {
    **EXAMPLE_COLUMNS,
    "radius": "max-norm radius, in [0, 1] pixel units (of features: as the model sees them)",
    "radius_as_given": "the same, in `radius_units`",
    "radius_units": "'unit' [0, 1], 'pixel' 0 to 255, or 'standardized' (what the model sees)",
    "critical_lower": "a point within the radius with another predicted class was found",
    "critical_upper": "not certified to have none",
    "certified_radius": "no point of another predicted class is nearer, in [0, 1] pixel units",
    "found_radius": "such a point was found so near; inf where none was found",
    "unknown_primitive": "operation of the network without a certificate: then critical_upper and "
    "certified_radius are no finding; '' where every one has its rule",
    "prediction": "the predicted class, which is what a critical point changes",
}


def radii_in_unit_pixels(context: Context) -> list[float]:
    """Returns the radii in [0, 1] pixel units."""
    std = np.asarray(context.run.setup.network.std, float).ravel()
    scale = {"unit": 1.0, "pixel": 1 / 255, "standardized": std[0]}
    return [radius * scale[context.options.radius_units] for radius in context.options.radii]


def _check(context: Context) -> None:
    if len(context.run.setup.image_shape) == 1:
        if context.options.clip:
            raise InputError("--clip: is for pixels in [0, 1]; this run has features")
        if context.options.radius_units == "pixel":
            raise InputError(
                "--radius_units=pixel: this run has features; allowed: unit, standardized"
            )
    if context.options.clip:
        images = context.examples.images
        lowest, highest = float(images.min()), float(images.max())
        if lowest < 0 or highest > 1:
            raise InputError(
                f"--clip: is for pixels in [0, 1]; those looked at are in [{lowest:.3g}, "
                f"{highest:.3g}] (random inputs are no valid images)"
            )
    std = np.unique(np.asarray(context.run.setup.network.std))
    if context.options.radius_units == "standardized" and len(std) > 1:
        raise InputError(
            "--radius_units=standardized: the run has another std for each channel, so that no "
            "one radius fits; give it in unit or pixel"
        )


def _compute(context: Context, step: int) -> pd.DataFrame:
    radii = radii_in_unit_pixels(context)
    images = context.examples.images
    on_devices = context.on_devices(images)
    all_params = context.run.member_params(step)
    tables = []
    for member in context.members:
        params = context.member(all_params, member)
        shared: dict[str, Any] = {
            "clip": (0.0, 1.0) if context.options.clip else None,
            "microbatch_size": context.microbatch_size or 512,
            "search_logits_fn": context.run.trained_logits_fn,
        }
        key = tagged(context.key, "critical")
        network = key, context.run.logits_fn, params, on_devices
        bounds = critical_bounds_over_radii(*network, radii, **shared)
        # Unit by unit, the certificates of every image would take longer than all else.
        distance = critical_radius(*network, refine_up_to=0, **shared)
        certified, found = [
            np.asarray(part)[: len(images)] for part in (distance.certified, distance.found)
        ]
        prediction = np.asarray(context.logits(params, images)).argmax(axis=-1)
        for place, radius in enumerate(radii):
            is_found = np.asarray(bounds.lower[place])[: len(images)]
            is_uncertain = np.asarray(bounds.upper[place])[: len(images)]
            values = {
                "radius": radius,
                "radius_as_given": context.options.radii[place],
                "radius_units": context.options.radius_units,
                "critical_lower": is_found | (found <= radius),
                "critical_upper": is_uncertain & (certified < radius),
                "certified_radius": certified,
                "found_radius": found,
                "unknown_primitive": bounds.unknown or "",
                "prediction": prediction,
            }
            tables.append(context.member_table(step, member, values))
    return pd.concat(tables, ignore_index=True)


CRITICAL = Pass(
    name="critical",
    summary="critical samples and radii: found by searches, bounded by certificates",
    columns=COLUMNS,
    options=("splits", "num_examples", "members", "radii", "radius_units", "clip", "seed"),
    compute=_compute,
    check=_check,
)
