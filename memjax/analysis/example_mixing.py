"""Does a model let one example of a batch change the logits of another?"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from memjax.errors import InputError

_AXES = ("axes", "axis", "dimension", "dimensions")
_MIXING = frozenset(
    {
        *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
        *("argmax", "argmin", "sort", "rev"),
        *("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"),
    }
)


def check_examples_independent(logits_fn: Callable, params: Any, images: Any) -> None:
    """Raises InputError if `logits_fn` computes over the example axis.

    The model is traced (not run) with a number of examples that no other axis has a multiple of, so
    that the example axis can be told by its length, and every reduction, sort, scan or product
    over such an axis is found: BatchNorm in training mode, attention between examples. Mixing by
    slices (shifting the batch by one) is not.

    Args:
      logits_fn: `logits_fn(params, images) -> logits [n classes]`.
      params: pytree of arrays.
      images: [n ...]; n itself does not matter.

    Example:
      >>> import jax.numpy as jnp
      >>> def logits_fn(params, images):
      ...     return (images - images.mean(0, keepdims=True)) @ params
      >>> check_examples_independent(logits_fn, jnp.ones((3, 2)), jnp.ones((5, 3)))
      Traceback (most recent call last):
      memjax.errors.InputError: logits_fn: mixes the examples of a batch (reduce_sum over ...
    """
    sizes = [size for leaf in jax.tree.leaves((params, images)) for size in leaf.shape]
    num_examples = next(n for n in _primes(65_537) if all(size % n for size in sizes if size))
    many = jax.ShapeDtypeStruct((num_examples, *images.shape[1:]), images.dtype)
    primitive = _find_mixing(jax.make_jaxpr(logits_fn)(params, many).jaxpr, num_examples)
    if primitive:
        raise InputError(
            f"logits_fn: mixes the examples of a batch ({primitive} over the example axis), so "
            "quantities of single examples do not exist; use it in inference mode"
        )


def _primes(start: int):
    candidate = start
    while True:
        if all(candidate % divisor for divisor in range(2, math.isqrt(candidate) + 1)):
            yield candidate
        candidate += 1


def _find_mixing(jaxpr: Any, num_examples: int) -> str | None:
    for equation in jaxpr.eqns:
        shapes = [getattr(atom.aval, "shape", ()) for atom in equation.invars]
        lengths = _lengths_computed_over(equation, shapes)
        if any(length and length % num_examples == 0 for length in lengths):
            return equation.primitive.name
        for inner in core.jaxprs_in_params(equation.params):
            found = _find_mixing(inner, num_examples)
            if found:
                return found
    return None


def _lengths_computed_over(equation: Any, shapes: list[tuple[int, ...]]) -> list[int]:
    """Returns the lengths of the axes along which an equation's results depend on each other."""
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracting, _), _ = parameters["dimension_numbers"]
        return [shapes[0][axis] for axis in contracting]
    if name == "conv_general_dilated":
        return [shapes[0][axis] for axis in parameters["dimension_numbers"].lhs_spec[1:]]
    if name == "scan":
        return [parameters["length"]] if parameters["num_carry"] else []
    if name.startswith("reduce_window"):
        windows = parameters["window_dimensions"]
        return [size for size, window in zip(shapes[0], windows, strict=True) if window > 1]
    if name in _MIXING:
        for key in _AXES:
            if key in parameters:
                axes = parameters[key]
                return [shapes[0][axis] for axis in (axes if isinstance(axes, tuple) else (axes,))]
    return []
