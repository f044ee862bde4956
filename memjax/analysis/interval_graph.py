"""The flat jaxpr of a network for one image, every call in it replaced by its body."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal
from jax.lax import Precision

from memjax.analysis.interval_rules import STRUCTURAL

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


def read(environment: dict, atom: Any) -> Any:
    """Returns the value of a variable or literal."""
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
    """The flat jaxpr of one image's logits.

    Attributes:
      image: the variable that holds the image.
      output: the variable, or literal, that holds the logits [classes].
      equations: those that depend on the image, in the order of evaluation.
    """

    def __init__(self, logits_fn: LogitsFn, params: Any, image: jax.Array | jax.ShapeDtypeStruct):
        closed = jax.make_jaxpr(lambda params, image: logits_fn(params, image[None])[0])(
            params, image
        )
        leaves = jax.tree.leaves(params)
        flat = jax.make_jaxpr(functools.partial(_evaluate_inlined, closed.jaxpr, closed.consts))(
            *leaves, image
        )
        self.image, self.output = flat.jaxpr.invars[-1], flat.jaxpr.outvars[0]
        variables = [*flat.jaxpr.constvars, *flat.jaxpr.invars[:-1]]
        self._constants = dict(zip(variables, [*flat.consts, *leaves], strict=True))
        self._exact_equations: list[JaxprEqn] = []
        self.equations: list[JaxprEqn] = []
        self._dependent = {self.image}
        for equation in flat.jaxpr.eqns:
            if any(self.depends(atom) for atom in equation.invars):
                self._dependent.update(equation.outvars)
                self.equations.append(equation)
            else:
                self._exact_equations.append(equation)

    def depends(self, atom: Any) -> bool:
        """Whether a variable depends on the image."""
        return not isinstance(atom, Literal) and atom in self._dependent

    def run_exact(self) -> dict:
        """Returns the value of every variable that does not depend on the image."""
        environment = dict(self._constants)
        for equation in self._exact_equations:
            values = [read(environment, atom) for atom in equation.invars]
            environment.update(zip(equation.outvars, _bind(equation, values), strict=True))
        return environment

    def is_affine(self, equation: JaxprEqn) -> bool:
        """Whether an equation is affine, jointly, in its arguments that depend on the image."""
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

    def is_affine_in_image(self, variable: Any) -> bool:
        """Whether only affine equations lie between the image and a variable."""
        wanted = {variable}
        for equation in reversed(self.equations):
            if not wanted.isdisjoint(equation.outvars):
                if not self.is_affine(equation):
                    return False
                wanted.update(atom for atom in equation.invars if self.depends(atom))
        return True

    def rectified(self, equation: JaxprEqn) -> Any:
        """Returns x of an equation max(x, constant), as of a ReLU; None of any other equation."""
        if equation.primitive.name != "max":
            return None
        dependent = [atom for atom in equation.invars if self.depends(atom)]
        return dependent[0] if len(dependent) == 1 else None

    def refinable(self, refine_up_to: int) -> list:
        """Returns inputs of ReLUs, at most so large, that intervals alone do not bound exactly."""
        inputs = [self.rectified(equation) for equation in self.equations]
        return [
            variable
            for variable in dict.fromkeys(inputs)
            if variable is not None
            and variable.aval.size <= refine_up_to
            and not self.is_affine_in_image(variable)
        ]
