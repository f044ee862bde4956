"""Which parameters belong to which layer of a network, and where its units are, from the jaxpr.

A layer begins where activations meet a kernel (a matrix product or a convolution). Whatever is then
added to its result, or scales it, before the next nonlinearity is of the same layer: biases, and
normalisation with its running statistics. Parameters that meet the activations elsewhere (a
normalisation before the kernel, a table of positions) are layers without units.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from memjax.analysis._jaxprs import (
    apply_equation,
    check_logits_shape,
    evaluate,
    evaluate_inlined,
)

_ELEMENTWISE = frozenset(
    {
        *("add", "sub", "mul", "div", "add_any", "neg", "square", "integer_pow", "rsqrt", "sqrt"),
        *("convert_element_type", "copy", "stop_gradient", "reduce_precision"),
    }
)
_AFFINE = frozenset({"add", "sub", "mul", "div", "add_any"})
_WINDOWS = frozenset({"reduce_window_max", "reduce_window_sum", "reduce_window", "pad", "slice"})
_RESHAPES = frozenset({"reshape", "squeeze", "expand_dims", "broadcast_in_dim"})
_KERNELS = {"dot_general": "dense", "conv_general_dilated": "conv"}


@dataclasses.dataclass
class Found:
    """A layer, as far as the jaxpr has been followed.

    Attributes:
      leaves: of params, in the order in which they meet the activations.
      kind: 'dense', 'conv', or the primitive that its parameters meet the activations in.
      equation: the equation whose result is the layer's, before the nonlinearity.
      axis: of the units in that result, of one image; None where it has none.
      num_units: length of that axis.
      size: of the kernel's result for one image; 0 without a kernel.
      kernel: the equation where activations meet the kernel, and which of its operands they are.
    """

    leaves: list[int]
    kind: str
    equation: int
    axis: int | None
    num_units: int
    size: int = 0
    kernel: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Trace:
    """The forward pass of one image, and its layers in the order in which they run.

    Attributes:
      jaxpr: calls inlined; its inputs are the leaves, then the image.
      layers: as found.
      trouble: why the units of its layers are not known; '' where they are.
    """

    jaxpr: Any
    layers: list[Found]
    trouble: str

    def logits(self, leaves: Sequence[jax.Array], masks: Any, image: jax.Array) -> jax.Array:
        """Returns the logits [classes] of one image [...] with units multiplied by masks.

        Args:
          leaves: of params.
          masks: layer -> [units].
          image: [...].
        """
        of_equation = {self.layers[layer].equation: layer for layer in masks}

        def apply(index: int, equation: Any, operands: list[Any]) -> list[Any]:
            results = apply_equation(equation, operands)
            if index in of_equation:
                layer = of_equation[index]
                shape = [1] * results[0].ndim
                shape[self.layers[layer].axis or 0] = -1
                results[0] = results[0] * masks[layer].reshape(shape).astype(results[0].dtype)
            return results

        inputs = [*leaves, image[None]]
        (logits,) = evaluate(self.jaxpr.jaxpr, self.jaxpr.consts, inputs, apply)
        return logits[0]

    def embeddings(self, leaves: Sequence[jax.Array], image: jax.Array) -> list[jax.Array]:
        """Returns what one image [...] is where each kernel meets it, and its logits, all flat.

        The first is what the first kernel is given: the image, standardised.
        """
        kernels = dict(layer.kernel for layer in self.layers if layer.kernel)
        found = []

        def apply(index: int, equation: Any, operands: list[Any]) -> list[Any]:
            if index in kernels:
                found.append(operands[kernels[index]].ravel())
            return apply_equation(equation, operands)

        inputs = [*leaves, image[None]]
        (logits,) = evaluate(self.jaxpr.jaxpr, self.jaxpr.consts, inputs, apply)
        return [*found, logits[0]]


@dataclasses.dataclass(frozen=True)
class _Origin:
    """What a value comes from: leaves alone, or images through a layer.

    `axis` is that of the layer's units, as long as the value still has them, before a nonlinearity;
    a statistic of the layer has lost it. `layer` is None behind a nonlinearity.
    """

    from_images: bool = False
    leaves: frozenset[int] = frozenset()
    layer: int | None = None
    axis: int | None = None


def trace_layers(logits_fn: Callable, params: Any, images: Any) -> Trace:
    """Follows the leaves of params to where they meet the activations of one image.

    Args:
      logits_fn: `logits_fn(params, images) -> logits [n classes]`.
      params: pytree of arrays.
      images: [n ...]; only the dtype, and the shape without n, matter.
    """
    one_image = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    closed, shape = jax.make_jaxpr(logits_fn, return_shape=True)(params, one_image)
    check_logits_shape(shape, 1)
    inlined = jax.make_jaxpr(lambda *inputs: evaluate_inlined(closed.jaxpr, closed.consts, inputs))(
        *closed.in_avals
    )
    follower = _Follower([], set(), [])
    leaves = [_Origin(leaves=frozenset({leaf})) for leaf in range(len(inlined.in_avals) - 1)]
    evaluate(
        inlined.jaxpr,
        [_Origin()] * len(inlined.consts),
        [*leaves, _Origin(from_images=True)],
        follower.follow,
    )
    return Trace(inlined, follower.layers, next(iter(follower.troubles), ""))


@dataclasses.dataclass
class _Follower:
    layers: list[Found]
    assigned: set[int]
    troubles: list[str]

    def follow(self, index: int, equation: Any, operands: list[Any]) -> list[_Origin]:
        origins = [x if isinstance(x, _Origin) else _Origin() for x in operands]
        shape = equation.outvars[0].aval.shape
        active = [i for i, origin in enumerate(origins) if origin.from_images]
        leaves = frozenset().union(*(o.leaves for o in origins if not o.from_images))
        if not active:
            return [_Origin(leaves=leaves)] * len(equation.outvars)
        name = equation.primitive.name
        if name in _KERNELS and len(active) == 1 and leaves:
            result = self._begin(index, equation, active[0], leaves)
        elif name == "dot_general" and len(active) == 2:
            self.troubles.append("it multiplies activations with activations (attention)")
            result = _Origin(from_images=True)
        else:
            result = self._go_on(index, equation, [(i, origins[i]) for i in active], leaves, shape)
        return [result] * len(equation.outvars)

    def _begin(self, index: int, equation: Any, active: int, leaves: frozenset[int]) -> _Origin:
        kind = _KERNELS[equation.primitive.name]
        axis, shape = _unit_axis(equation, active), equation.outvars[0].aval.shape
        if leaves & self.assigned:
            self.troubles.append("it uses a kernel twice")
        if axis is None:
            self.troubles.append(f"a {kind} layer has no single axis of units")
        units = 0 if axis is None else shape[axis]
        found = Found(
            self._new(leaves), kind, index, axis, units, math.prod(shape), (index, active)
        )
        self.layers.append(found)
        return _Origin(from_images=True, layer=len(self.layers) - 1, axis=axis)

    def _go_on(
        self,
        index: int,
        equation: Any,
        active: list[tuple[int, _Origin]],
        leaves: frozenset[int],
        shape: tuple[int, ...],
    ) -> _Origin:
        name = equation.primitive.name
        known = {origin.layer for _, origin in active}
        layer = known.pop() if len(known) == 1 else None
        if leaves - self.assigned:
            if layer is None:
                if name not in _AFFINE:
                    self.troubles.append(f"parameters meet the activations in {name!r}")
                self.layers.append(Found(self._new(leaves), name, index, None, 0))
                return _Origin(from_images=True, layer=len(self.layers) - 1)
            else:
                self.layers[layer].leaves += self._new(leaves)
        if layer is None:
            return _Origin(from_images=True)
        place, direct = next(((i, o) for i, o in active if o.axis is not None), active[0])
        before = equation.invars[place].aval.shape
        axis = _next_axis(equation, direct.axis, before, shape)
        is_statistic = math.prod(shape) < math.prod(before) or direct.axis is None
        if axis is None and not is_statistic and name not in _RESHAPES | {"transpose"}:
            return _Origin(from_images=True)  # a nonlinearity
        meets = leaves or any(origin.axis is None for _, origin in active)
        found = self.layers[layer]
        if name in _AFFINE and meets and axis is not None:
            found.equation, found.axis = index, axis
        elif leaves and direct.axis is None and math.prod(shape) >= found.size > 0:
            self.troubles.append(f"the units of a {found.kind} layer cannot be told apart")
        return _Origin(from_images=True, layer=layer, axis=axis)

    def _new(self, leaves: frozenset[int]) -> list[int]:
        new = sorted(leaves - self.assigned)
        self.assigned.update(new)
        return new


def _unit_axis(equation: Any, active: int) -> int | None:
    """Returns the axis of a kernel's outputs in its result; None where there is not one alone."""
    parameters = equation.params
    if equation.primitive.name == "conv_general_dilated":
        return parameters["dimension_numbers"].out_spec[1] if active == 0 else None
    contracting, batch = parameters["dimension_numbers"]
    ranks = [len(each.aval.shape) for each in equation.invars]
    free = [[a for a in range(ranks[s]) if a not in {*contracting[s], *batch[s]}] for s in (0, 1)]
    if len(free[1 - active]) != 1 or batch[0]:
        return None
    return len(free[0]) if active == 0 else 0


def _next_axis(
    equation: Any, axis: int | None, before: tuple[int, ...], after: tuple[int, ...]
) -> int | None:
    """Returns where the axis of the units is after an equation; None where it is no more."""
    name = equation.primitive.name
    if axis is None:
        return None
    if name in _ELEMENTWISE and before == after:
        return axis
    if name == "transpose":
        return equation.params["permutation"].index(axis)
    if name in _WINDOWS and len(before) == len(after) and before[axis] == after[axis]:
        return axis
    if name in _RESHAPES and math.prod(before) == math.prod(after):
        size, ahead = before[axis], math.prod(before[:axis])
        for place, length in enumerate(after):
            if length == size and math.prod(after[:place]) == ahead:
                return place
    return None


def leaf_names(params: Any) -> list[str]:
    """Returns the paths of the leaves, such as 'params/Dense_0/kernel'."""
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]


def unit_layers(trace: Trace) -> list[int]:
    """Returns the hidden layers that have units: all with a kernel, but for the last."""
    with_kernel = [i for i, layer in enumerate(trace.layers) if layer.kind in _KERNELS.values()]
    return [i for i in with_kernel[:-1] if trace.layers[i].axis is not None]


def full_masks(trace: Trace) -> dict[int, jax.Array]:
    """Returns masks of ones, layer -> float32 [units]."""
    return {layer: jnp.ones(trace.layers[layer].num_units) for layer in unit_layers(trace)}
