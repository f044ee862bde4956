"""The memory that the members of a group need, from shapes alone; how many run side by side."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend import core
from jax.sharding import Mesh

from memjax.memory import memory_budget
from memjax.runtime.mesh import MEMBER
from memjax.training.setup import Setup, abstract_state
from memjax.training.state import init_state
from memjax.training.step import Batch, Network, for_inference, make_logits_fn, make_train_step

_SLACK = 1.5  # XLA may compute in an order that holds a third more


def peak_bytes(jaxpr: core.Jaxpr) -> int:
    """Returns what a program needs at once beyond its inputs, if nothing in it is fused.

    Every value is held from where it is computed to where it is used last: activations from the
    forward to the backward pass. XLA fuses and so mostly holds less.

    Args:
      jaxpr: of the program.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> program = jax.make_jaxpr(lambda x: jnp.sum(jnp.exp(jnp.sin(x))))(jnp.zeros(1000))
      >>> peak_bytes(program.jaxpr)  # sin(x) and its exponential
      8000
    """
    last_use: dict[Any, int] = {}
    for place, inputs in enumerate([*(eqn.invars for eqn in jaxpr.eqns), jaxpr.outvars]):
        last_use |= {var: place for var in inputs if isinstance(var, core.Var)}
    live: dict[Any, int] = {}
    peak = 0
    for place, eqn in enumerate(jaxpr.eqns):
        made = {var: _bytes(var) for var in eqn.outvars}
        inside = max((peak_bytes(inner) for inner in _inner_jaxprs(eqn)), default=0)
        peak = max(peak, sum(live.values()) + max(inside, sum(made.values())))
        live |= made
        live = {var: size for var, size in live.items() if last_use.get(var, -1) > place}
    return peak


def _bytes(var: Any) -> int:
    return var.aval.size * var.aval.dtype.itemsize


def _inner_jaxprs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """Yields the programs within an equation: the branches of a cond, the body of a loop."""
    for value in eqn.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr):
                yield part.jaxpr
            elif isinstance(part, core.Jaxpr):
                yield part


def working_bytes(
    network: Network,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, ...],
    batch_size: int,
    evaluation_size: int,
) -> float:
    """Returns what one member needs beside its state while it is trained or evaluated.

    Args:
      network: as trained.
      optimizer: likewise.
      image_shape: (height, width, channels).
      batch_size: examples of a step.
      evaluation_size: examples evaluated at once.

    Returns:
      Bytes: activations, gradients and the new state; rather too much than too little.
    """
    state = jax.eval_shape(lambda: init_state(0, network.model, optimizer, image_shape))
    batch: Any = Batch(
        jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.float32),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct((batch_size,), jnp.int32),  # type: ignore[arg-type]
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = jax.make_jaxpr(make_train_step(network, optimizer))(state, batch, key)
    images = jax.ShapeDtypeStruct((evaluation_size, *image_shape), jnp.float32)
    evaluation = jax.make_jaxpr(make_logits_fn(for_inference(network)))(state.params, images)
    return _SLACK * float(max(peak_bytes(program.jaxpr) for program in (step, evaluation)))


def members_per_chunk(num_params: int, num_members: int, platform: str) -> int:
    """Returns how many of a device's members run side by side; as even chunks as can be.

    A CPU trains wide members one after the other and narrow ones side by side; other devices
    train a quarter of them at once, so that those that have ended are felt.
    benchmarks/sweeps.py measures it. Memory may allow fewer.

    Example:
      >>> members_per_chunk(num_params=1500, num_members=100, platform="cpu")  # 4 even chunks
      25
    """
    chunk = min(num_members, 50_000 // num_params) if platform == "cpu" else -(-num_members // 4)
    return math.ceil(num_members / math.ceil(num_members / max(1, chunk)))


def chunk_size(setup: Setup, num_members: int, mesh: Mesh) -> int:
    """Returns how many members of a group run side by side on a device: what suits it and fits.

    Args:
      setup: of any of its points.
      num_members: of all points.
      mesh: the devices.
    """
    config, device = setup.config, mesh.devices.flat[0]
    per_device = -(-num_members // mesh.shape[MEMBER])
    chunk = config.run.members_per_chunk or members_per_chunk(
        setup.num_params, per_device, device.platform
    )
    chunk = min(chunk, per_device)
    if chunk == 1 or config.run.members_per_chunk:
        return chunk
    rows = min(config.run.evaluation_batch_size, setup.batches.num_examples)
    working = working_bytes(
        setup.network, setup.optimizer, setup.image_shape, setup.batches.padded_size, rows
    )
    state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract_state(setup)))
    sharing = mesh.size if device.platform == "cpu" else 1
    left = (
        memory_budget(device, lasting=True) / sharing
        - 2 * state * per_device
        - setup.examples.images.nbytes
    )
    fits = max(1, int(left / working))
    return chunk if fits >= chunk else math.ceil(per_device / math.ceil(per_device / fits))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether JAX says that a device has not enough memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)
