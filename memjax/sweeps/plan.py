"""A sweep looked through before anything is trained: groups that fit the memory, and costs."""

import functools
import os
from typing import NamedTuple

import jax

from memjax.config import Config
from memjax.data.sources import Dataset, load_dataset
from memjax.errors import InputError
from memjax.memory import memory_budget
from memjax.sweeps.cost import Cost, estimate, group_bytes
from memjax.sweeps.grouping import Group, bounded, group_points, num_examples, share
from memjax.sweeps.points import Point, Sweep
from memjax.sweeps.table import taken_names
from memjax.training import dynamics
from memjax.training.setup import member_size

_MAX_CPU_DEVICES = 16  # each has a copy of the images


class Plan(NamedTuple):
    """A sweep that was looked through, before anything is trained.

    Attributes:
      points: all of the sweep.
      configs: theirs.
      datasets: theirs, as loaded; equal sections share one.
      costs: theirs.
      groups: those of this task, each fit for the memory.
      dynamics_bytes: about what the dynamics of all points take.
    """

    points: tuple[Point, ...]
    configs: tuple[Config, ...]
    datasets: tuple[Dataset, ...]
    costs: tuple[Cost, ...]
    groups: tuple[Group, ...]
    dynamics_bytes: int


def use_every_core() -> None:
    """Makes the CPU as many devices as it has cores, so that members train on all of them.

    A step of a small network is too short to be split over cores; its members need no splitting.
    To be called before anything else of JAX. What the user set stays (`JAX_NUM_CPU_DEVICES`, or
    XLA's flag), and other platforms do not care.
    """
    is_set = jax.config.jax_num_cpu_devices != -1  # type: ignore[attr-defined]
    if not is_set and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", min(_num_cores(), _MAX_CPU_DEVICES))


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # what Slurm or taskset left to this process
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_plan(sweep: Sweep, task_index: int = 0, num_tasks: int = 1) -> Plan:
    """Loads the data, groups the points and estimates what they cost.

    Args:
      sweep: read and checked.
      task_index: which share of the sweep this process trains, from 0.
      num_tasks: how many shares there are.

    Raises:
      InputError: if a point cannot be trained as it stands, or there are more tasks than points.
    """
    taken = taken_names(sweep.points[0].factors)
    if taken:
        raise InputError(f"factor {taken[0]!r}: is a column of the table; choose another name")
    if not 1 <= num_tasks <= len(sweep.points):
        raise InputError(
            f"--num_tasks={num_tasks}: must be from 1 to {len(sweep.points)}, the points of the "
            "sweep"
        )
    loaded = {section: load_dataset(section) for section in {c.dataset for c in sweep.configs}}
    datasets = tuple(loaded[config.dataset] for config in sweep.configs)
    groups = group_points(sweep.configs, datasets)
    costs: dict[int, Cost] = {}
    for group in groups:
        first = group.points[0]
        try:
            cost = estimate(sweep.configs[first], datasets[first])
        except InputError as error:
            raise InputError(f"point {sweep.points[first].name!r}: {error}") from None
        costs |= dict.fromkeys(group.points, cost)
    ordered = tuple(costs[point] for point in range(len(sweep.points)))
    shares = share(groups, [cost.work for cost in ordered], task_index, num_tasks)
    devices = jax.local_devices()
    budget = memory_budget(devices[0], lasting=True)
    parts: list[Group] = []
    for group in shares:
        first = group.points[0]
        bytes_of = functools.partial(
            group_bytes,
            cost=ordered[first],
            config=sweep.configs[first],
            dataset=datasets[first],
            num_datasets=len({id(datasets[point]) for point in group.points}),
            devices=devices,
        )
        parts += bounded(group, bytes_of, budget)
    num_bytes = sum(map(_dynamics_bytes, sweep.configs, datasets))
    return Plan(sweep.points, sweep.configs, datasets, ordered, tuple(parts), num_bytes)


def _dynamics_bytes(config: Config, dataset: Dataset) -> int:
    size = member_size(config, num_examples(config, dataset))
    return dynamics.estimate_bytes(config, size, len(dataset.validation))
