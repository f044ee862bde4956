"""What rounding may add: bounds are computed in float32 or wider, whatever the network computes in.

A network's number of a narrower dtype lies within some eps of that dtype of the exact one, whether
or not a compiler keeps the excess digits; past the dtype's largest number it is infinite. A product
of matrices (or a convolution) of narrow numbers is summed in float32, as XLA does on every backend.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn

import memjax.analysis._precision as _precision
from memjax.analysis._certificates.interval_graph import is_float, is_narrow
from memjax.analysis._jaxprs import apply_equation

_PRODUCTS = ("dot_general", "conv_general_dilated")
# What a backend may round the factors of a float32 product to, where full precision is not asked
# for: TF32 and bfloat16. A CPU rounds nothing.
_FACTOR_EPS = {"cpu": 0.0, "gpu": 2.0**-10, "cuda": 2.0**-10, "rocm": 2.0**-10}


class Operation(NamedTuple):
    """One equation, as the rules for intervals need it.

    Attributes:
      name: of the primitive.
      params: of the equation.
      run: (*values) -> the output, in float32 or wider.
      dtype: in which the network holds the output.
      eps: relative rounding of the network's dtypes in the equation, the coarsest one.
      sum_eps: the same, for each term of a sum.
      tiny: absolute rounding, of the dtype of the output.
      largest: beyond it the network's output is infinite.
      shapes: of the arguments.
    """

    name: str
    params: dict
    run: Callable
    dtype: Any
    eps: float
    sum_eps: float
    tiny: float
    largest: float
    shapes: tuple


def _aval(atom: Any) -> Any:
    return atom.aval


def dtype_of(atom: Any) -> Any:
    """Returns the dtype of a variable or literal."""
    return _aval(atom).dtype


def wide_dtype(dtype: Any) -> Any:
    """Returns the dtype in which bounds of a variable are computed."""
    is_real = jnp.issubdtype(dtype, jnp.floating)
    return _precision.wide_dtype(dtype) if is_real else jnp.dtype(dtype)


def widened(value: Any) -> jax.Array:
    """Returns an array in the dtype in which bounds are computed."""
    array = jnp.asarray(value)
    return array.astype(wide_dtype(array.dtype))


def _default_precision() -> Any:
    return getattr(jax.config, "jax_default_matmul_precision", None)


def _factor_eps(equation: JaxprEqn) -> float:
    precision = equation.params.get("precision") or _default_precision()
    chosen = {precision} if not isinstance(precision, tuple) else set(precision)
    if chosen <= {lax.Precision.HIGHEST, "highest", "float32"}:
        return 0.0
    return _FACTOR_EPS.get(jax.default_backend(), 2.0**-7)


def _relative_rounding(dtype: Any) -> float:
    """Returns a unit of rounding: eps, of a narrow dtype half of it, to which it rounds exactly."""
    eps = float(jnp.finfo(dtype).eps)
    return eps if jnp.dtype(dtype).itemsize >= 4 else eps / 2 + 32 * float(jnp.finfo("float32").eps)


def operation(equation: JaxprEqn) -> Operation:
    """Returns an equation with its rounding."""
    name, params = equation.primitive.name, equation.params
    dtype = dtype_of(equation.outvars[0])
    atoms: Sequence[Any] = [*equation.invars, *equation.outvars]
    eps = max([_relative_rounding(dtype_of(atom)) for atom in atoms if is_float(atom)], default=0.0)
    sum_eps = eps
    if name in _PRODUCTS:
        sum_eps = float(jnp.finfo(wide_dtype(dtype)).eps) if is_float(equation.outvars[0]) else 0.0
        eps = max(eps, _factor_eps(equation))
    if name == "reduce_precision":
        eps = max(eps, 2.0 ** -params["mantissa_bits"])
    is_real = jnp.issubdtype(dtype, jnp.floating)
    info = jnp.finfo(dtype) if is_real else None
    tiny, largest = (float(info.tiny), float(info.max)) if info else (0.0, float("inf"))
    if name == "reduce_precision" and params["exponent_bits"] < 8:
        highest = 2.0 ** (2 ** (params["exponent_bits"] - 1) - 1)
        tiny, largest = 4 / highest, min(largest, highest)
    shapes = tuple(aval.shape for aval in map(_aval, equation.invars))
    run = _wide_run(equation)
    return Operation(name, params, run, dtype, eps, sum_eps, tiny, largest, shapes)


def is_certain(equation: JaxprEqn) -> bool:
    """Whether no constant of an equation may be held with other digits than it shows."""
    return not any(map(is_narrow, equation.invars))


def _wide_run(equation: JaxprEqn) -> Callable:
    """Returns the equation as a function of arrays in the dtypes of the bounds."""
    name, params, primitive = equation.primitive.name, dict(equation.params), equation.primitive
    dtype = wide_dtype(dtype_of(equation.outvars[0]))
    if name == "convert_element_type":
        return lambda value: lax.convert_element_type(value, dtype)
    if name == "reduce_precision":
        return lambda value: value
    if name in _PRODUCTS:
        params |= {"precision": lax.Precision.HIGHEST, "preferred_element_type": dtype}
        return lambda *values: primitive.bind(*values, **params)
    if name == "scatter-add":  # Its own parameters hold the narrow addition.
        return lambda operand, indices, updates: lax.scatter_add(
            operand, indices, updates, params["dimension_numbers"], mode=params["mode"],
            indices_are_sorted=params["indices_are_sorted"],
            unique_indices=params["unique_indices"],
        )  # fmt: skip
    return lambda *values: apply_equation(equation, list(values))[0]
