"""How sums, products of matrices, scatters and orderings map intervals."""

import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from memjax.analysis._certificates.interval_rounding import Operation
from memjax.analysis._certificates.interval_value import (
    Interval,
    center,
    is_unknown,
    lower_of,
    magnitude,
    upper_of,
    widen,
)


def num_terms(operation: Operation) -> int:
    """Returns how many terms make one element of a linear primitive's output."""
    params, shapes = operation.params, operation.shapes
    match operation.name:
        case "dot_general":
            (contracting, _), _ = params["dimension_numbers"]
            return math.prod(shapes[0][axis] for axis in contracting)
        case "conv_general_dilated":
            return math.prod(shapes[1]) // shapes[1][params["dimension_numbers"].rhs_spec[0]]
        case "reduce_sum" | "reduce_prod":
            return math.prod(shapes[0][axis] for axis in params["axes"])
        case "reduce_window_sum":
            return math.prod(params["window_dimensions"])
        case "cumsum" | "cumprod":
            return shapes[0][params["axis"]]
        case "scatter-add":
            return 1 + math.prod(shapes[1][:-1])
    return 1


def num_uses(operation: Operation) -> int:
    """Returns in how many elements of a linear primitive's output one of its input is, at most."""
    name, params, shapes = operation.name, operation.params, operation.shapes
    match name:
        case "dot_general":
            free = []
            for shape, summed, shared in zip(shapes, *params["dimension_numbers"], strict=True):
                kept = set(range(len(shape))) - {*summed, *shared}
                free.append(math.prod(shape[axis] for axis in kept))
            return max(free)
        case "conv_general_dilated":
            return math.prod(shapes[1]) // shapes[1][params["dimension_numbers"].rhs_spec[1]]
        case "broadcast_in_dim":
            return math.prod(params["shape"]) // max(math.prod(shapes[0]), 1)
        case "tile":
            return math.prod(params["reps"])
        case "gather":
            return math.prod(shapes[1])
    return num_terms(operation) if name in ("reduce_window_sum", "cumsum") else 1


def multilinear(operation: Operation, values: list) -> Interval | None:
    """dot_general and conv_general_dilated, of intervals on one side or on both."""
    if not jnp.issubdtype(operation.dtype, jnp.floating):
        return None
    terms = num_terms(operation)
    # The sum's rounding, and that of the factors where they are narrow.
    factors = operation.eps if operation.eps > operation.sum_eps else 0.0
    is_narrow = jnp.dtype(operation.dtype).itemsize < 4
    relative = operation.sum_eps * (terms + 4) + (1 if is_narrow else 2) * factors
    (first, spread), (second, second_spread) = map(center, values)
    run = operation.run
    if isinstance(values[0], Interval):
        spread += relative * (jnp.abs(first) + spread)
    else:
        second_spread += relative * (jnp.abs(second) + second_spread)
    middle = run(first, second)
    if not isinstance(values[1], Interval):
        half_width = run(spread, jnp.abs(second))
    elif not isinstance(values[0], Interval):
        half_width = run(jnp.abs(first), second_spread)
    else:
        second_spread += relative * (jnp.abs(second) + second_spread)
        half_width = run(spread, jnp.abs(second) + second_spread) + run(
            jnp.abs(first), second_spread
        )
    half_width += terms * float(jnp.finfo(middle.dtype).tiny)
    return widen(operation, middle - half_width, middle + half_width, 2)


def add_up(operation: Operation, values: list) -> Interval | None:
    """reduce_sum, reduce_window_sum, cumsum and scatter-add by constant indices."""
    if not jnp.issubdtype(operation.dtype, jnp.floating):
        return None
    if len(values) > 1 and isinstance(values[1], Interval):
        return None
    terms = num_terms(operation)
    relative, absolute = (terms + 4) * operation.sum_eps, terms * operation.tiny
    lowers, uppers = [lower_of(v) for v in values], [upper_of(v) for v in values]

    def sizes(arrays):
        return [jnp.abs(a) if jnp.issubdtype(a.dtype, jnp.floating) else a for a in arrays]

    # v - relative * |v| grows with v: a sum of positive terms stays positive.
    lower = operation.run(*lowers) - relative * operation.run(*sizes(lowers))
    upper = operation.run(*uppers) + relative * operation.run(*sizes(uppers))
    return widen(operation, lower - absolute, upper + absolute, 1)


def multiply_up(operation: Operation, values: list) -> Interval | None:
    """reduce_prod and cumprod."""
    (value,) = values
    if not jnp.issubdtype(operation.dtype, jnp.floating):
        return None
    most = operation.run(magnitude(value))
    keeps_sign = (value.lower > 0) | (value.upper < 0)
    smallest = jnp.minimum(jnp.abs(value.lower), jnp.abs(value.upper))
    least = operation.run(jnp.where(keeps_sign, smallest, 0))
    sign = operation.run(jnp.sign(value.lower))
    bounds = [jnp.where(sign > 0, least, -most), jnp.where(sign < 0, -least, most)]
    is_known = operation.run(keeps_sign.astype(most.dtype)) > 0
    lower, upper = jnp.where(is_known, bounds[0], -most), jnp.where(is_known, bounds[1], most)
    return widen(operation, lower, upper, 2 * num_terms(operation) + 4)


def overwrite(operation: Operation, values: list) -> Interval | None:
    """scatter and dynamic_update_slice by constant indices."""
    is_scatter = operation.name.startswith("scatter")
    indices = values[1:2] if is_scatter else values[2:]
    if any(isinstance(place, Interval) for place in indices):
        return None
    return Interval(operation.run(*map(lower_of, values)), operation.run(*map(upper_of, values)))


def ordered(operation: Operation, values: list) -> Any:
    """Maxima, minima and sorting, which rise with every element, and what may be NaN spoils all."""
    if len(values) != 1:
        return None
    (value,) = values
    lower, upper = operation.run(value.lower), operation.run(value.upper)
    if not jnp.issubdtype(operation.dtype, jnp.floating):
        return Interval(lower, upper)
    spoiled = is_unknown(value).any()
    return Interval(jnp.where(spoiled, jnp.nan, lower), jnp.where(spoiled, jnp.nan, upper))


def largest_few(operation: Operation, values: list) -> list:
    """top_k: values, and places that may be any."""
    (value,) = values
    axis, count = operation.params["axis"], operation.params["k"]

    def top(array):
        rising = jnp.flip(jnp.sort(array, axis=axis), axis=axis)
        return lax.slice_in_dim(rising, 0, count, axis=axis)

    spoiled = is_unknown(value).any()
    lower, upper = [jnp.where(spoiled, jnp.nan, top(bound)) for bound in value]
    places = jnp.zeros(lower.shape, jnp.int32)
    return [Interval(lower, upper), Interval(places, places + value.lower.shape[axis] - 1)]


def place_of_extreme(operation: Operation, values: list) -> Interval | None:
    """argmax and argmin: between the first and the last element that may be the one."""
    (value,) = values
    (axis,) = operation.params["axes"]
    if not jnp.issubdtype(value.lower.dtype, jnp.floating):
        return None
    sign = 1 if operation.name == "argmax" else -1
    low, high = (value.lower, value.upper) if sign > 0 else (-value.upper, -value.lower)
    may_be = high >= low.max(axis, keepdims=True)
    may_be |= is_unknown(value).any()
    last = value.lower.shape[axis] - 1
    dtype = operation.dtype
    return Interval(
        lax.argmax(may_be, axis, dtype), last - lax.argmax(jnp.flip(may_be, axis), axis, dtype)
    )
