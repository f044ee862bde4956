"""Pass `critical`: which examples lie near a decision boundary, between two bounds."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd

from memjax.analysis.critical import critical_bounds_over_radii, critical_radius, lass
from memjax.errors import InputError
from memjax.keys import tagged
from memjax.passes.base import EXAMPLE_COLUMNS, Context, Pass

COLUMNS = {
    **EXAMPLE_COLUMNS,
    "radius": "max-norm radius, in [0, 1] pixel units (of features: as the model sees them)",
    "radius_as_given": "the same, in `radius_units`",
    "radius_units": "'unit' [0, 1], 'pixel' 0 to 255, or 'standardized' (what the model sees)",
    "critical_lower": "a point within the radius with another predicted class was found",
    "critical_lass": "LASS alone, the paper's search, found such a point; null without --lass",
    "critical_upper": "not certified to have none; null with --nocertify",
    "certified_radius": "no point of another predicted class is nearer, in [0, 1] pixel units; nan "
    "with --nocertify",
    "found_radius": "such a point was found so near; inf where none was found",
    "unknown_primitive": "operation of the network without a certificate: then critical_upper and "
    "certified_radius are no finding; '' where every one has its rule, or with --nocertify",
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
    all_params = context.run.member_params(step)
    tables = []
    for member in context.members:
        for values in _measure(context, context.member(all_params, member)):
            tables.append(context.member_table(step, member, values))
    return pd.concat(tables, ignore_index=True)


def _measure(context: Context, params: Any) -> Iterator[dict[str, Any]]:
    """Yields for every radius the columns of one network, each a scalar or [n]."""
    options, images = context.options, context.examples.images
    radii = radii_in_unit_pixels(context)
    key, searched = tagged(context.key, "critical"), context.run.trained_logits_fn
    network = key, context.run.logits_fn, params, context.on_devices(images)
    shared: dict[str, Any] = {
        "clip": (0.0, 1.0) if options.clip else None,
        "microbatch_size": context.microbatch_size or 512,
    }

    def of_images(values: jax.Array) -> np.ndarray:
        return np.asarray(values)[..., : len(images)]  # without what fills the devices up

    # Unit by unit, the certificates of every image would take longer than all else.
    distance = critical_radius(
        *network, num_starts=options.num_starts, polish=options.polish, refine_up_to=0,
        certify=options.certify, search_logits_fn=searched, **shared,
    )  # fmt: skip
    found = of_images(distance.found)
    is_found = [found <= radius for radius in radii]
    unknown = None
    nothing: Any = pd.array([pd.NA] * len(images), dtype="boolean")
    is_uncertain, certified = [nothing] * len(radii), np.full(len(images), np.nan, np.float32)
    if options.certify:
        bounds = critical_bounds_over_radii(*network, radii, search_logits_fn=searched, **shared)
        certified, unknown = of_images(distance.certified), bounds.unknown
        is_found = list(of_images(bounds.lower) | is_found)
        is_uncertain = [
            upper & (certified < radius)
            for upper, radius in zip(of_images(bounds.upper), radii, strict=True)
        ]
    prediction = np.asarray(context.logits(params, images)).argmax(axis=-1)
    for place, radius in enumerate(radii):
        by_lass = nothing
        if options.lass:
            by_lass = of_images(
                lass(key, searched, params, network[-1], radius, **shared).is_critical
            )
        yield {
            "radius": radius,
            "radius_as_given": options.radii[place],
            "radius_units": options.radius_units,
            "critical_lower": is_found[place],
            "critical_lass": by_lass,
            "critical_upper": is_uncertain[place],
            "certified_radius": certified,
            "found_radius": found,
            "unknown_primitive": unknown or "",
            "prediction": prediction,
        }


CRITICAL = Pass(
    name="critical",
    summary="critical samples and radii: found by searches, bounded by certificates",
    columns=COLUMNS,
    options=(
        "splits", "num_examples", "members", "radii", "radius_units", "clip", "certify", "lass",
        "num_starts", "polish", "seed",
    ),
    compute=_compute,
    check=_check,
)  # fmt: skip
