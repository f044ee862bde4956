"""Bounds of every variable of a network over a box: forwards by intervals, backwards by lines.

Forwards, each equation maps intervals to an interval (Gowal et al. 2018). Backwards, a linear
function of some variable is bounded by pulling its coefficients towards the image: exactly through
affine equations, through a ReLU by the lines that enclose it on its interval (CROWN, Zhang et al.
2018), and through anything else by its interval. Rounding errors are bounded along the way: for
each equation by some eps times the sum of the magnitudes of what it adds up.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from memjax.analysis._certificates.interval_elementwise import intersection, share_of_sum
from memjax.analysis._certificates.interval_graph import Graph, read
from memjax.analysis._certificates.interval_rounding import dtype_of, operation, wide_dtype
from memjax.analysis._certificates.interval_rules import apply_rule, arguments_of
from memjax.analysis._certificates.interval_sums import num_terms, num_uses
from memjax.analysis._certificates.interval_value import Interval, magnitude
from memjax.errors import InputError


class UnknownPrimitive(InputError):
    """The network has a primitive that interval propagation has no rule for."""

    def __init__(self, primitive: str):
        super().__init__(f"logits_fn: interval propagation has no rule for {primitive!r}")
        self.primitive = primitive


def _weighted(coefficient: jax.Array, values: jax.Array) -> jax.Array:
    """Products that are zero where the coefficient is, even if the value is infinite."""
    return jnp.where(coefficient == 0, 0, coefficient * values)


class Propagation:
    """Bounds over one box of one image.

    Attributes:
      values: variable -> array, or Interval where it depends on the image.
    """

    def __init__(self, graph: Graph, lower: jax.Array, upper: jax.Array, refine_up_to: int = 0):
        self._graph = graph
        dtype = wide_dtype(lower.dtype)
        box = Interval(lower.astype(dtype), upper.astype(dtype))
        self.values = graph.run_exact() | {graph.image: box}
        # For affine equations: their output without cancellation, to which rounding is relative.
        self._scales: dict = {}
        to_refine = set(graph.refinable(refine_up_to))
        for equation in graph.equations:
            self._forward(equation)
            for variable in to_refine.intersection(equation.outvars):
                self.values[variable] = self._refined(variable)

    def _arguments(self, equation: JaxprEqn) -> list:
        return arguments_of(equation, lambda atom: read(self.values, atom))

    def _forward(self, equation: JaxprEqn) -> None:
        arguments = self._arguments(equation)
        outputs = apply_rule(equation, arguments)
        if outputs is None:
            raise UnknownPrimitive(_described(equation))
        share = self._graph.share(equation)
        if share is not None:
            terms, axes = num_terms(operation(share)), share.params["axes"]
            tighter = share_of_sum(operation(equation), arguments, terms, axes)
            outputs = [intersection(tighter, outputs[0])]
        self.values.update(zip(equation.outvars, outputs, strict=True))
        if self._graph.is_affine(equation):
            widest = [
                Interval(-magnitude(v), magnitude(v)) if isinstance(v, Interval) else v
                for v in arguments
            ]
            scales = apply_rule(equation, widest)
            assert scales is not None  # It had a rule just now.
            self._scales[equation.outvars[0]] = magnitude(scales[0])

    def _refined(self, variable: Any) -> Interval:
        """Returns the interval of a variable, cut to its bounds from backwards."""
        interval = self.values[variable]
        directions = jnp.eye(interval.lower.size, dtype=interval.lower.dtype)
        directions = directions.reshape(-1, *interval.lower.shape)

        def bounds(direction):
            return self.smallest(variable, direction), -self.smallest(variable, -direction)

        batch_size = min(64, interval.lower.size)
        lower, upper = jax.lax.map(bounds, directions, batch_size=batch_size)
        # Comparisons with NaN, the bound of an unbounded network, are false.
        lower, upper = lower.reshape(interval.lower.shape), upper.reshape(interval.upper.shape)
        return Interval(
            jnp.where(lower > interval.lower, lower, interval.lower),
            jnp.where(upper < interval.upper, upper, interval.upper),
        )

    def smallest(self, variable: Any, direction: jax.Array, use_lines: bool = True) -> jax.Array:
        """Returns a lower bound, over the box, of the sum of direction * variable.

        Args:
          variable: of the graph, depending on the image.
          direction: of the shape and dtype of the variable.
          use_lines: whether to go on through ReLUs, or to stop at the interval of their output.

        Returns:
          A scalar; NaN or -inf where there is no bound.
        """
        graph, constants = self._graph, []
        coefficients = {variable: direction}
        for equation in reversed(graph.equations):
            out = equation.outvars[0]
            if out not in coefficients:
                continue
            coefficient = coefficients.pop(out)
            if graph.is_affine(equation):
                constant, pulled = self._pull_through_affine(equation, coefficient)
            elif use_lines and graph.rectified(equation) is not None:
                constant, pulled = self._pull_through_rectifier(equation, coefficient)
            else:
                constant, pulled = self._at_worst(out, coefficient), []
            constants.append(constant)
            for atom, part in pulled:
                coefficients[atom] = coefficients[atom] + part if atom in coefficients else part
        constants += [self._at_worst(*remaining) for remaining in coefficients.items()]
        return _sum_below(jnp.stack([constant.astype(direction.dtype) for constant in constants]))

    def _at_worst(self, variable: Any, coefficient: jax.Array) -> jax.Array:
        """Returns the smallest value of coefficient * variable by the variable's interval."""
        interval = self.values[variable]
        corner = jnp.where(coefficient > 0, interval.lower, interval.upper)
        return _sum_below(_weighted(coefficient, corner))

    def _pull_through_affine(self, equation: JaxprEqn, coefficient: jax.Array):
        arguments = self._arguments(equation)
        atoms = [atom for atom in equation.invars if self._graph.depends(atom)]
        zeros = [jnp.zeros_like(v.lower) for v in arguments if isinstance(v, Interval)]

        current = operation(equation)

        def run(*dependent):
            remaining = iter(dependent)
            values = [next(remaining) if isinstance(v, Interval) else v for v in arguments]
            return current.run(*values)

        offset, pull_back = jax.vjp(run, *zeros)
        own_eps = float(jnp.finfo(coefficient.dtype).eps)
        # A sum of k terms is off by k eps / 2, in the network and in what is pulled back.
        eps = (num_terms(current) / 2 + 4) * current.sum_eps + (
            2 if current.eps > 1e-4 else 4
        ) * current.eps
        eps += (num_uses(current) / 2 + 4) * own_eps
        sizes = jnp.abs(coefficient)
        error = eps * _weighted(sizes, self._scales[equation.outvars[0]]).sum()
        error += (num_terms(current) + 1) * current.tiny * sizes.sum()
        constant = _sum_below(_weighted(coefficient, offset)) - error
        return constant, list(zip(atoms, pull_back(coefficient), strict=True))

    def _pull_through_rectifier(self, equation: JaxprEqn, coefficient: jax.Array):
        """max(x, k) lies above slope x + (1 - slope) k, and below the chord over x's interval."""
        atom = self._graph.rectified(equation)
        (low,) = [value for value in self._arguments(equation) if not isinstance(value, Interval)]
        lower, upper = self.values[atom]
        start, end = jnp.maximum(lower, low), jnp.maximum(upper, low)
        chord = jnp.where(upper > lower, (end - start) / (upper - lower), 0)
        slope = (lower + upper > 2 * low).astype(chord.dtype)
        positive, negative = jnp.maximum(coefficient, 0), jnp.minimum(coefficient, 0)
        constants = positive * (1 - slope) * low + negative * (start - chord * lower)
        # A narrow constant may be held with other digits.
        eps = operation(equation).eps
        scale = magnitude(self.values[atom]) + jnp.abs(low)
        error = 8 * eps * _weighted(jnp.abs(coefficient), scale).sum()
        pulled = positive * slope + negative * chord
        constant = _sum_below(jnp.where(coefficient == 0, 0, constants))
        return constant - error, [(atom, jnp.where(coefficient == 0, 0, pulled))]


def _sum_below(terms: jax.Array) -> jax.Array:
    """Returns the sum, less what rounding in any order may have added to it."""
    slack = (terms.size + 4) * float(jnp.finfo(terms.dtype).eps)
    return terms.sum() - slack * jnp.abs(terms).sum()


def _described(equation: JaxprEqn) -> str:
    """Names a primitive, with its dtype where that may be the reason."""
    dtype = str(dtype_of(equation.outvars[0]))
    name = equation.primitive.name
    return name if dtype in ("float32", "float64") else f"{name} of {dtype}"
