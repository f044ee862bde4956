"""Kernels: the equations in which a parameter meets an example, and how it got there."""

import dataclasses
from typing import Any

from jax.extend import core

KERNELS = {"dot_general": "dense", "conv_general_dilated": "conv", "gather": "lookup"}


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
      place: the equation's place in the jaxpr; for one in the body of a scan that of the scan, then
        that in the body.
      equation: a `dot_general`, a `conv_general_dilated`, or a `gather` of rows (a lookup).
      view: the leaf; in the body of a scan over it, one of its slices.
      activation: which of the equation's two operands holds the activations (or indices).
      scan_length: how often the body runs; None outside of scans.
      is_stacked: whether the leaf is scanned over, so that each step has its own slice.
    """

    place: tuple[int, ...]
    equation: Any
    view: View
    activation: int
    scan_length: int | None = None
    is_stacked: bool = False

    @property
    def kind(self) -> str:
        """'dense', 'conv' or 'lookup'."""
        return KERNELS[self.equation.primitive.name]

    @property
    def layout(self) -> tuple[tuple, tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Of a matrix: the view's history, and its batch, contracted and free axes."""
        all_axes = tuple(range(len(self.view.axes)))
        if self.kind == "lookup":
            named = ((), all_axes[:1], all_axes[1:])
        else:
            contracting, batch = self.equation.params["dimension_numbers"]
            side = 1 - self.activation
            taken = {*contracting[side], *batch[side]}
            free = tuple(axis for axis in all_axes if axis not in taken)
            named = (batch[side], contracting[side], free)
        axes = [tuple(self.view.axes[axis] for axis in group) for group in named]
        return self.view.history, axes[0], axes[1], axes[2]


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
