"""What a sweep costs: parameters and FLOPs from the shapes alone, seconds from a few real steps."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from memjax.config import Config
from memjax.data.batching import make_batches
from memjax.data.dataset import Dataset
from memjax.data.examples import parse_kinds
from memjax.sweeps.grouping import Group, num_examples
from memjax.sweeps.training import GroupRun, PointRun
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
      bytes: that its members need on a device, roughly: states twice, and indices.
      work: FLOPs, and what every step costs however small the network; to balance and to foretell.
    """

    num_params: int
    num_steps: int
    flops: float
    bytes: float
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
    analysis: Any = (
        jax.jit(make_train_step(network, optimizer)).lower(state, batch, key).cost_analysis()
    )
    members, num_steps = config.ensemble.size, batches.steps_per_epoch * config.train.num_epochs
    state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    flops = float(analysis["flops"])
    return Cost(
        num_params=sum(leaf.size for leaf in jax.tree.leaves(state.params["params"])),
        num_steps=num_steps,
        flops=flops * num_steps * members,
        bytes=float((2 * state_bytes + 10 * batches.num_examples) * members),
        work=(flops + _FLOPS_OF_ANY_STEP) * num_steps * members,
    )


def seconds_per_step(group: Group, config: Config, dataset: Dataset, folder: epath.Path) -> float:
    """Returns the seconds of one step of one member of a group, measured on this machine.

    One point of the group is trained for a moment, as many members side by side as the group would
    have; nothing is written.

    Args:
      group: whose program it is.
      config: of one of its points.
      dataset: what its dataset section loads.
      folder: never touched.
    """
    setup = prepare(config, dataset)
    run = GroupRun(group, [PointRun("calibration", folder, setup, 0)])
    with jax.set_mesh(run.mesh):
        run.init_states()
        run.train(0, 1)
        num_steps, seconds = 1, 0.0
        while seconds < _CALIBRATION_SECONDS and num_steps < setup.num_steps:
            num_steps *= 2
            began = time.monotonic()
            run.train(0, num_steps)
            seconds = time.monotonic() - began
    return seconds / num_steps / config.ensemble.size
