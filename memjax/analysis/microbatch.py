"""Per-example functions over many examples: in microbatches, and over several devices."""

import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from memjax import memory
from memjax.errors import InputError


def over_microbatches(
    fn: Callable[..., Any], *arrays: jax.Array, microbatch_size: int | None = None
) -> Any:
    """Returns `fn(*arrays)`, computed for `microbatch_size` examples at a time.

    The microbatches are made equal in size (the last is filled up with copies of the last example),
    so that one program serves all of them, and run one after another: memory is that of one.

    Args:
      fn: takes arrays [m ...] and returns a pytree of arrays [m ...]; example i of the result may
        depend on example i of the arrays only.
      *arrays: each [n ...].
      microbatch_size: the most examples `fn` is given at once; None for all of them.

    Returns:
      A pytree of arrays [n ...]. The microbatch size changes nothing but rounding.

    Raises:
      InputError: the arrays differ in length or are empty, or microbatch_size is below 1.

    Example:
      >>> over_microbatches(lambda x: x**2, jnp.arange(5), microbatch_size=2)
      Array([ 0,  1,  4,  9, 16], dtype=int32)
    """
    num_examples = check_lengths(*arrays)
    microbatch_size = check_microbatch_size(microbatch_size)
    if microbatch_size is None or microbatch_size >= num_examples:
        return fn(*arrays)
    num_microbatches, size = microbatch_shape(num_examples, microbatch_size)
    microbatches = [
        pad_examples(array, num_microbatches * size).reshape(
            num_microbatches, size, *array.shape[1:]
        )
        for array in arrays
    ]
    results = jax.lax.map(lambda microbatch: fn(*microbatch), microbatches)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num_examples], results)


def over_devices(fn: Callable[..., Any], mesh: Mesh, axis: str = "data") -> Callable[..., Any]:
    """Returns a compiled `fn` that shares out the examples over the devices of a mesh.

    Every device runs `fn` on its own examples, without communication. (Giving a sharded batch to
    a jitted `vmap(grad)` instead is silently wrong for convolution kernels.)

    Args:
      fn: `fn(params, *arrays)` with arrays [n ...], returning a pytree of arrays [n ...]; example
        i of the result may depend on `params` and example i of the arrays only.
      mesh: the devices.
      axis: the axis of `mesh` that the examples are shared out over.

    Returns:
      A function of (params, *arrays). The examples are filled up to a multiple of the number of
      devices, and the result has the n that were given. Keep this function: each call of
      `over_devices` compiles anew.

    Raises:
      InputError: `mesh` has no such axis; when called, arrays that differ in length or are empty.

    Example:
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> scaled = over_devices(lambda params, images: params * images, mesh)
      >>> scaled(jnp.float32(2.0), jnp.ones(3))
      Array([2., 2., 2.], dtype=float32)
    """
    if axis not in mesh.shape:
        raise InputError(f"axis: {axis!r} is not an axis of the mesh; it has {mesh.axis_names}")

    automatic = Mesh(mesh.devices, mesh.axis_names)  # an Explicit axis would refuse the padding

    @jax.jit
    def on_all_devices(params: Any, *arrays: jax.Array) -> Any:
        num_examples = check_lengths(*arrays)
        devices = mesh.shape[axis]
        padded = [
            pad_examples(array, math.ceil(num_examples / devices) * devices) for array in arrays
        ]
        examples = PartitionSpec(axis)
        in_specs = (PartitionSpec(), *(examples for _ in arrays))
        # Under check_vma, gradients of the replicated params would be summed over the devices
        # (unless cast to varying), and a model's own scan could not start from a constant carry.
        sharded = jax.shard_map(
            fn, mesh=automatic, in_specs=in_specs, out_specs=examples, check_vma=False
        )
        return jax.tree.map(lambda x: x[:num_examples], sharded(params, *padded))

    return on_all_devices


def check_lengths(*arrays: jax.Array) -> int:
    """Returns n of arrays [n ...]; raises InputError where they differ or n is 0."""
    lengths = [array.shape[0] if array.ndim else None for array in arrays]
    if len(set(lengths)) != 1 or not lengths[0]:
        raise InputError(
            "arrays of examples: their lengths must be equal and at least 1, not "
            + ", ".join(map(str, lengths))
        )
    return lengths[0]


def examples_at_once(elements_per_example: int, microbatch_size: int | None = None) -> int:
    """Returns the microbatch size, or where it is None, as many examples as fit.

    Args:
      elements_per_example: numbers of 4 bytes kept for each.
      microbatch_size: as the user gave it.
    """
    if microbatch_size is None:
        return max(1, memory.working_bytes() // (4 * max(1, elements_per_example)))
    return microbatch_size


def examples_and_functions(
    elements: int, num_functions: int, microbatch_size: int | None = None
) -> tuple[int, int]:
    """Returns how many examples, and how many functions of each, are differentiated at once.

    Args:
      elements: numbers of 4 bytes kept for one example and one function.
      num_functions: of each example: its classes, or whatever is pulled back.
      microbatch_size: as the user gave it; None for as many as fit.

    Returns:
      The microbatch size, and the functions at once: all of them where they fit for one example.
    """
    fits = max(1, memory.working_bytes() // (4 * max(1, elements)))
    functions = min(num_functions, max(1, fits // (microbatch_size or 1)))
    return microbatch_size or max(1, fits // functions), functions


def check_size(name: str, value: Any, at_least: int = 1) -> int:
    """Returns an integer of any library as an int; raises InputError for less and for others."""
    try:
        size = operator.index(value)
    except TypeError:
        size = at_least - 1
    if isinstance(value, bool | np.bool_) or size < at_least:
        raise InputError(f"{name}: {value!r} is not an integer of at least {at_least}")
    return size


def check_microbatch_size(value: Any) -> int | None:
    """Returns the size; None stays None."""
    return None if value is None else check_size("microbatch_size", value)


def check_on_one_device(*arrays: jax.Array) -> None:
    """Raises InputError for a concrete array whose examples lie on several devices."""
    for array in arrays:
        if isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer):
            sharding = array.sharding
            if len(sharding.device_set) > 1 and not sharding.is_fully_replicated:
                raise InputError(
                    f"images and labels: sharded over {len(sharding.device_set)} devices, where "
                    "per-example gradients can be wrong; give each device its own examples by "
                    "memjax.analysis.microbatch.over_devices"
                )


def microbatch_shape(num_examples: int, microbatch_size: int) -> tuple[int, int]:
    """Returns how many microbatches there are, and their one size: equal ones pad the least."""
    num_microbatches = math.ceil(num_examples / microbatch_size)
    return num_microbatches, math.ceil(num_examples / num_microbatches)


def pad_examples(array: jax.Array, length: int) -> jax.Array:
    """Returns an array [n ...] filled up to `length` with copies of the last example."""
    missing = length - array.shape[0]
    if not missing:
        return array
    return jnp.concatenate([array, jnp.repeat(array[-1:], missing, axis=0)])
