"""How each primitive maps intervals: the table behind `interval`.

Every bound holds in float arithmetic of the dtypes that the network computes in. Rounding is added
outwards: a sum of k terms by (k + 4) eps times the sum of the terms' magnitudes, which covers the
error of the bound and of the network, in any order of summation; other functions by the units of
eps that the table gives them.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from memjax.analysis._certificates.interval_elementwise import (
    Rule,
    compare,
    convert,
    even,
    exclusive_or,
    index,
    integer_power,
    is_finite,
    monotone,
    power,
    product,
    quotient,
    reduced_precision,
    remainder,
    select,
    wave,
)
from memjax.analysis._certificates.interval_graph import STRUCTURAL
from memjax.analysis._certificates.interval_rounding import (
    Operation,
    dtype_of,
    is_certain,
    operation,
    widened,
)
from memjax.analysis._certificates.interval_sums import (
    add_up,
    largest_few,
    multilinear,
    multiply_up,
    ordered,
    overwrite,
    place_of_extreme,
)
from memjax.analysis._certificates.interval_value import Interval, is_unknown, widened_constant

_FLOAT = jnp.floating
# fmt: off
_RULES: dict[str, Rule] = {
    **dict.fromkeys(STRUCTURAL, monotone("+", 0)),
    **dict.fromkeys(["max", "min", "clamp"], monotone("+", 0)),
    **dict.fromkeys(["floor", "ceil", "round", "sign"], monotone("+", 0, _FLOAT)),
    **dict.fromkeys(["exp", "exp2", "sqrt", "logistic"], monotone("+", 16, _FLOAT, least=0)),
    **dict.fromkeys([
        "expm1", "log", "log1p", "tanh", "cbrt", "erf", "atan", "asin", "asinh", "sinh", "atanh",
        "acosh",
    ], monotone("+", 16, _FLOAT)),
    "erf_inv": monotone("+", 64, _FLOAT),
    "acos": monotone("-", 16, _FLOAT),
    **dict.fromkeys(["erfc", "rsqrt"], monotone("-", 16, _FLOAT, least=0)),
    **dict.fromkeys(["add", "add_any"], monotone("+", 2, _FLOAT)),
    "sub": monotone("+-", 2, _FLOAT),
    "neg": monotone("-", 0, _FLOAT),
    **dict.fromkeys(["gt", "ge", "lt", "le", "eq", "ne"], compare),
    **dict.fromkeys(["and", "or", "reduce_and", "reduce_or"], monotone("+", 0, only=jnp.bool_)),
    "not": monotone("-", 0, only=jnp.bool_),
    "xor": exclusive_or,
    "is_finite": is_finite,
    "mul": product,
    "div": quotient,
    "rem": remainder,
    **dict.fromkeys(["abs", "square", "cosh"], even),
    "integer_pow": integer_power,
    "pow": power,
    "sin": wave(jnp.pi / 2),
    "cos": wave(0.0),
    "select_n": select,
    "convert_element_type": convert,
    "reduce_precision": reduced_precision,
    **dict.fromkeys(["gather", "dynamic_slice"], index),
    **dict.fromkeys(["dot_general", "conv_general_dilated"], multilinear),
    **dict.fromkeys(["reduce_sum", "reduce_window_sum", "cumsum", "scatter-add"], add_up),
    **dict.fromkeys(["reduce_prod", "cumprod"], multiply_up),
    **dict.fromkeys(["scatter", "dynamic_update_slice"], overwrite),
    **dict.fromkeys([
        "reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min", "cummax", "cummin",
        "sort",
    ], ordered),
    "top_k": largest_few,
    **dict.fromkeys(["argmax", "argmin"], place_of_extreme),
}
# fmt: on
# These allow for narrow constants themselves.
_SURE = frozenset(["dot_general", "conv_general_dilated"])


def arguments_of(equation: JaxprEqn, read: Callable) -> list:
    """Returns an equation's arguments, Intervals or arrays in the dtypes of the bounds."""
    values = [read(atom) for atom in equation.invars]
    return [value if isinstance(value, Interval) else widened(value) for value in values]


def apply_rule(equation: JaxprEqn, values: list) -> list[Interval] | None:
    """Returns the bounds of an equation's outputs.

    Args:
      equation: of the flat jaxpr.
      values: its arguments, at least one of them an Interval, the others arrays.

    Returns:
      An Interval for each output, NaN where nothing is known; None where no rule knows.
    """
    rule = _RULES.get(equation.primitive.name)
    if rule is None or _is_tiny_float(equation):
        return None
    current = operation(equation)
    if not is_certain(equation) and current.name not in _SURE:
        values = [_as_held(current, value) for value in values]
    out = rule(current, values)
    if out is None:
        return None
    return [_settled(part) for part in (out if isinstance(out, list) else [out])]


def _is_tiny_float(equation: JaxprEqn) -> bool:
    """Whether a float of 8 bits or fewer, whose overflow differs from all others', is in it."""
    dtypes = [dtype_of(variable) for variable in equation.outvars]
    return any(jnp.issubdtype(d, jnp.floating) and d.itemsize < 2 for d in dtypes)


def _as_held(current: Operation, value):
    if isinstance(value, Interval) or not jnp.issubdtype(value.dtype, jnp.floating):
        return value
    return widened_constant(value, current.eps)


def _settled(out: Interval) -> Interval:
    if not jnp.issubdtype(out.lower.dtype, jnp.floating):
        return out
    unknown = is_unknown(out)
    return Interval(jnp.where(unknown, jnp.nan, out.lower), jnp.where(unknown, jnp.nan, out.upper))
