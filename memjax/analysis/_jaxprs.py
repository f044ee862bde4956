"""All that memjax knows about the insides of JAX's jaxprs.

JAX documents `make_jaxpr`, `jaxpr_as_fun` and the classes in `jax.extend.core`; the parameters of
an equation are what its primitive makes them, and have changed between versions. Whatever reads
them beyond the operations of `jax.lax` themselves (calls, scans) is here and nowhere else.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from memjax.analysis._max_pool import max_pool
from memjax.errors import InputError

# Calls that mean their body. A custom derivative is not one of them: it must stay what it is.
CALLS = frozenset({"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"})
# A larger window would make the slices of our max_pool a long program.
_MAX_POOL_WINDOW = 32

Apply = Callable[[int, Any, list[Any]], list[Any]]
Rule = Callable[[Any, list[Any]], list[Any] | None]


class Scan(NamedTuple):
    """A `scan` equation: its body, and how its operands and results fall apart.

    Operands are `num_consts` constants, `num_carry` initial carries, then what is scanned over;
    results are the last carries, then what is stacked.
    """

    body: core.ClosedJaxpr
    length: int
    reverse: bool
    num_consts: int
    num_carry: int
    unroll: int


def evaluate(jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any], apply: Apply) -> list[Any]:
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


def evaluate_inlined(
    jaxpr: Any,
    consts: Sequence[Any],
    inputs: Sequence[Any],
    rule: Rule = lambda equation, operands: None,
    calls: frozenset[str] = CALLS,
) -> list[Any]:
    """Runs a jaxpr with every call replaced by its body, also in the bodies of scans.

    Args:
      jaxpr: with `eqns`, `invars` and so on.
      consts: the values of its `constvars`.
      inputs: the values of its `invars`.
      rule: (equation, operands) -> what to do instead of the equation; None for the equation.
      calls: names of the primitives that mean their body.

    Returns:
      The values of its `outvars`.
    """

    def apply(_: int, equation: Any, operands: list[Any]) -> list[Any]:
        if equation.primitive.name in calls:
            body, body_consts = call_body(equation)
            return evaluate_inlined(body, body_consts, operands, rule, calls)
        results = rule(equation, operands)
        if results is not None:
            return results
        if equation.primitive.name == "scan":
            scan = read_scan(equation)

            def inlined(inputs: list[Any]) -> list[Any]:
                return evaluate_inlined(scan.body.jaxpr, scan.body.consts, inputs, rule, calls)

            return run_scan(scan, operands, inlined)
        return apply_equation(equation, operands)

    return evaluate(jaxpr, consts, inputs, apply)


def call_body(equation: Any) -> tuple[Any, Sequence[Any]]:
    """Returns the jaxpr that a call runs, and the values of its `constvars`."""
    body = _parameter(equation, "jaxpr", "call_jaxpr", "fun_jaxpr")
    return (body.jaxpr, body.consts) if isinstance(body, core.ClosedJaxpr) else (body, ())


def read_scan(equation: Any) -> Scan:
    """Returns the parts of a `scan` equation.

    JAX 0.10 counts the parts in parameters that JAX 0.12 no longer has. What is scanned over, and
    what is stacked, has one axis more outside than in the body; that tells them from the rest.
    """
    body = _parameter(equation, "jaxpr")
    num_operands, num_results = len(equation.invars), len(equation.outvars)
    num_scanned = sum(
        len(outer.aval.shape) > len(inner.shape)
        for outer, inner in zip(equation.invars, body.in_avals, strict=True)
    )
    num_stacked = sum(
        len(outer.aval.shape) > len(inner.shape)
        for outer, inner in zip(equation.outvars, body.out_avals, strict=True)
    )
    num_carry = num_results - num_stacked
    return Scan(
        body=body,
        length=_parameter(equation, "length"),
        reverse=_parameter(equation, "reverse"),
        num_consts=num_operands - num_scanned - num_carry,
        num_carry=num_carry,
        unroll=equation.params.get("unroll", 1),  # changes no result
    )


def run_scan(
    scan: Scan, operands: Sequence[Any], body: Callable[[list[Any]], list[Any]]
) -> list[Any]:
    """Runs a scan whose body may add to what is stacked: `body(inputs) -> results`, both flat."""
    first, last = scan.num_consts, scan.num_consts + scan.num_carry
    consts = list(operands[:first])

    def step(carry: list[Any], scanned: list[Any]) -> tuple[list[Any], list[Any]]:
        results = body([*consts, *carry, *scanned])
        return results[: scan.num_carry], results[scan.num_carry :]

    carry, stacked = jax.lax.scan(
        step,
        list(operands[first:last]),
        list(operands[last:]),
        length=scan.length,
        reverse=scan.reverse,
        unroll=scan.unroll,
    )
    return [*carry, *stacked]


def max_pool_rule(equation: Any, operands: list[Any]) -> list[Any] | None:
    """Replaces XLA's max pooling by our own, whose derivative is faster."""
    parameters = equation.params
    if (
        equation.primitive.name == "reduce_window_max"
        and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)
        and math.prod(parameters["window_dimensions"]) <= _MAX_POOL_WINDOW
        and set(parameters["base_dilation"] + parameters["window_dilation"]) == {1}
    ):
        window = parameters["window_dimensions"], parameters["window_strides"]
        return [max_pool(*operands, *window, parameters["padding"])]
    return None


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
    check_logits_shape(shape, images.shape[0])
    return jax.make_jaxpr(
        lambda *inputs: evaluate_inlined(closed.jaxpr, closed.consts, inputs, max_pool_rule)
    )(*closed.in_avals)


def num_values(jaxpr: core.ClosedJaxpr) -> int:
    """Returns how many numbers all equations of a jaxpr compute together."""
    results = [variable.aval for equation in jaxpr.jaxpr.eqns for variable in equation.outvars]
    return sum(math.prod(getattr(aval, "shape", ())) for aval in results)


def check_logits_shape(shape: Any, num_examples: int) -> None:
    """Raises InputError unless a ShapeDtypeStruct is that of float logits [n classes]."""
    if not (
        hasattr(shape, "shape")
        and len(shape.shape) == 2
        and shape.shape[0] == num_examples
        and shape.shape[1]
        and jnp.issubdtype(shape.dtype, jnp.floating)
    ):
        raise InputError(
            f"logits_fn: must return float logits [n classes] for every n, but for "
            f"{num_examples} images it returned {shape}"
        )


def _parameter(equation: Any, *names: str) -> Any:
    """Returns the parameter of an equation that has one of these names."""
    for name in names:
        if name in equation.params:
            return equation.params[name]
    raise InputError(
        f"jax {jax.__version__}: its {equation.primitive.name!r} has parameters that memjax does "
        f"not know ({', '.join(equation.params)}); memjax was tested with jax 0.10 to 0.12"
    )
