"""The flat jaxpr of a network for one image: calls inlined, loops unrolled, few primitives left."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn, Literal

from memjax.analysis._jaxprs import CALLS, Scan, apply_equation, call_body, evaluate, read_scan
from memjax.analysis.inputs import LogitsFn

# fmt: off
# A custom derivative says nothing of the values, which its body computes.
_CALLS = CALLS | {"custom_jvp_call", "custom_vjp_call"}
_IDENTITIES = frozenset([
    "stop_gradient", "optimization_barrier", "sharding_constraint", "name", "pvary", "pcast",
    "layout_constraint",
])
# Linear, and they only move values about.
STRUCTURAL = frozenset([
    "reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "rev",
    "concatenate", "pad", "copy", "copy_p", "tile", "stack",
])
_LINEAR = STRUCTURAL | frozenset([
    "neg", "add", "sub", "add_any", "reduce_sum", "reduce_window_sum", "cumsum",
])
# fmt: on
_LINEAR_IN_FIRST = frozenset(["div", "gather", "dynamic_slice", "conv_general_dilated"])
_LINEAR_IN_ONE = frozenset(["mul", "dot_general"])
# Linear in operand and updates, where the indices are constant: which arguments may depend.
_LINEAR_BUT_INDICES = {"dynamic_update_slice": 2, "scatter": 1, "scatter-add": 1}
# A longer loop would take minutes to compile.
_MOST_UNROLLED_EQUATIONS = 20_000


class _Value(NamedTuple):
    """An array of the trace, and whether it depends on the image."""

    array: Any
    depends: bool


def read(environment: dict, atom: Any) -> Any:
    """Returns the value of a variable or literal."""
    return atom.val if isinstance(atom, Literal) else environment[atom]


def is_float(atom: Any) -> bool:
    """Returns whether a variable or literal is of a real floating point dtype."""
    return bool(jnp.issubdtype(atom.aval.dtype, jnp.floating))


def is_narrow(atom: Any) -> bool:
    """Returns whether a variable or literal is a float of less than 32 bits."""
    return is_float(atom) and atom.aval.dtype.itemsize < 4


def _inline(jaxpr: Any, constants: Sequence, arguments: Sequence) -> list[_Value]:
    """Evaluates a jaxpr, with every call, loop and branch on an image replaced by its body."""

    def apply(_: int, equation: JaxprEqn, operands: list) -> list[_Value]:
        return _inline_equation(equation, list(map(_as_value, operands)))

    return list(map(_as_value, evaluate(jaxpr, constants, arguments, apply)))


def _as_value(operand: Any) -> _Value:
    """Literals and constants do not depend on the image."""
    return operand if isinstance(operand, _Value) else _Value(operand, False)


def _inline_equation(equation: JaxprEqn, values: list[_Value]) -> list[_Value]:
    name = equation.primitive.name
    depends = any(value.depends for value in values)
    if name in _CALLS:
        return _inline(*call_body(equation), values)
    if name in _IDENTITIES:
        return values
    if depends and name == "scan":
        scan = read_scan(equation)
        if scan.length * len(scan.body.jaxpr.eqns) <= _MOST_UNROLLED_EQUATIONS:
            return _unroll(scan, values)
    if depends and name == "cond":
        return _both_branches(equation.params["branches"], values)
    arrays = [value.array for value in values]
    if depends and name == "split":
        return [_Value(part, True) for part in _slices(arrays[0], **equation.params)]
    return [_Value(out, depends) for out in apply_equation(equation, arrays)]


def _slices(array: Any, sizes: Sequence[int], axis: int) -> list:
    ends = list(itertools.accumulate(map(int, sizes)))
    return [
        lax.slice_in_dim(array, end - int(size), end, axis=axis)
        for size, end in zip(sizes, ends, strict=True)
    ]


def _unroll(scan: Scan, values: list[_Value]) -> list[_Value]:
    """A scan as its steps, one after the other."""
    body, num_carry = scan.body, scan.num_carry
    constants, rest = values[: scan.num_consts], values[scan.num_consts :]
    carry, sequences = rest[:num_carry], rest[num_carry:]
    steps = range(scan.length - 1, -1, -1) if scan.reverse else range(scan.length)
    outputs: dict[int, list[_Value]] = {}
    for step in steps:
        elements = [
            _Value(lax.index_in_dim(jnp.asarray(array), step, keepdims=False), depends)
            for array, depends in sequences
        ]
        out = _inline(body.jaxpr, body.consts, [*constants, *carry, *elements])
        carry, outputs[step] = out[:num_carry], out[num_carry:]
    stacked = []
    for k, variable in enumerate(body.jaxpr.outvars[num_carry:]):
        parts = [outputs[step][k] for step in range(scan.length)]
        aval: Any = variable.aval
        if not parts:
            stacked.append(_Value(jnp.zeros((0, *aval.shape), aval.dtype), False))
            continue
        array = lax.concatenate([lax.expand_dims(part.array, (0,)) for part in parts], 0)
        stacked.append(_Value(array, any(part.depends for part in parts)))
    return [*carry, *stacked]


def _both_branches(branches: Sequence, values: list[_Value]) -> list[_Value]:
    """A branch as the selection among the results of all of them."""
    which, *operands = values
    results = [_inline(branch.jaxpr, branch.consts, operands) for branch in branches]
    index = lax.clamp(0, which.array, len(branches) - 1)
    selected = []
    for cases in zip(*results, strict=True):
        arrays = [jnp.asarray(case.array) for case in cases]
        chosen = arrays[0]
        for k, array in enumerate(arrays[1:], start=1):
            chosen = lax.select_n(index >= k, chosen, array)
        selected.append(_Value(chosen, which.depends or any(case.depends for case in cases)))
    return selected


def _shape(atom: Any) -> tuple[int, ...]:
    return atom.aval.shape


def _restores_axes(total: JaxprEqn, moves: Sequence[JaxprEqn]) -> bool:
    """Whether moves put every axis that a sum left back to where it was among what is summed up."""
    shape = _shape(total.invars[0])
    kept = [axis for axis in range(len(shape)) if axis not in total.params["axes"]]
    # Of every axis of an array, which one of the numerator it is. One of length 1 is anywhere.
    places = [axis if shape[axis] > 1 else None for axis in kept]
    for move in moves:
        before, after = _shape(move.invars[0]), _shape(move.outvars[0])
        moved: list[int | None] = [None] * len(after)
        if move.primitive.name == "broadcast_in_dim":
            targets = move.params["broadcast_dimensions"]
        else:
            long_before, long_after = (
                [axis for axis, size in enumerate(sizes) if size > 1] for sizes in (before, after)
            )
            if [before[axis] for axis in long_before] != [after[axis] for axis in long_after]:
                return False
            places = [places[axis] for axis in long_before]
            targets = long_after
        for place, target in zip(places, targets, strict=True):
            moved[target] = place
        places = moved
    return len(places) == len(shape) and all(
        places[axis] == axis for axis in kept if shape[axis] > 1
    )


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

        def run(*arrays):
            values = [*(_Value(array, False) for array in arrays[:-1]), _Value(arrays[-1], True)]
            return [value.array for value in _inline(closed.jaxpr, closed.consts, values)]

        flat = jax.make_jaxpr(run)(*leaves, image)
        self.image, self.output = flat.jaxpr.invars[-1], flat.jaxpr.outvars[0]
        variables = [*flat.jaxpr.constvars, *flat.jaxpr.invars[:-1]]
        self._constants = dict(zip(variables, [*flat.consts, *leaves], strict=True))
        self._exact_equations: list[JaxprEqn] = []
        self.equations: list[JaxprEqn] = []
        self._dependent = {self.image}
        self._sources: dict = {}
        for equation in flat.jaxpr.eqns:
            if any(self.depends(atom) for atom in equation.invars):
                self._dependent.update(equation.outvars)
                self._sources.update(dict.fromkeys(equation.outvars, equation))
                self.equations.append(equation)
            else:
                self._exact_equations.append(equation)
        used = {self.output} if not isinstance(self.output, Literal) else set()
        for equation in reversed(self.equations):
            if not used.isdisjoint(equation.outvars):
                used.update(atom for atom in equation.invars if self.depends(atom))
        # What the logits do not need shall not cost them their bounds.
        self.equations = [e for e in self.equations if not used.isdisjoint(e.outvars)]

    def depends(self, atom: Any) -> bool:
        """Whether a variable depends on the image."""
        return not isinstance(atom, Literal) and atom in self._dependent

    def run_exact(self) -> dict:
        """Returns the value of every variable that does not depend on the image."""
        environment = dict(self._constants)
        for equation in self._exact_equations:
            values = [read(environment, atom) for atom in equation.invars]
            with jax.default_matmul_precision("highest"):
                out = apply_equation(equation, values)
            environment.update(zip(equation.outvars, out, strict=True))
        return environment

    def is_affine(self, equation: JaxprEqn) -> bool:
        """Whether an equation is affine, jointly, in its arguments that depend on the image.

        Up to rounding: a conversion to a narrower float is affine.
        """
        name, arguments = equation.primitive.name, equation.invars
        depends = [self.depends(atom) for atom in arguments]
        dependent = [atom for atom in arguments if self.depends(atom)]
        if not all(map(is_float, [*dependent, *equation.outvars])):
            return False
        if name in ("convert_element_type", "reduce_precision"):
            return True
        if name == "select_n":
            return not depends[0]
        if name in _LINEAR_BUT_INDICES:
            first_index = _LINEAR_BUT_INDICES[name]
            indices = depends[first_index:] if name == "dynamic_update_slice" else depends[1:2]
            return not any(indices)
        return (
            name in _LINEAR
            or (name in _LINEAR_IN_FIRST and not any(depends[1:]))
            or (name in _LINEAR_IN_ONE and sum(depends) == 1)
        )

    def is_affine_in_image(self, variable: Any) -> bool:
        """Whether only affine equations lie between the image and a variable."""
        return not self._is_between_image_and(variable, lambda other: not self.is_affine(other))

    def is_narrowed(self, variable: Any) -> bool:
        """Whether a float of less than 32 bits lies between the image and a variable."""

        def is_narrowing(equation: JaxprEqn) -> bool:
            name, atoms = equation.primitive.name, [*equation.invars, *equation.outvars]
            return name == "reduce_precision" or any(map(is_narrow, atoms))

        return self._is_between_image_and(variable, is_narrowing)

    def _is_between_image_and(self, variable: Any, is_wanted: Callable[[JaxprEqn], bool]) -> bool:
        wanted = {variable}
        for equation in reversed(self.equations):
            if not wanted.isdisjoint(equation.outvars):
                if is_wanted(equation):
                    return True
                wanted.update(atom for atom in equation.invars if self.depends(atom))
        return False

    def rectified(self, equation: JaxprEqn) -> Any:
        """Returns x of an equation max(x, constant), as of a ReLU; None of any other equation."""
        if equation.primitive.name != "max" or not is_float(equation.outvars[0]):
            return None
        dependent = [atom for atom in equation.invars if self.depends(atom)]
        return dependent[0] if len(dependent) == 1 else None

    def share(self, equation: JaxprEqn) -> JaxprEqn | None:
        """Returns the sum of an equation that divides x by the sum of x, as a softmax does."""
        if equation.primitive.name != "div" or not all(map(self.depends, equation.invars)):
            return None
        numerator, source = equation.invars[0], self._sources.get(equation.invars[1])
        moves: list[JaxprEqn] = []
        while source is not None and source.primitive.name in ("broadcast_in_dim", "reshape"):
            moves.insert(0, source)
            source = self._sources.get(source.invars[0])
        if source is None or source.primitive.name != "reduce_sum":
            return None
        is_own = source.invars[0] is numerator and _restores_axes(source, moves)
        return source if is_own else None

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
