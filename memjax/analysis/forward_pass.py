"""The jaxpr of a model's forward pass, made plain, and run equation after equation."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from memjax.analysis.max_pool import max_pool
from memjax.errors import InputError

# Calls that mean their body. A custom derivative is not one of them: it must stay what it is.
_INLINED = frozenset({"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"})
# A larger window would make the slices of our max_pool a long program.
_MAX_POOL_WINDOW = 32


def inlined_jaxpr(logits_fn: Callable, params: Any, images: Any) -> core.ClosedJaxpr:
    """Returns the jaxpr of `logits_fn` without nested calls, with our `max_pool` for XLA's.

    Args:
      logits_fn: `logits_fn(params, images) -> logits [n classes]`.
      params: pytree of arrays (or of anything with a shape and a dtype).
      images: [n ...], likewise.

    Returns:
      A jaxpr from the leaves of `params` and `images` to the logits.

    Raises:
      InputError: the result is not one float array of shape [n classes].
    """
    closed, shape = jax.make_jaxpr(logits_fn, return_shape=True)(params, images)
    if not (
        isinstance(shape, jax.ShapeDtypeStruct)
        and len(shape.shape) == 2
        and shape.shape[0] == images.shape[0]
        and jnp.issubdtype(shape.dtype, jnp.floating)
    ):
        raise InputError(
            f"logits_fn: must return float logits [n classes] for every n, but for "
            f"{images.shape[0]} images it returned {shape}"
        )
    return jax.make_jaxpr(lambda *inputs: _evaluate_inlined(closed.jaxpr, closed.consts, inputs))(
        *closed.in_avals
    )


def _evaluate_inlined(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    def apply(_: int, equation: Any, operands: list[Any]) -> list[Any]:
        parameters = equation.params
        if equation.primitive.name in _INLINED:
            body = parameters["jaxpr" if "jaxpr" in parameters else "call_jaxpr"]
            if isinstance(body, core.ClosedJaxpr):
                return _evaluate_inlined(body.jaxpr, body.consts, operands)
            return _evaluate_inlined(body, (), operands)
        if _is_plain_max_pool(equation):
            window = parameters["window_dimensions"], parameters["window_strides"]
            return [max_pool(*operands, *window, parameters["padding"])]
        return apply_equation(equation, operands)

    return evaluate(jaxpr, consts, inputs, apply)


def _is_plain_max_pool(equation: Any) -> bool:
    parameters = equation.params
    return (
        equation.primitive.name == "reduce_window_max"
        and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)
        and math.prod(parameters["window_dimensions"]) <= _MAX_POOL_WINDOW
        and set(parameters["base_dilation"] + parameters["window_dilation"]) == {1}
    )


def evaluate(
    jaxpr: Any,
    consts: Sequence[Any],
    inputs: Sequence[Any],
    apply: Callable[[int, Any, list[Any]], list[Any]],
) -> list[Any]:
    """Runs a jaxpr, equation after equation, through `apply(index, equation, operands)`.

    What is carried need not be arrays: whatever `apply` returns is handed on.
    """
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for index, equation in enumerate(jaxpr.eqns):
        results = apply(index, equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def apply_equation(equation: Any, operands: list[Any]) -> list[Any]:
    """Returns the results of one equation on these operands, as a list."""
    parameters = equation.primitive.get_bind_params(equation.params)
    results = equation.primitive.bind(*operands, **parameters)
    return list(results) if equation.primitive.multiple_results else [results]
