"""Pass `critical`: which examples lie near a decision boundary, between two bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from memjax.analysis.critical import critical_bounds_over_radii
from memjax.loading import SplitArrays
from memjax.passes.base import EXAMPLE_COLUMNS, Context, Pass
from memjax.runtime.mesh import DATA

COLUMNS = {
    **EXAMPLE_COLUMNS,
    "radius": "max-norm radius, in [0, 1] pixel units",
    "radius_as_given": "the same, in `radius_units`",
    "radius_units": "'unit' [0, 1], 'pixel' 0 to 255, or 'standardized' (what the model sees)",
    "critical_lower": "a point within the radius with another predicted class was found",
    "critical_upper": "not certified to have none",
    "prediction": "the predicted class, which is what a critical point changes",
}


def radii_in_unit_pixels(context: Context) -> list[float]:
    """Returns the radii in [0, 1] pixel units."""
    std = np.asarray(context.run.setup.network.std, float)
    scale = {"unit": 1.0, "pixel": 1 / 255, "standardized": float(std.mean())}
    return [radius * scale[context.options.radius_units] for radius in context.options.radii]


def _compute(context: Context, step: int) -> pd.DataFrame:
    radii = radii_in_unit_pixels(context)
    sharding = NamedSharding(context.mesh, P(DATA))
    all_params = context.run.member_params(step)
    parts = []
    for member in context.members:
        params = context.member(all_params, member)
        for name, arrays in context.splits:
            images, count = _on_devices(context, arrays, sharding)
            bounds = critical_bounds_over_radii(
                context.key,
                context.run.logits_fn,
                params,
                images,
                radii,
                clip=(0.0, 1.0) if context.options.clip else None,
            )
            prediction = np.asarray(jnp.argmax(context.logits(params, arrays.images), axis=-1))
            columns = context.example_columns(step, member, name, arrays)
            for place, radius in enumerate(radii):
                values = {
                    "radius": radius,
                    "radius_as_given": context.options.radii[place],
                    "radius_units": context.options.radius_units,
                    "critical_lower": np.asarray(bounds.lower[place])[:count],
                    "critical_upper": np.asarray(bounds.upper[place])[:count],
                    "prediction": prediction,
                }
                parts.append(pd.DataFrame(columns | values))
    return pd.concat(parts, ignore_index=True)


def _on_devices(context: Context, arrays: SplitArrays, sharding: NamedSharding):
    """Splits the images over the devices, filled up with copies of the last one."""
    count = len(arrays.labels)
    padding = -count % context.mesh.size
    images = jnp.concatenate([arrays.images, jnp.repeat(arrays.images[-1:], padding, axis=0)])
    if context.mesh.size == 1:
        return images, count
    return jax.device_put(images, sharding), count


CRITICAL = Pass(
    name="critical",
    summary="critical samples: found by LASS, PGD and corners; bounded by intervals",
    columns=COLUMNS,
    options=("splits", "num_examples", "members", "radii", "radius_units", "clip", "seed"),
    compute=_compute,
)
