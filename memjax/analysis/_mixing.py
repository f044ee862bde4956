"""Does a model let one example of a batch change the logits of another?"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from memjax.analysis._jaxprs import read_scan
from memjax.errors import InputError

# Of the largest logit: the same program in other company may differ by hardly anything, another
# batch size by what another order of sums (in half precision) makes of it.
_SAME_PROGRAM, _OTHER_BATCH_SIZE = 1e-6, 0.03

_AXES = ("axes", "axis", "dimension", "dimensions")
_MIXING = frozenset(
    {
        *("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
        *("argmax", "argmin", "sort", "rev"),
        *("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"),
    }
)


def check_examples_independent(logits_fn: Callable, params: Any, images: Any) -> None:
    """Raises InputError if the logits of one example depend on the others of its batch.

    Judged by what `logits_fn` computes: the logits of two different images together, in the company
    of a third, and of each alone, with the params as given and with params moved a little (what a
    parameter of 0 hides has a derivative). Params and images that are traced are stood in for by
    random ones. The jaxpr only tells what mixes, and decides where the logits are nan or cannot be
    computed.

    Args:
      logits_fn: `logits_fn(params, images) -> logits [n classes]`.
      params: pytree of arrays.
      images: [n ...]; n itself does not matter.

    Example:
      >>> def logits_fn(params, images):
      ...     return (images - images.mean(0, keepdims=True)) @ params
      >>> check_examples_independent(logits_fn, jnp.ones((3, 2)), jnp.ones((5, 3)))
      Traceback (most recent call last):
      memjax.errors.InputError: logits_fn: mixes the examples of a batch (reduce_sum over ...
    """
    is_mixing = _is_mixing(logits_fn, params, images)
    if is_mixing is False:
        return
    primitive = _primitive_that_mixes(logits_fn, params, images)
    if is_mixing or primitive:
        how = (
            f"{primitive} over the example axis"
            if primitive
            else "an image's logits change with the others in it"
        )
        raise InputError(
            f"logits_fn: mixes the examples of a batch ({how}), so quantities of single examples "
            "do not exist; use it in inference mode"
        )


def _is_mixing(logits_fn: Callable, params: Any, images: Any) -> bool | None:
    """Returns whether the computed logits depend on other examples; None where they do not tell."""
    rng = np.random.default_rng(0)
    program = jax.jit(logits_fn)
    answers = []
    try:
        # Also while the caller is traced, the logits are computed here and now.
        with jax.ensure_compile_time_eval():
            trio = _three_images(rng, images)
            given = jax.tree.map(lambda leaf: _concrete_leaf(rng, leaf), params)
            for each in (given, jax.tree.map(lambda leaf: _moved_leaf(rng, leaf), given)):
                answers.append(_differ(program, each, trio))
                if answers[-1]:
                    return True
    except InputError:
        raise
    except Exception:  # whatever a model does that cannot run here (a traced constant, a mesh)
        return None
    return None if None in answers[:1] else False


def _differ(program: Callable, params: Any, trio: np.ndarray) -> bool | None:
    def logits(*rows: int) -> np.ndarray:
        return np.asarray(program(params, trio[list(rows)]), np.float64)

    alone = np.stack([logits(row)[0] for row in range(3)])
    pairs = [logits(*rows) for rows in ((0, 1), (2, 1), (0, 2))]
    if not all(np.isfinite(values).all() for values in (alone, *pairs)):
        return None
    scale = max(np.abs(alone).max(), *(np.abs(pair).max() for pair in pairs), 1e-30)
    in_other_company = (pairs[0][0] - pairs[2][0], pairs[0][1] - pairs[1][1])
    in_company = (pairs[0] - alone[[0, 1]], pairs[2] - alone[[0, 2]])
    return bool(
        max(np.abs(change).max() for change in in_other_company) > _SAME_PROGRAM * scale
        or max(np.abs(change).max() for change in in_company) > _OTHER_BATCH_SIZE * scale
    )


def _three_images(rng: np.random.Generator, images: Any) -> np.ndarray:
    """Returns the first image, and two random ones within its range."""
    shape, dtype = (3, *images.shape[1:]), images.dtype
    first = None if _is_traced(images) else np.asarray(images[:1])
    if jnp.issubdtype(dtype, jnp.bool_):
        made: np.ndarray = rng.integers(0, 2, shape)
    else:
        as_float = np.float64(0 if first is None or not first.size else first)
        low, high = as_float.min(), as_float.max()
        if not np.isfinite(high - low) or low == high:
            low, high = min(low, 0.0), max(high, 1.0)
            low, high = (low, high) if np.isfinite(high - low) else (0.0, 1.0)
        is_integer = jnp.issubdtype(dtype, jnp.integer)
        made = rng.integers(low, high + 1, shape) if is_integer else rng.uniform(low, high, shape)
    made = np.asarray(made).astype(dtype)
    if first is not None:
        made[:1] = first
    return made


def _concrete_leaf(rng: np.random.Generator, leaf: Any) -> Any:
    """Returns the leaf, or where it is traced, values that a network might have."""
    if not _is_traced(leaf):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), leaf.shape)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return np.zeros(leaf.shape, leaf.dtype)
    if len(leaf.shape) < 2:  # an offset, a scale or a variance: nothing below 0
        return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
    fan_in = max(1, math.prod(leaf.shape[:-1]))
    return (rng.normal(size=leaf.shape) / math.sqrt(fan_in)).astype(leaf.dtype)


def _moved_leaf(rng: np.random.Generator, leaf: Any) -> Any:
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating) or not leaf.size:
        return leaf
    values = np.asarray(leaf, np.float64)
    scale = 0.1 * np.sqrt(np.mean(values**2)) or 0.1
    return (values + scale * np.abs(rng.normal(size=leaf.shape))).astype(leaf.dtype)


def _is_traced(array: Any) -> bool:
    return isinstance(array, jax.core.Tracer | jax.ShapeDtypeStruct)


def _primitive_that_mixes(logits_fn: Callable, params: Any, images: Any) -> str | None:
    """Returns the first primitive that computes over the example axis, where the jaxpr shows it.

    The model is traced with a number of examples that no other axis has a multiple of, so that the
    example axis can be told by its length.
    """
    sizes = [size for leaf in jax.tree.leaves((params, images)) for size in leaf.shape]
    num_examples = next(n for n in _primes(65_537) if all(size % n for size in sizes if size))
    many = jax.ShapeDtypeStruct((num_examples, *images.shape[1:]), images.dtype)
    try:
        jaxpr = jax.make_jaxpr(logits_fn)(params, many).jaxpr
    except Exception:  # a model that is made for one batch size; the logits have told already
        return None
    return _find_mixing(jaxpr, num_examples)


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


def _lengths_computed_over(equation: Any, shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Returns the lengths of the axes along which an equation's results depend on each other."""
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracting, _), _ = parameters["dimension_numbers"]
        return [shapes[0][axis] for axis in contracting]
    if name == "conv_general_dilated":
        # Kernels of single examples are groups of features, and no mixing.
        if parameters["feature_group_count"] > 1:
            return []
        return [shapes[0][axis] for axis in parameters["dimension_numbers"].lhs_spec[1:]]
    if name == "scan":
        scan = read_scan(equation)
        return [scan.length] if scan.num_carry else []
    if name.startswith("reduce_window"):
        windows = parameters["window_dimensions"]
        return [size for size, window in zip(shapes[0], windows, strict=True) if window > 1]
    if name in _MIXING:
        for key in _AXES:
            if key in parameters:
                axes = parameters[key]
                return [shapes[0][axis] for axis in (axes if isinstance(axes, tuple) else (axes,))]
    return []
