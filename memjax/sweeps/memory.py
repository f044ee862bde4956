"""The memory that the points of a group need on a device, estimated from shapes alone."""

from collections.abc import Iterator
from typing import Any

from jax.extend import core


def peak_bytes(jaxpr: core.Jaxpr) -> int:
    """Returns what a program needs at once beyond its inputs, if nothing in it is fused.

    Every value is held from where it is computed to where it is used last: activations from the
    forward to the backward pass. XLA fuses and so mostly holds less.

    Args:
      jaxpr: of the program.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> program = jax.make_jaxpr(lambda x: jnp.sum(jnp.exp(jnp.sin(x))))(jnp.zeros(1000))
      >>> peak_bytes(program.jaxpr)  # sin(x) and its exponential
      8000
    """
    last_use: dict[Any, int] = {}
    for place, inputs in enumerate([*(eqn.invars for eqn in jaxpr.eqns), jaxpr.outvars]):
        last_use |= {var: place for var in inputs if isinstance(var, core.Var)}
    live: dict[Any, int] = {}
    peak = 0
    for place, eqn in enumerate(jaxpr.eqns):
        made = {var: _bytes(var) for var in eqn.outvars}
        inside = max((peak_bytes(inner) for inner in _inner_jaxprs(eqn)), default=0)
        peak = max(peak, sum(live.values()) + max(inside, sum(made.values())))
        live |= made
        live = {var: size for var, size in live.items() if last_use.get(var, -1) > place}
    return peak


def _bytes(var: Any) -> int:
    return var.aval.size * var.aval.dtype.itemsize


def _inner_jaxprs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yields the programs within an equation: the branches of a cond, the body of a loop."""
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part
