"""How each elementwise primitive maps intervals."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from memjax.analysis._certificates.interval_rounding import Operation
from memjax.analysis._certificates.interval_value import (
    Interval,
    hull,
    is_unknown,
    lower_of,
    upper_of,
    widen,
)

# (operation, values) -> bounds of the output; None where the rule does not know.
Rule = Callable[[Operation, list], Any]


def monotone(directions: str, units: int, only: Any = jnp.generic, least: Any = None) -> Rule:
    """A rule for functions that rise (+) or fall (-) in each argument, the last sign repeated.

    Args:
      directions: a sign for each argument.
      units: of rounding.
      only: the dtypes that the rule is for.
      least: no output is below it, None: there is none.
    """

    def rule(operation, values):
        if not jnp.issubdtype(lower_of(values[0]).dtype, only):
            return None
        rises = [sign == "+" for sign in directions.ljust(len(values), directions[-1])]
        at_least = [lower_of(v) if up else upper_of(v) for v, up in zip(values, rises, strict=True)]
        at_most = [upper_of(v) if up else lower_of(v) for v, up in zip(values, rises, strict=True)]
        lower, upper = widen(operation, operation.run(*at_least), operation.run(*at_most), units)
        return Interval(lower if least is None else jnp.maximum(lower, least), upper)

    return rule


def compare(operation: Operation, values: list) -> Interval:
    """gt, ge, lt, le, eq, ne: known where every pair of values compares alike."""
    first, second = values
    low, high = (lower_of(first), upper_of(first)), (lower_of(second), upper_of(second))
    if first is second:  # Then nothing but NaN decides it.
        outcome = operation.run(jnp.zeros_like(low[0]), jnp.zeros_like(low[0]))
        unknown = is_unknown(first)
        return Interval(outcome & ~unknown, outcome | unknown)
    corners = [operation.run(a, b) for a, b in itertools.product(low, high)]
    always, ever = hull(*corners)
    if operation.name in ("eq", "ne"):
        is_apart = (low[1] < high[0]) | (low[0] > high[1])
        is_point = (low[0] == low[1]) & (high[0] == high[1]) & (low[0] == high[0])
        outcome_apart = operation.name == "ne"
        always = is_apart if outcome_apart else is_point
        ever = ~is_point if outcome_apart else ~is_apart
    unknown = is_unknown(first) | is_unknown(second)
    return Interval(always & ~unknown, ever | unknown)


def is_finite(operation: Operation, values: list) -> Interval:
    """Whether neither infinite nor NaN."""
    (value,) = values
    always = jnp.isfinite(value.lower) & jnp.isfinite(value.upper)
    is_infinite = (value.lower == value.upper) & jnp.isinf(value.lower)
    return Interval(always, ~is_infinite)


def exclusive_or(operation: Operation, values: list) -> Interval | None:
    """xor of truth values."""
    if lower_of(values[0]).dtype != jnp.bool_:
        return None
    ends = [(lower_of(value), upper_of(value)) for value in values]
    return hull(*itertools.starmap(operation.run, itertools.product(*ends)))


def product(operation: Operation, values: list) -> Interval | None:
    """mul."""
    if not jnp.issubdtype(lower_of(values[0]).dtype, jnp.floating):
        return None
    if values[0] is values[1]:
        squared = operation._replace(run=lambda x: operation.run(x, x))
        return even(squared, values[:1])
    ends = [tuple(v) if isinstance(v, Interval) else (v,) for v in values]
    return widen(operation, *hull(*itertools.starmap(operation.run, itertools.product(*ends))), 2)


def quotient(operation: Operation, values: list) -> Interval | None:
    """div."""
    out = product(operation, [values[0], Interval(lower_of(values[1]), upper_of(values[1]))])
    if out is None:
        return None
    keeps_sign = (lower_of(values[1]) > 0) | (upper_of(values[1]) < 0)
    # 0 / 0 is no number.
    is_number = (lower_of(values[0]) > 0) | (upper_of(values[0]) < 0)
    return Interval(
        jnp.where(keeps_sign, out.lower, jnp.where(is_number, -jnp.inf, jnp.nan)),
        jnp.where(keeps_sign, out.upper, jnp.where(is_number, jnp.inf, jnp.nan)),
    )


def even(operation: Operation, values: list) -> Interval | None:
    """abs, square, cosh and even powers: least at 0, growing away from it."""
    (value,) = values
    if not jnp.issubdtype(value.lower.dtype, jnp.floating):
        return None
    ends = hull(jnp.abs(value.lower), jnp.abs(value.upper))
    holds_zero = (value.lower <= 0) & (value.upper >= 0)
    smallest = jnp.where(holds_zero, 0, ends.lower)
    bounds = widen(operation, operation.run(smallest), operation.run(ends.upper), 16)
    return Interval(jnp.maximum(bounds.lower, 0), bounds.upper)


def integer_power(operation: Operation, values: list) -> Interval | None:
    """x ** y for a fixed integer y."""
    exponent = operation.params["y"]
    if exponent >= 0:
        return (monotone("+", 16, jnp.floating) if exponent % 2 else even)(operation, values)
    (value,) = values
    ends = hull(operation.run(value.lower), operation.run(value.upper))
    bounds = widen(operation, *ends, 16)
    keeps_sign = (value.lower > 0) | (value.upper < 0)
    lowest = 0.0 if exponent % 2 == 0 else -jnp.inf
    return Interval(
        jnp.where(keeps_sign, bounds.lower, lowest), jnp.where(keeps_sign, bounds.upper, jnp.inf)
    )


def power(operation: Operation, values: list) -> Interval | None:
    """x ** y: for x >= 0 its extremes are at corners; x < 0 needs a constant whole y."""
    base, exponent = values
    if not jnp.issubdtype(lower_of(base).dtype, jnp.floating):
        return None
    ends = [(lower_of(value), upper_of(value)) for value in values]
    floor = jnp.maximum(ends[0][0], 0)  # Where the base is below 0, the corners are not used.
    corners = [
        operation.run(x, jnp.asarray(y, x.dtype))
        for x, y in itertools.product((floor, ends[0][1]), ends[1])
    ]
    # x ** y = exp(y log x): rounding of the product is that many units of the result.
    sizes = [jnp.abs(jnp.log(jnp.maximum(jnp.abs(c), operation.tiny))) for c in corners]
    units = 32 + 4 * jnp.where(jnp.isfinite(hull(*sizes).upper), hull(*sizes).upper, 0)
    positive = widen(operation, *hull(*corners), units)
    lower, upper = jnp.maximum(positive.lower, 0), positive.upper
    # Through 0 the extremes of y < 0 and y > 0 meet at 1.
    lower = jnp.where(ends[0][0] == 0, 0, lower)
    negative_lower, negative_upper = jnp.full_like(lower, jnp.nan), jnp.full_like(upper, jnp.nan)
    if not isinstance(exponent, Interval):
        is_whole = (exponent == jnp.round(exponent)) & (exponent > 0) & (exponent < 2**20)
        size = jnp.maximum(jnp.abs(ends[0][0]), jnp.abs(ends[0][1]))
        most = operation.run(size, jnp.broadcast_to(exponent, size.shape))
        most = widen(operation, most, most, units).upper
        is_odd = exponent % 2 == 1
        negative_upper = jnp.where(is_whole, most, jnp.nan)
        negative_lower = jnp.where(is_whole, jnp.where(is_odd, -most, 0), jnp.nan)
    is_negative = ends[0][0] < 0
    return Interval(
        jnp.where(is_negative, negative_lower, lower), jnp.where(is_negative, negative_upper, upper)
    )


def wave(first_peak: float) -> Rule:
    """A rule for functions of period 2 pi that rise to 1 at `first_peak` and fall from there."""

    def holds(value, place):
        """Whether an interval may hold a point of place + 2 pi k."""
        period = 2 * jnp.pi
        margin = 1e-5 + 1e-6 * jnp.maximum(jnp.abs(value.lower), jnp.abs(value.upper))
        first = jnp.ceil((value.lower - margin - place) / period)
        return first * period + place <= value.upper + margin

    def rule(operation, values):
        (value,) = values
        ends = hull(operation.run(value.lower), operation.run(value.upper))
        bounds = widen(operation, *ends, 16)
        # Beyond, a backend's reduction of the argument is not trusted.
        is_large = jnp.maximum(jnp.abs(value.lower), jnp.abs(value.upper)) > 1e4
        slack = 4 * operation.eps
        lower = jnp.where(holds(value, first_peak + jnp.pi) | is_large, -1, bounds.lower - slack)
        upper = jnp.where(holds(value, first_peak) | is_large, 1, bounds.upper + slack)
        unknown = ~(jnp.isfinite(value.lower) & jnp.isfinite(value.upper))
        return Interval(
            jnp.where(unknown, jnp.nan, jnp.maximum(lower, -1 - slack)),
            jnp.where(unknown, jnp.nan, jnp.minimum(upper, 1 + slack)),
        )

    return rule


def remainder(operation: Operation, values: list) -> Interval | None:
    """rem by a constant, with the sign of the dividend; by 0 it is no number."""
    value, divisor = values
    if isinstance(divisor, Interval) or not jnp.issubdtype(value.lower.dtype, jnp.floating):
        return None
    size = jnp.abs(divisor)
    ends = Interval(operation.run(value.lower, divisor), operation.run(value.upper, divisor))
    width = value.upper - value.lower
    is_one_piece = (width < size / 2) & (jnp.abs(ends.upper - ends.lower - width) < size / 4)
    # At the end of a piece a rounded dividend may be in the next one.
    is_inside = (jnp.abs(ends.lower) > 1e-4 * size) & (jnp.abs(ends.upper) < (1 - 1e-4) * size)
    is_inside &= (jnp.abs(ends.upper) > 1e-4 * size) & (jnp.abs(ends.lower) < (1 - 1e-4) * size)
    is_known = is_one_piece & is_inside
    exact = widen(operation, *ends, 4)
    size = jnp.where(size == 0, jnp.nan, size)
    smallest = jnp.where(value.lower < 0, -size, 0 * size)
    largest = jnp.where(value.upper > 0, size, 0 * size)
    return Interval(
        jnp.where(is_known, exact.lower, smallest), jnp.where(is_known, exact.upper, largest)
    )


def select(operation: Operation, values: list) -> Interval:
    """select_n."""
    which, *cases = values
    lowers, uppers = [lower_of(case) for case in cases], [upper_of(case) for case in cases]
    if not isinstance(which, Interval):
        return Interval(operation.run(which, *lowers), operation.run(which, *uppers))
    is_known = which.lower == which.upper
    chosen = which.lower
    return Interval(
        jnp.where(is_known, operation.run(chosen, *lowers), hull(*lowers).lower),
        jnp.where(is_known, operation.run(chosen, *uppers), hull(*uppers).upper),
    )


def convert(operation: Operation, values: list) -> Interval | None:
    """Conversions between dtypes: rounding to floats, towards zero to integers; else none known."""
    (value,) = values
    old, new = value.lower.dtype, operation.dtype
    if jnp.issubdtype(new, jnp.complexfloating):
        return None
    unknown = is_unknown(value)
    if new == jnp.bool_:
        is_zero = (value.lower == 0) & (value.upper == 0)
        holds_zero = (value.lower <= 0) & (value.upper >= 0)
        return Interval(~holds_zero & ~unknown, ~is_zero | unknown)
    ends = operation.run(value.lower), operation.run(value.upper)
    if jnp.issubdtype(new, jnp.floating):
        is_exact = old == jnp.bool_ or _holds_exactly(new, old)
        return widen(operation, *ends, 0 if is_exact else 1)
    if old == jnp.bool_:
        return Interval(*ends)
    info = jnp.iinfo(new)
    # Beyond the integers' range every backend does something else.
    is_inside = (value.lower >= info.min) & (value.upper < info.max) & ~unknown
    return Interval(
        jnp.where(is_inside, ends[0], jnp.asarray(info.min, new)),
        jnp.where(is_inside, ends[1], jnp.asarray(info.max, new)),
    )


def _holds_exactly(new: Any, old: Any) -> bool:
    """Whether every number of a float dtype is one of another, whatever promotion is allowed."""
    if not jnp.issubdtype(old, jnp.floating):
        return False
    wide, narrow = jnp.finfo(new), jnp.finfo(old)
    return bool(
        wide.nmant >= narrow.nmant and wide.maxexp >= narrow.maxexp and wide.minexp <= narrow.minexp
    )


def index(operation: Operation, values: list) -> Interval | None:
    """gather and dynamic_slice by constant indices."""
    operand, *indices = values
    if any(isinstance(place, Interval) for place in indices):
        return None
    return Interval(operation.run(operand.lower, *indices), operation.run(operand.upper, *indices))


def reduced_precision(operation: Operation, values: list) -> Interval:
    """reduce_precision: a float with fewer digits."""
    (value,) = values
    return widen(operation, value.lower, value.upper, 1)


def share_of_sum(operation: Operation, values: list, terms: int, axes: tuple[int, ...]) -> Interval:
    """x / (sum of x over axes), both as intervals of one shape: a softmax lies within [0, 1].

    The numerator counts in the sum as what it is: x / (x + the others). That bounds nothing where
    a term of the sum may be negative.
    """
    part, total = values
    slack = 4 * operation.eps
    others_low = jnp.maximum(total.lower * (1 - slack) - part.lower, 0)
    others_high = jnp.maximum(total.upper * (1 + slack) - part.upper, 0)
    low, high = jnp.maximum(part.lower, 0), jnp.maximum(part.upper, 0)
    lower = jnp.where(low > 0, low / (low + others_high), 0)
    upper = jnp.where(high > 0, high / (high + others_low), 0)
    bounds = widen(operation, lower, upper, terms + 16)
    is_share = jnp.all(part.lower >= 0, axis=axes, keepdims=True)
    return Interval(
        jnp.where(is_share, bounds.lower, -jnp.inf), jnp.where(is_share, bounds.upper, jnp.inf)
    )


def intersection(first: Interval, second: Interval) -> Interval:
    """Returns the tighter of two bounds of one value; NaN where the second one is."""
    return Interval(jax.lax.max(first.lower, second.lower), jax.lax.min(first.upper, second.upper))
