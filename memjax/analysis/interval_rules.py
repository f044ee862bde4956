"""How each primitive maps intervals: the table behind `memjax.analysis.interval`.

Every bound holds in float arithmetic. Rounding is added outwards: a sum of k terms by (k + 4) eps
times the sum of the terms' magnitudes, which covers the error of the bound and of the network, in
any order of summation; other functions by the units of eps that the table gives them.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive


class Interval(NamedTuple):
    """Elementwise bounds of one array: lower <= value <= upper."""

    lower: jax.Array
    upper: jax.Array


# (bind, params, values) -> bounds of the output; None where the rule does not know.
Rule = Callable[[Callable, dict, list], Interval | None]


def lower_of(value: Any) -> jax.Array:
    """Returns the lower bound of an Interval, or the array itself."""
    return value.lower if isinstance(value, Interval) else value


def upper_of(value: Any) -> jax.Array:
    """Returns the upper bound of an Interval, or the array itself."""
    return value.upper if isinstance(value, Interval) else value


def center(value: Interval) -> tuple[jax.Array, jax.Array]:
    """Returns (middle, half width), the half width rounded up."""
    middle = value.lower * 0.5 + value.upper * 0.5
    half_width = jnp.maximum(value.upper - middle, middle - value.lower)
    return middle, half_width * (1 + float(jnp.finfo(middle.dtype).eps))


def num_terms(name: str, params: dict, arguments: list) -> int:
    """Returns how many terms make one element of a linear primitive's output.

    Args:
      name: of the primitive.
      params: of the equation.
      arguments: anything with a shape, one for each argument.
    """
    match name:
        case "dot_general":
            (contracting, _), _ = params["dimension_numbers"]
            return math.prod(arguments[0].shape[axis] for axis in contracting)
        case "conv_general_dilated":
            kernel = arguments[1].shape
            return math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
        case "reduce_sum":
            return math.prod(arguments[0].shape[axis] for axis in params["axes"])
        case "reduce_window_sum":
            return math.prod(params["window_dimensions"])
        case "cumsum":
            return arguments[0].shape[params["axis"]]
    return 1


def num_uses(name: str, params: dict, arguments: list) -> int:
    """Returns in how many elements of a linear primitive's output one of its input is, at most."""
    match name:
        case "dot_general":
            free = []
            for argument, summed, shared in zip(
                arguments, *params["dimension_numbers"], strict=True
            ):
                kept = set(range(len(argument.shape))) - {*summed, *shared}
                free.append(math.prod(argument.shape[axis] for axis in kept))
            return max(free)
        case "conv_general_dilated":
            kernel = arguments[1].shape
            return math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[1]]
        case "broadcast_in_dim":
            return math.prod(params["shape"]) // max(math.prod(arguments[0].shape), 1)
        case "gather":
            return math.prod(arguments[1].shape)
    return num_terms(name, params, arguments) if name in ("reduce_window_sum", "cumsum") else 1


def _widen(lower: jax.Array, upper: jax.Array, units: int) -> Interval:
    if units == 0 or not jnp.issubdtype(lower.dtype, jnp.floating):
        return Interval(lower, upper)
    info = jnp.finfo(lower.dtype)
    relative, absolute = float(info.eps) * units, float(info.tiny)
    return Interval(
        lower - (jnp.abs(lower) * relative + absolute),
        upper + (jnp.abs(upper) * relative + absolute),
    )


def _hull(*values: jax.Array) -> Interval:
    return Interval(functools.reduce(jnp.minimum, values), functools.reduce(jnp.maximum, values))


def _monotone(directions: str, units: int, only: Any = jnp.generic) -> Rule:
    """A rule for functions that rise (+) or fall (-) in each argument, the last sign repeated."""

    def rule(bind, params, values):
        if not jnp.issubdtype(jnp.result_type(lower_of(values[0])), only):
            return None
        rises = [sign == "+" for sign in directions.ljust(len(values), directions[-1])]
        at_least = [lower_of(v) if up else upper_of(v) for v, up in zip(values, rises, strict=True)]
        at_most = [upper_of(v) if up else lower_of(v) for v, up in zip(values, rises, strict=True)]
        return _widen(bind(*at_least), bind(*at_most), units)

    return rule


def _convert(bind, params, values):
    if not jnp.issubdtype(params["new_dtype"], jnp.floating):
        return None  # A bound may lie outside the integers' range.
    return Interval(bind(values[0].lower), bind(values[0].upper))


def _multilinear(name, bind, params, values):
    """dot_general and conv_general_dilated, one side of which is constant."""
    first, second = values
    if isinstance(first, Interval) and isinstance(second, Interval):
        return None
    middle, half_width = center(first if isinstance(first, Interval) else second)
    terms = num_terms(name, params, [lower_of(first), lower_of(second)])
    eps = float(jnp.finfo(middle.dtype).eps)
    half_width += eps * (terms + 4) * (jnp.abs(middle) + half_width)
    if isinstance(first, Interval):
        middle, half_width = bind(middle, second), bind(half_width, jnp.abs(second))
    else:
        middle, half_width = bind(first, middle), bind(jnp.abs(first), half_width)
    return _widen(middle - half_width, middle + half_width, 2)


def _sum(name, bind, params, values):
    (value,) = values
    units = num_terms(name, params, [value.lower]) + 4
    relative = units * float(jnp.finfo(value.lower.dtype).eps)
    # v - relative * |v| grows with v: a sum of positive terms stays positive.
    return Interval(
        bind(value.lower) - relative * bind(jnp.abs(value.lower)),
        bind(value.upper) + relative * bind(jnp.abs(value.upper)),
    )


def _product(bind, params, values):
    ends = [tuple(v) if isinstance(v, Interval) else (v,) for v in values]
    return _widen(*_hull(*itertools.starmap(bind, itertools.product(*ends))), 2)


def _quotient(bind, params, values):
    quotient = _product(bind, params, values)
    keeps_sign = (lower_of(values[1]) > 0) | (upper_of(values[1]) < 0)
    return Interval(
        jnp.where(keeps_sign, quotient.lower, -jnp.inf),
        jnp.where(keeps_sign, quotient.upper, jnp.inf),
    )


def _even(bind, params, values):
    """abs, square and even powers: least at 0, growing away from it."""
    (value,) = values
    ends = _hull(jnp.abs(value.lower), jnp.abs(value.upper))
    holds_zero = (value.lower <= 0) & (value.upper >= 0)
    smallest = jnp.where(holds_zero, 0, ends.lower)
    bounds = _widen(bind(smallest), bind(ends.upper), 16)
    return Interval(jnp.maximum(bounds.lower, 0), bounds.upper)


def _integer_power(bind, params, values):
    if params["y"] < 0:
        return None
    return (_monotone("+", 16) if params["y"] % 2 else _even)(bind, params, values)


def _select(bind, params, values):
    which, *cases = values
    lowers, uppers = [lower_of(case) for case in cases], [upper_of(case) for case in cases]
    if not isinstance(which, Interval):
        return Interval(bind(which, *lowers), bind(which, *uppers))
    is_known = which.lower == which.upper
    return Interval(
        jnp.where(is_known, bind(which.lower, *lowers), _hull(*lowers).lower),
        jnp.where(is_known, bind(which.lower, *uppers), _hull(*uppers).upper),
    )


def _index(bind, params, values):
    operand, *indices = values
    if any(isinstance(index, Interval) for index in indices):
        return None
    return Interval(bind(operand.lower, *indices), bind(operand.upper, *indices))


# fmt: off
# Linear, and they only move values about.
STRUCTURAL = frozenset([
    "reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "rev",
    "concatenate", "pad", "copy",
])
_RULES: dict[str, Rule] = {
    **dict.fromkeys(STRUCTURAL, _monotone("+", 0)),
    **dict.fromkeys([
        "max", "min", "clamp", "reduce_max", "reduce_min", "reduce_window_max",
        "reduce_window_min", "cummax", "cummin", "floor", "ceil", "round", "sign",
        "reduce_precision",
    ], _monotone("+", 0)),
    **dict.fromkeys([
        "exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "sqrt", "cbrt", "erf", "atan",
        "asinh", "sinh",
    ], _monotone("+", 16)),
    **dict.fromkeys(["erfc", "rsqrt"], _monotone("-", 16)),
    **dict.fromkeys(["add", "add_any"], _monotone("+", 2)),
    **dict.fromkeys(["gt", "ge"], _monotone("+-", 0)),
    **dict.fromkeys(["lt", "le"], _monotone("-+", 0)),
    **dict.fromkeys(["and", "or"], _monotone("+", 0, only=jnp.bool_)),
    "not": _monotone("-", 0, only=jnp.bool_),
    "neg": _monotone("-", 0),
    "sub": _monotone("+-", 2),
    "mul": _product,
    "div": _quotient,
    "abs": _even,
    "square": _even,
    "integer_pow": _integer_power,
    "select_n": _select,
    "convert_element_type": _convert,
    **dict.fromkeys(["gather", "dynamic_slice"], _index),
    **{name: functools.partial(_multilinear, name)
       for name in ["dot_general", "conv_general_dilated"]},
    **{name: functools.partial(_sum, name)
       for name in ["reduce_sum", "reduce_window_sum", "cumsum"]},
}
# fmt: on


def apply_rule(primitive: Primitive, params: dict, values: list) -> Interval | None:
    """Returns the bounds of one equation's output.

    Args:
      primitive: of the equation.
      params: of the equation.
      values: its arguments, at least one of them an Interval, the others arrays.

    Returns:
      The Interval, with infinite bounds in place of NaN ones; None where no rule knows.
    """
    rule = _RULES.get(primitive.name)
    out = rule(functools.partial(primitive.bind, **params), params, values) if rule else None
    if out is None or not jnp.issubdtype(out.lower.dtype, jnp.floating):
        return out
    return Interval(
        jnp.where(jnp.isnan(out.lower), -jnp.inf, out.lower),
        jnp.where(jnp.isnan(out.upper), jnp.inf, out.upper),
    )
