"""What a sweep costs: parameters and FLOPs from the shapes alone, seconds from a few real steps."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from memjax.config import Config
from memjax.corruption_kinds import parse_kinds
from memjax.data.batching import make_batches
from memjax.data.dataset import Dataset
from memjax.runtime.mesh import make_mesh
from memjax.sweeps.grouping import Group, num_examples
from memjax.training.group import Group as MembersOnDevices
from memjax.training.loop import event_steps
from memjax.training.memory import chunk_size, members_per_chunk, working_bytes
from memjax.training.setup import make_network, make_optimizer_of, member_size, prepare
from memjax.training.state import init_state
from memjax.training.step import Batch, make_train_step

_CALIBRATION_SECONDS = 0.5
# A millisecond of a core: its batch is gathered, noise drawn, small operations started.
_FLOPS_OF_ANY_STEP = 5e7


class Cost(NamedTuple):
    """What one point costs if it trains all its epochs.

    Attributes:
      num_params: trained parameters of one member.
      num_steps: of every member.
      flops: of all steps of all members.
      bytes: that its members occupy as long as they train: states twice, and indices.
      working_bytes: that a member needs beside them while it is computed: activations of a batch,
        trained on or evaluated, gradients and the new state; rather too much than too little.
      work: FLOPs, and what every step costs however small the network; to balance and to foretell.
    """

    num_params: int
    num_steps: int
    flops: float
    bytes: float
    working_bytes: float
    work: float


def estimate(config: Config, dataset: Dataset) -> Cost:
    """Returns the cost of a point, from XLA's count of one step; nothing is computed.

    Args:
      config: checked; any of a group, whose points all cost the same.
      dataset: what its dataset section loads.

    Raises:
      InputError: if the network does not fit the data, or a batch is larger than they are.
    """
    kinds = parse_kinds(config.corruption.kind)
    train = dataset.train
    classes = len(train) if "unique_labels" in kinds else dataset.num_classes
    total = num_examples(config, dataset)
    batches = make_batches(member_size(config, total), config.train.batch_size)
    network, optimizer = make_network(config, classes, 0.0, 1.0), make_optimizer_of(config, batches)
    image_shape = train.images.shape[1:]
    state = jax.eval_shape(lambda: init_state(0, network.model, optimizer, image_shape))
    size = batches.batch_size
    batch: Any = jax.eval_shape(
        lambda: Batch(jnp.zeros((size, *image_shape)), jnp.zeros(size, jnp.int32))
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = jax.jit(make_train_step(network, optimizer)).trace(state, batch, key)
    analysis: Any = step.lower().cost_analysis()
    rows = min(config.run.evaluation_batch_size, total)
    members, num_steps = config.ensemble.size, batches.steps_per_epoch * config.train.num_epochs
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    flops = float(analysis["flops"])
    return Cost(
        num_params=sum(leaf.size for leaf in jax.tree.leaves(state.params["params"])),
        num_steps=num_steps,
        flops=flops * num_steps * members,
        bytes=float((2 * state_bytes + 10 * batches.num_examples) * members),
        working_bytes=working_bytes(network, optimizer, image_shape, size, rows),
        work=(flops + _FLOPS_OF_ANY_STEP) * num_steps * members,
    )


def group_bytes(
    num_points: int,
    cost: Cost,
    config: Config,
    dataset: Dataset,
    num_datasets: int,
    devices: Sequence[jax.Device],
) -> float:
    """Returns what some points of a group need in memory: of a device, or of a CPU's machine.

    Args:
      num_points: that train together.
      cost: of each.
      config: of any of them.
      dataset: that of any of them.
      num_datasets: parts of the source that they have, at most one a point.
      devices: that share the members; those of a CPU share its memory.
    """
    platform, num_members = devices[0].platform, num_points * config.ensemble.size
    num_devices = min(config.run.num_devices or len(devices), num_members)
    per_device = -(-num_members // num_devices)
    chunk = config.run.members_per_chunk or members_per_chunk(cost.num_params, per_device, platform)
    images = dataset.train.images.nbytes + dataset.validation.images.nbytes
    images *= min(num_datasets, num_points)
    resident = per_device * cost.bytes / config.ensemble.size
    of_device = images + resident + min(chunk, per_device) * cost.working_bytes
    return of_device * (num_devices if platform == "cpu" else 1)


def sweep_mesh(config: Config, num_members: int) -> Mesh:
    """Returns this process's devices, each with members of its own."""
    num_devices = min(config.run.num_devices or jax.local_device_count(), num_members)
    return make_mesh(num_devices, num_devices, num_devices, jax.local_devices())


def seconds_per_step(group: Group, config: Config, dataset: Dataset) -> float:
    """Returns the seconds of one step of one member of a group, measured on this machine.

    As many of its members as fill a chunk on every device are trained for a moment, and evaluated;
    an evaluation is shared among the steps from one to the next. Nothing is written.

    Args:
      group: whose program it is.
      config: of one of its points.
      dataset: what its dataset section loads.
    """
    num_members = config.ensemble.size * len(group.points)
    mesh = sweep_mesh(config, num_members)
    setup = prepare(config, dataset, jax.local_devices())
    chunk = chunk_size(setup, num_members, mesh)
    size = min(num_members, chunk * mesh.size)  # a hundred large networks need not all be made
    fewer = dataclasses.replace(config.ensemble, size=size)
    setup = setup._replace(config=dataclasses.replace(config, ensemble=fewer))
    with jax.set_mesh(mesh):
        run = MembersOnDevices([setup], group.traced, mesh, chunk)
        run.start(range(size))
        run.train(0, 1)
        num_steps, seconds = 1, 0.0
        while seconds < _CALIBRATION_SECONDS and num_steps < setup.num_steps:
            num_steps *= 2
            began = time.monotonic()
            run.train(0, num_steps)
            seconds = time.monotonic() - began
        of_evaluation = run.evaluation_seconds()
    times = len(event_steps(setup)[0])
    return (seconds / num_steps + of_evaluation * times / setup.num_steps) / size
