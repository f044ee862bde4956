"""The forward pass of one example, with what the gradients of its kernels need kept."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax.analysis._ghost.kernels import Kernel, ParamUses
from memjax.analysis._jaxprs import apply_equation, evaluate, read_scan, run_scan

Place = tuple[int, ...]


class TracedExample(NamedTuple):
    """The forward pass of one example, ready to be pulled back.

    Attributes:
      logits: [classes].
      pull_back: maps d loss / d logits to two dicts: equation -> d loss / d its output, for the
        equations of kernels, and leaf -> d loss / d leaf, for the leaves without kernels.
      activations: equation -> what the kernel is multiplied with there (a lookup: the indices);
        with a leading axis of steps in a scan, as the outputs.
    """

    logits: jax.Array
    pull_back: Callable[[jax.Array], tuple[dict[Place, jax.Array], dict[int, jax.Array]]]
    activations: dict[Place, jax.Array]


def trace_example(uses: ParamUses, leaves: Sequence[jax.Array], image: jax.Array) -> TracedExample:
    """Runs one image through the model and keeps what its gradients need.

    Args:
      uses: from `find_param_uses`.
      leaves: `jax.tree.leaves(params)`.
      image: [...], without n.

    Returns:
      The logits, their pull-back, and the activations.
    """
    kernels = {kernel.place: kernel for leaf in uses.kernels.values() for kernel in leaf}
    plain = {leaf: leaves[leaf] for leaf in plain_leaves(uses)}
    # Zeros, added to the output of an equation: their cotangent is that of the output.
    zeros = {place: jnp.zeros(*_output(kernel)) for place, kernel in kernels.items()}
    in_scans: dict[int, list[Kernel]] = {}
    for place, kernel in kernels.items():
        if len(place) == 2:
            in_scans.setdefault(place[0], []).append(kernel)

    def forward(shifts: dict, plain: dict) -> tuple[jax.Array, dict]:
        activations: dict[Place, jax.Array] = {}

        def apply(index: int, equation: Any, operands: list[Any]) -> list[Any]:
            if index in in_scans:
                inside = in_scans[index]
                results, found = _run_scan_with_shifts(equation, operands, inside, shifts)
                activations.update(found)
                return results
            results = apply_equation(equation, operands)
            if (index,) in kernels:
                activations[index,] = operands[kernels[index,].activation]
                results = [results[0] + shifts[index,]]
            return results

        inputs = [plain.get(i, leaf) for i, leaf in enumerate(leaves)]
        closed = uses.jaxpr
        (logits,) = evaluate(closed.jaxpr, closed.consts, [*inputs, image[None]], apply)
        return logits[0], activations

    return TracedExample(*jax.vjp(forward, zeros, plain, has_aux=True))


def plain_leaves(uses: ParamUses) -> list[int]:
    """Returns the leaves that are differentiated themselves, in order."""
    return sorted({*uses.elementwise, *uses.shared, *uses.other})


def _output(kernel: Kernel) -> tuple[tuple[int, ...], Any]:
    aval = kernel.equation.outvars[0].aval
    steps = () if kernel.scan_length is None else (kernel.scan_length,)
    return (*steps, *aval.shape), aval.dtype


def _run_scan_with_shifts(
    equation: Any, operands: list[Any], kernels: list[Kernel], shifts: dict[Place, jax.Array]
) -> tuple[list[Any], dict[Place, jax.Array]]:
    """Runs a scan, at each of its steps with that step's shifts; returns the activations too."""
    scan = read_scan(equation)
    at = {kernel.place[1]: i for i, kernel in enumerate(kernels)}

    def body(inputs: list[Any]) -> list[Any]:
        inputs, step_shifts = inputs[: -len(kernels)], inputs[-len(kernels) :]
        activations = list(step_shifts)

        def apply(index: int, inner: Any, operands: list[Any]) -> list[Any]:
            results = apply_equation(inner, operands)
            if index in at:
                activations[at[index]] = operands[kernels[at[index]].activation]
                results = [results[0] + step_shifts[at[index]]]
            return results

        return [*evaluate(scan.body.jaxpr, scan.body.consts, inputs, apply), *activations]

    results = run_scan(scan, [*operands, *(shifts[kernel.place] for kernel in kernels)], body)
    stacked = results[len(results) - len(kernels) :]
    found = {kernel.place: values for kernel, values in zip(kernels, stacked, strict=True)}
    return results[: len(results) - len(kernels)], found
