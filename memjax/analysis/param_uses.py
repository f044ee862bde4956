"""Where a model uses its parameters, read off the jaxpr of `logits_fn`."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from memjax.analysis.forward_pass import evaluate, inlined_jaxpr

_ELEMENTWISE = frozenset({"add", "sub", "mul", "div", "add_any"})
_REORDERINGS = frozenset({"reshape", "squeeze", "expand_dims", "broadcast_in_dim", "rev"})


@dataclasses.dataclass(frozen=True)
class View:
    """A leaf seen through operations that involve no example.

    An exact view holds the leaf's elements, each once, times `scale`. Two exact views with equal
    `history` hold them in the same order once their dimensions are put back by `axes`.
    """

    leaf: int
    axes: tuple[int, ...]
    history: tuple[Any, ...] = ()
    scale: float = 1.0
    is_exact: bool = True


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An equation that multiplies activations with an exact view of one leaf.

    Attributes:
      index: the equation's place in the jaxpr.
      equation: a `dot_general` or a `conv_general_dilated`.
      view: the leaf.
      activation: which of the equation's two operands holds the activations.
    """

    index: int
    equation: Any
    view: View
    activation: int

    @property
    def is_dense(self) -> bool:
        return self.equation.primitive.name == "dot_general"

    @property
    def layout(self) -> tuple[tuple, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of a dense equation: the view's history, and its batch, contracted and free axes."""
        contracting, batch = self.equation.params["dimension_numbers"]
        side = 1 - self.activation
        taken = {*contracting[side], *batch[side]}
        free = [axis for axis in range(len(self.view.axes)) if axis not in taken]
        named = [
            tuple(self.view.axes[axis] for axis in axes)
            for axes in (batch[side], contracting[side], free)
        ]
        return self.view.history, named[0], named[1], named[2]


@dataclasses.dataclass(frozen=True)
class ParamUses:
    """What each leaf of `params` meets in the forward pass of ONE example (a batch of 1).

    A leaf that has no derivative (behind `stop_gradient`, an integer, unused) is in no field.

    Attributes:
      jaxpr: the forward pass, calls inlined; its inputs are the leaves, then the images.
      kernels: leaf -> its uses, where these are one convolution, or dense equations that all see
        the leaf as the same matrix (or as its transpose).
      elementwise: leaves that are only added, subtracted, multiplied or divided by.
      shared: leaves with several known uses that have no matrix in common.
      other: leaf -> the primitive that takes it out of the three groups above.
    """

    jaxpr: core.ClosedJaxpr
    kernels: dict[int, tuple[Kernel, ...]]
    elementwise: frozenset[int]
    shared: frozenset[int]
    other: dict[int, str]


@dataclasses.dataclass(frozen=True)
class _Origin:
    """What a value comes from: leaves alone (with a derivative), or images.

    The result of a kernel counts as coming from images, even where its activations are constant.
    `primitive` is the first one that made more of the leaves than a view.
    """

    from_images: bool = False
    leaves: frozenset[int] = frozenset()
    view: View | None = None
    primitive: str = ""


def find_param_uses(logits_fn: Callable, params: Any, images: Any) -> ParamUses:
    """Follows every leaf of `params` to the equations in which it meets an example.

    Args:
      logits_fn: `logits_fn(params, images) -> logits [n classes]`.
      params: pytree of arrays.
      images: [n ...]; only the dtype, and the shape without n, matter.

    Returns:
      The uses of the leaves, numbered as in `jax.tree.leaves(params)`.

    Raises:
      InputError: `logits_fn` does not return float logits [n classes].
    """
    one_image = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    closed = inlined_jaxpr(logits_fn, params, one_image)
    kernels: dict[int, list[Kernel]] = {}
    elementwise: set[int] = set()
    other: dict[int, str] = {}

    def apply(index: int, equation: Any, operands: list[Any]) -> list[_Origin]:
        origins = [x if isinstance(x, _Origin) else _Origin() for x in operands]
        kernel = _kernel(index, equation, origins)
        if kernel:
            kernels.setdefault(kernel.view.leaf, []).append(kernel)
            return [_Origin(from_images=True)]
        origin = _result_origin(equation, origins, operands)
        if origin.from_images and _has_derivative(equation):
            used = [source for source in origins if source.leaves]
            if equation.primitive.name in _ELEMENTWISE and all(source.view for source in used):
                elementwise.update(*(source.leaves for source in used))
            else:
                for source in used:
                    reason = source.primitive or equation.primitive.name
                    other.update((leaf, other.get(leaf, reason)) for leaf in source.leaves)
        return [origin] * len(equation.outvars)

    leaves = [_leaf_origin(leaf, aval) for leaf, aval in enumerate(closed.in_avals[:-1])]
    consts = [_Origin()] * len(closed.consts)
    outputs = evaluate(closed.jaxpr, consts, [*leaves, _Origin(from_images=True)], apply)
    for output in outputs:
        if isinstance(output, _Origin):
            other.update((leaf, output.primitive or "return") for leaf in output.leaves)
    shared = {leaf for leaf, uses in kernels.items() if not _have_one_matrix(uses)}
    shared |= kernels.keys() & elementwise
    return ParamUses(
        jaxpr=closed,
        kernels={
            leaf: tuple(uses)
            for leaf, uses in kernels.items()
            if leaf not in other and leaf not in shared
        },
        elementwise=frozenset(elementwise - shared - other.keys()),
        shared=frozenset(shared - other.keys()),
        other=other,
    )


def _leaf_origin(leaf: int, aval: Any) -> _Origin:
    if not jnp.issubdtype(aval.dtype, jnp.floating):
        return _Origin()
    return _Origin(leaves=frozenset({leaf}), view=View(leaf, tuple(range(len(aval.shape)))))


def _has_derivative(equation: Any) -> bool:
    return equation.primitive.name != "stop_gradient" and any(
        jnp.issubdtype(variable.aval.dtype, jnp.inexact) for variable in equation.outvars
    )


def _result_origin(equation: Any, origins: list[_Origin], operands: list[Any]) -> _Origin:
    if any(origin.from_images for origin in origins):
        return _Origin(from_images=True)
    leaves: frozenset[int] = frozenset().union(*(origin.leaves for origin in origins))
    if not leaves or not _has_derivative(equation):
        return _Origin()
    primitive = next((o.primitive for o in origins if o.primitive), equation.primitive.name)
    view = _next_view(equation, origins, operands)
    return _Origin(leaves=leaves, view=view, primitive="" if view else primitive)


def _next_view(equation: Any, origins: list[_Origin], operands: list[Any]) -> View | None:
    """Returns the view after an equation without examples; None where it is not a view."""
    (place, *others) = [i for i, origin in enumerate(origins) if origin.leaves]
    view = origins[place].view
    if others or view is None:
        return None
    name, parameters = equation.primitive.name, equation.params
    shape = equation.outvars[0].aval.shape
    if name in ("convert_element_type", "copy"):
        return view
    if name == "neg":
        return dataclasses.replace(view, scale=-view.scale)
    if name == "transpose":
        axes = tuple(view.axes[axis] for axis in parameters["permutation"])
        return dataclasses.replace(view, axes=axes)
    is_same_size = math.prod(shape) == math.prod(equation.invars[place].aval.shape)
    if name in _REORDERINGS:
        step = (view.axes, name, shape, tuple(parameters.get("dimensions") or ()))
        return View(
            view.leaf,
            tuple(range(len(shape))),
            (*view.history, step),
            view.scale,
            view.is_exact and is_same_size,
        )
    if name in ("mul", "div") and (name == "mul" or place == 0):
        factor = operands[1 - place]
        if not isinstance(factor, _Origin) and is_same_size:
            scale = view.scale * float(factor) if name == "mul" else view.scale / float(factor)
            return dataclasses.replace(view, scale=scale)
    return dataclasses.replace(view, is_exact=False) if name in _ELEMENTWISE else None


def _kernel(index: int, equation: Any, origins: list[_Origin]) -> Kernel | None:
    """Returns the kernel if the equation multiplies activations with an exact view."""
    name, parameters = equation.primitive.name, equation.params
    if name not in ("dot_general", "conv_general_dilated"):
        return None
    activation = 1 if origins[0].leaves else 0
    view = origins[1 - activation].view
    if view is None or not view.is_exact or origins[activation].leaves:
        return None
    if name == "conv_general_dilated" and (activation or parameters["batch_group_count"] != 1):
        return None
    return Kernel(index, equation, view, activation)


def _have_one_matrix(uses: Sequence[Kernel]) -> bool:
    if len(uses) == 1:
        return True
    if not all(use.is_dense for use in uses):
        return False
    history, batch, contracted, free = uses[0].layout
    allowed = [(history, batch, contracted, free)]
    if not batch:
        allowed.append((history, batch, free, contracted))
    return all(use.layout in allowed for use in uses)
