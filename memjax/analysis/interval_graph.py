"""The flat jaxpr of a network for one image, run exactly, on intervals, or only its affine end."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal
from jax.lax import Precision

from memjax.analysis.interval_rules import STRUCTURAL, Interval, apply_rule

LogitsFn = Callable[[Any, jax.Array], jax.Array]

# fmt: off
_CALLS = frozenset([
    "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint",
    "remat2",
])
_LINEAR = STRUCTURAL | frozenset([
    "neg", "add", "sub", "add_any", "reduce_sum", "reduce_window_sum", "cumsum",
])
# fmt: on
_LINEAR_IN_FIRST = frozenset(["div", "gather", "dynamic_slice", "conv_general_dilated"])
_LINEAR_IN_ONE = frozenset(["mul", "dot_general"])


class UnknownPrimitive(Exception):
    """The network has a primitive that interval propagation has no rule for."""


def read(environment: dict, atom: Any) -> Any:
    return atom.val if isinstance(atom, Literal) else environment[atom]


def _bind(equation: JaxprEqn, values: list) -> list:
    params = equation.primitive.get_bind_params(equation.params)
    out = equation.primitive.bind(*values, **params)
    return list(out) if equation.primitive.multiple_results else [out]


def _evaluate_inlined(jaxpr: Any, constants: list, *arguments: Any) -> list:
    """Evaluates a jaxpr with every call replaced by its body, products in full precision."""
    variables = [*jaxpr.constvars, *jaxpr.invars]
    environment = dict(zip(variables, [*constants, *arguments], strict=True))
    for equation in jaxpr.eqns:
        values = [read(environment, atom) for atom in equation.invars]
        name, params = equation.primitive.name, equation.params
        if name in _CALLS:
            body = params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"]
            is_closed = isinstance(body, ClosedJaxpr)
            inner, inner_constants = (body.jaxpr, body.consts) if is_closed else (body, [])
            out = _evaluate_inlined(inner, inner_constants, *values)
        elif name == "stop_gradient":
            out = values
        elif name in ("dot_general", "conv_general_dilated"):
            out = [equation.primitive.bind(*values, **params | {"precision": Precision.HIGHEST})]
        else:
            out = _bind(equation, values)
        environment.update(zip(equation.outvars, out, strict=True))
    return [read(environment, atom) for atom in jaxpr.outvars]


class Graph:
    """The flat jaxpr of one image's logits, and which of it depends on the image."""

    def __init__(self, logits_fn: LogitsFn, params: Any, image: jax.Array | jax.ShapeDtypeStruct):
        closed = jax.make_jaxpr(lambda params, image: logits_fn(params, image[None])[0])(
            params, image
        )
        leaves = jax.tree.leaves(params)
        flat = jax.make_jaxpr(functools.partial(_evaluate_inlined, closed.jaxpr, closed.consts))(
            *leaves, image
        )
        self.equations = flat.jaxpr.eqns
        self.image, self.output = flat.jaxpr.invars[-1], flat.jaxpr.outvars[0]
        variables = [*flat.jaxpr.constvars, *flat.jaxpr.invars[:-1]]
        self.constants = dict(zip(variables, [*flat.consts, *leaves], strict=True))
        self.dependent = {self.image}
        for equation in self.equations:
            if any(self.depends(atom) for atom in equation.invars):
                self.dependent.update(equation.outvars)
        self.tail, self.frontier = self._affine_tail()
        self.body = self._ancestors(self.frontier)

    def depends(self, atom: Any) -> bool:
        """Whether a variable depends on the image."""
        return not isinstance(atom, Literal) and atom in self.dependent

    def _affine_tail(self) -> tuple[list[JaxprEqn], list]:
        """Returns the equations through which the logits are affine in the frontier variables."""
        wanted = {self.output} if self.depends(self.output) else set()
        tail, frontier = [], []
        for equation in reversed(self.equations):
            reached = [variable for variable in equation.outvars if variable in wanted]
            if reached and self._is_affine(equation):
                tail.append(equation)
                wanted.update(atom for atom in equation.invars if self.depends(atom))
            else:
                frontier.extend(reached)
        if self.image in wanted:
            frontier.append(self.image)
        return tail[::-1], frontier

    def _ancestors(self, variables: list) -> list[JaxprEqn]:
        """Returns the equations that `variables` depend on; they may overlap with the tail."""
        wanted, equations = set(variables), []
        for equation in reversed(self.equations):
            if any(variable in wanted for variable in equation.outvars):
                equations.append(equation)
                wanted.update(atom for atom in equation.invars if self.depends(atom))
        return equations[::-1]

    def _is_affine(self, equation: JaxprEqn) -> bool:
        """Whether the equation is affine, jointly, in its arguments that depend on the image."""
        name, arguments = equation.primitive.name, equation.invars
        depends = [self.depends(atom) for atom in arguments]
        if name == "convert_element_type":
            aval: Any = arguments[0].aval
            old, new = aval.dtype, equation.params["new_dtype"]
            return bool(jnp.issubdtype(old, jnp.floating)) and jnp.promote_types(old, new) == new
        if name == "select_n":
            return not depends[0]
        return (
            name in _LINEAR
            or (name in _LINEAR_IN_FIRST and not any(depends[1:]))
            or (name in _LINEAR_IN_ONE and sum(depends) == 1)
        )

    def run_exact(self) -> dict:
        """Returns the values of everything that does not depend on the image."""
        environment = dict(self.constants)
        for equation in self.equations:
            if not any(self.depends(atom) for atom in equation.invars):
                values = [read(environment, atom) for atom in equation.invars]
                environment.update(zip(equation.outvars, _bind(equation, values), strict=True))
        return environment

    def run_intervals(self, environment: dict, equations: list[JaxprEqn], symmetric=False) -> None:
        """Adds to `environment` the intervals of the dependent ones among `equations`."""
        for equation in equations:
            if not any(self.depends(atom) for atom in equation.invars):
                continue
            values = [read(environment, atom) for atom in equation.invars]
            values = [v if isinstance(v, Interval) else jnp.asarray(v) for v in values]
            out = apply_rule(equation.primitive, equation.params, values)
            if out is None:
                raise UnknownPrimitive(equation.primitive.name)
            if symmetric:
                magnitude = jnp.maximum(-out.lower, out.upper)
                out = Interval(-magnitude, magnitude)
            environment[equation.outvars[0]] = out

    def run_tail(self, exact: dict, frontier: list[jax.Array]) -> jax.Array:
        """Returns the logits at one value of the frontier variables."""
        environment = exact | dict(zip(self.frontier, frontier, strict=True))
        for equation in self.tail:
            values = [read(environment, atom) for atom in equation.invars]
            environment.update(zip(equation.outvars, _bind(equation, values), strict=True))
        return read(environment, self.output)
