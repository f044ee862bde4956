"""Intervals: elementwise bounds of one array.

NaN bounds say that nothing is known, not even that the value is a number; infinite ones that it is
a number, or an infinity.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax.analysis._certificates.interval_rounding import Operation


class Interval(NamedTuple):
    """Elementwise bounds of one array: lower <= value <= upper."""

    lower: jax.Array
    upper: jax.Array


def lower_of(value: Any) -> jax.Array:
    """Returns the lower bound of an Interval, or the array itself."""
    return value.lower if isinstance(value, Interval) else value


def upper_of(value: Any) -> jax.Array:
    """Returns the upper bound of an Interval, or the array itself."""
    return value.upper if isinstance(value, Interval) else value


def magnitude(value: Any) -> jax.Array:
    """Returns the largest absolute value of an Interval or array, elementwise."""
    if isinstance(value, Interval):
        return jnp.maximum(jnp.abs(value.lower), jnp.abs(value.upper))
    return jnp.abs(value)


def center(value: Any) -> tuple[jax.Array, jax.Array]:
    """Returns (middle, half width) of an Interval or array, the half width rounded up."""
    if not isinstance(value, Interval):
        return value, jnp.zeros_like(value)
    middle = value.lower * 0.5 + value.upper * 0.5
    half_width = jnp.maximum(value.upper - middle, middle - value.lower)
    return middle, half_width * (1 + float(jnp.finfo(middle.dtype).eps))


def is_unknown(value: Any) -> jax.Array:
    """Returns where a value may be no number, elementwise."""
    lower, upper = lower_of(value), upper_of(value)
    if not jnp.issubdtype(lower.dtype, jnp.floating):
        return jnp.zeros(lower.shape, bool)
    return jnp.isnan(lower) | jnp.isnan(upper)


def hull(*values: jax.Array) -> Interval:
    """Returns the smallest interval that holds all values."""
    return Interval(functools.reduce(jnp.minimum, values), functools.reduce(jnp.maximum, values))


def widen(operation: Operation, lower: jax.Array, upper: jax.Array, units: Any) -> Interval:
    """Returns bounds moved outwards by so many units of rounding."""
    if (isinstance(units, int) and units == 0) or not jnp.issubdtype(lower.dtype, jnp.floating):
        return Interval(lower, upper)
    if operation.eps > 1e-4:  # Computed in float32, and then rounded once.
        units = 1 if isinstance(units, int) and units <= 2 else jnp.minimum(units, 2)
    relative, absolute = operation.eps * units, operation.tiny

    def slack(bound: jax.Array) -> jax.Array:
        return jnp.where(jnp.isinf(bound), 0, jnp.abs(bound) * relative + absolute)

    lower, upper = lower - slack(lower), upper + slack(upper)
    return Interval(
        jnp.where(lower < -operation.largest, -jnp.inf, lower),
        jnp.where(upper > operation.largest, jnp.inf, upper),
    )


def widened_constant(value: jax.Array, eps: float) -> Interval:
    """Returns a constant that may be held with more or fewer digits than it shows."""
    slack = jnp.where(jnp.isinf(value), 0, eps * jnp.abs(value))
    return Interval(value - slack, value + slack)
