"""FLOPs: how many a function needs, and how many a device can do in a second."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

# Dense peak per chip, FLOP/s, from the makers' data sheets: bfloat16, and float32 at JAX's default
# precision (TF32 on GPU; on TPU one pass in bfloat16).
PEAKS = {
    "NVIDIA H200": (989.4e12, 494.7e12),
    "NVIDIA H100 80GB HBM3": (989.4e12, 494.7e12),
    "NVIDIA H100 PCIe": (756e12, 378e12),
    "NVIDIA A100": (312e12, 156e12),
    "TPU v4": (275e12, 275e12),
    "TPU v5 lite": (197e12, 197e12),
    "TPU v5e": (197e12, 197e12),
    "TPU v5p": (459e12, 459e12),
    "TPU v6 lite": (918e12, 918e12),
    "TPU v6e": (918e12, 918e12),
}
_LONG_ENOUGH_S = 0.01  # for a product beside the time to start it
_LARGEST_PRODUCT = 8192


def count_flops(fn: Callable[..., Any], *args: Any) -> float:
    """Returns the FLOPs of the matrix products and convolutions of fn(*args); nothing is computed.

    A multiplication and an addition are two. The count is of what the function says, whatever a
    compiler makes of it: a loop's body counts as often as it runs (a `while` of unknown length:
    once), the dearest branch of a conditional counts, and all else counts nothing.

    Args:
      fn: any JAX function.
      *args: pytrees of arrays or jax.ShapeDtypeStructs.

    Example:
      >>> count_flops(lambda x, w: jax.nn.relu(x @ w), jnp.zeros((3, 4)), jnp.zeros((4, 5)))
      120.0
    """
    return _jaxpr_flops(jax.make_jaxpr(fn)(*args).jaxpr)


def _jaxpr_flops(jaxpr: Any) -> float:
    return sum((_equation_flops(equation) for equation in jaxpr.eqns), start=0.0)


def _equation_flops(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        per_output = kernel.size / kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        # Zeros that a stride's gradient puts between the values are multiplied by nothing.
        zeros = math.prod(params["lhs_dilation"])
        return 2.0 * equation.outvars[0].aval.size * per_output / zeros
    inner = [_jaxpr_flops(jaxpr) for jaxpr in _inner_jaxprs(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def known_peak(device_kind: str, dtype: Any) -> float | None:
    """Returns the dense peak of a device in FLOP/s; None if it is not in `PEAKS`.

    Args:
      device_kind: `jax.Device.device_kind`.
      dtype: of the operands, bfloat16 or float32.

    Example:
      >>> known_peak("NVIDIA A100-SXM4-80GB", jnp.bfloat16)
      312000000000000.0
    """
    # The longest name that fits: "NVIDIA H100 PCIe" is another card than "NVIDIA H100 80GB HBM3".
    fitting = [name for name in PEAKS if device_kind == name or device_kind.startswith(f"{name}-")]
    if not fitting:
        return None
    return PEAKS[max(fitting, key=len)][0 if jnp.dtype(dtype) == jnp.bfloat16 else 1]


def measured_peak(devices: list[jax.Device], dtype: Any) -> float:
    """Returns the FLOP/s that square matrix products reach on all these devices together.

    Args:
      devices: of this process; they work at the same time, so that devices which are threads of
        one CPU count what they reach side by side.
      dtype: of the operands.
    """
    product = jax.jit(jnp.matmul)
    for size in itertools.takewhile(
        lambda size: size <= _LARGEST_PRODUCT, (512 * 2**k for k in itertools.count())
    ):
        operands = [jax.device_put(jnp.ones((size, size), dtype), device) for device in devices]
        seconds = min(_seconds(product, operands) for _ in range(4))  # the first compiles
        if seconds > _LONG_ENOUGH_S:
            break
    return 2.0 * size**3 * len(devices) / seconds


def _seconds(product: Callable[..., jax.Array], operands: list[jax.Array]) -> float:
    began = time.perf_counter()
    jax.block_until_ready([product(operand, operand) for operand in operands])
    return time.perf_counter() - began


def peak_flops(mesh: jax.sharding.Mesh, dtype: Any) -> float:
    """Returns the peak of all devices of a mesh in FLOP/s: known, or else measured in a moment.

    Args:
      mesh: the devices; where they belong to several processes, those of this one are measured.
      dtype: of the operands.
    """
    local = list(mesh.local_devices)
    known = known_peak(local[0].device_kind, dtype)
    if known is not None:
        return known * mesh.size
    return measured_peak(local, dtype) * mesh.size / len(local)
