"""Where a model uses its parameters, read off the jaxpr of `logits_fn`."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax.analysis._ghost.kernels import KERNELS, Kernel, ParamUses, View
from memjax.analysis._jaxprs import evaluate, inlined_jaxpr, read_scan

_ELEMENTWISE = frozenset({"add", "sub", "mul", "div", "add_any"})
_REORDERINGS = frozenset({"reshape", "squeeze", "expand_dims", "broadcast_in_dim", "rev"})


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
    found = _Found({}, set(), {})
    leaves = [_leaf_origin(leaf, aval) for leaf, aval in enumerate(closed.in_avals[:-1])]
    consts = [_Origin()] * len(closed.consts)
    outputs = evaluate(
        closed.jaxpr, consts, [*leaves, _Origin(from_images=True)], found.follow_equation
    )
    for output in outputs:
        if isinstance(output, _Origin):
            found.add_other(output, "return")
    kernels, elementwise, other = found
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


class _Found(NamedTuple):
    """The uses found so far: leaf -> kernels; leaves; leaf -> primitive."""

    kernels: dict[int, list[Kernel]]
    elementwise: set[int]
    other: dict[int, str]

    def follow_equation(self, index: int, equation: Any, operands: list[Any]) -> list[_Origin]:
        """Notes what an equation uses; returns the origins of its results."""
        origins = _origins(operands)
        if equation.primitive.name == "scan" and any(origin.from_images for origin in origins):
            return self._follow_scan(index, equation, origins)
        return self._follow((index,), equation, operands)

    def _follow(
        self,
        place: tuple[int, ...],
        equation: Any,
        operands: list[Any],
        scan_length: int | None = None,
        stacked: frozenset[int] = frozenset(),
    ) -> list[_Origin]:
        origins = _origins(operands)
        kernel = _kernel(place, equation, origins)
        if kernel:
            is_stacked = kernel.view.leaf in stacked
            kernel = dataclasses.replace(kernel, scan_length=scan_length, is_stacked=is_stacked)
            self.kernels.setdefault(kernel.view.leaf, []).append(kernel)
            return [_Origin(from_images=True)]
        origin = _result_origin(equation, origins, operands)
        if origin.from_images and _has_derivative(equation):
            used = [source for source in origins if source.leaves]
            if equation.primitive.name in _ELEMENTWISE and all(source.view for source in used):
                self.elementwise.update(*(source.leaves for source in used))
            else:
                for source in used:
                    self.add_other(source, equation.primitive.name)
        return [origin] * len(equation.outvars)

    def _follow_scan(self, index: int, equation: Any, origins: list[_Origin]) -> list[_Origin]:
        """Follows the leaves into the body of a scan, which is seen once for all of its steps."""
        scan = read_scan(equation)
        first, last = scan.num_consts, scan.num_consts + scan.num_carry
        for origin in origins[first:last]:  # a learned first state counts as an offset
            if origin.view:
                self.elementwise.update(origin.leaves)
            else:
                self.add_other(origin, "scan")
        inputs = [
            *origins[:first],
            *[_Origin(from_images=True)] * scan.num_carry,
            *(_slice_origin(origin) for origin in origins[last:]),
        ]
        stacked = frozenset().union(*(origin.leaves for origin in origins[last:]))

        def follow(inner: int, inner_equation: Any, operands: list[Any]) -> list[_Origin]:
            place = (index, inner)
            return self._follow(place, inner_equation, operands, scan.length, stacked)

        body = scan.body
        results = evaluate(body.jaxpr, [_Origin()] * len(body.consts), inputs, follow)
        for result in results:
            if isinstance(result, _Origin):
                self.add_other(result, "scan")
        # A leaf that is scanned over and constant at once has no one form.
        for origin in origins[:last]:
            for leaf in origin.leaves & stacked:
                self.other.setdefault(leaf, "scan")
        return [_Origin(from_images=True)] * len(equation.outvars)

    def add_other(self, origin: _Origin, primitive: str) -> None:
        """Notes leaves that are used in a way that has no rule."""
        for leaf in origin.leaves:
            self.other.setdefault(leaf, origin.primitive or primitive)


def _origins(operands: list[Any]) -> list[_Origin]:
    return [x if isinstance(x, _Origin) else _Origin() for x in operands]


def _slice_origin(origin: _Origin) -> _Origin:
    """Returns the origin of one slice along the first axis."""
    view = origin.view
    if view is not None and not view.is_exact:
        view = dataclasses.replace(view, axes=view.axes[1:])
    elif view is not None:
        step = ("scan", view.axes[0])
        view = dataclasses.replace(view, axes=view.axes[1:], history=(*view.history, step))
    return dataclasses.replace(origin, view=view)


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


def _kernel(place: tuple[int, ...], equation: Any, origins: list[_Origin]) -> Kernel | None:
    """Returns the kernel if the equation multiplies activations with an exact view."""
    name, parameters = equation.primitive.name, equation.params
    if name not in KERNELS:
        return None
    activation = 1 if origins[0].leaves else 0
    view = origins[1 - activation].view
    if view is None or not view.is_exact or origins[activation].leaves:
        return None
    if name == "conv_general_dilated" and (activation or parameters["batch_group_count"] != 1):
        return None
    if name == "gather" and not (activation and _takes_rows(equation)):
        return None
    return Kernel(place, equation, view, activation)


def _takes_rows(equation: Any) -> bool:
    """Whether a gather takes whole slices along the first axis, as `table[indices]` does."""
    numbers, shape = equation.params["dimension_numbers"], equation.invars[0].aval.shape
    return (
        numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and not numbers.operand_batching_dims
        and equation.params["slice_sizes"] == (1, *shape[1:])
    )


def _have_one_matrix(uses: Sequence[Kernel]) -> bool:
    if len(uses) == 1:
        return True
    if any(use.kind == "conv" for use in uses):
        return False
    history, batch, contracted, free = uses[0].layout
    allowed = [(history, batch, contracted, free)]
    if not batch:
        allowed.append((history, batch, free, contracted))
    return all(use.layout in allowed for use in uses)
