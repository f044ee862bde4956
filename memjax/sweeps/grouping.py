"""Which points of a sweep train together, and which task of a job array trains which points.

Points train together if one compiled program serves them all: they differ only in what the program
takes as an argument, member by member.
"""

import collections
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from memjax.config import Config, flatten
from memjax.corruption_kinds import parse_kinds
from memjax.data.sources import Dataset
from memjax.errors import InputError

# Strengths of regularisers: traced where they are on, absent from the program where they are off.
STRENGTHS = (
    "regularizer.dropout",
    "regularizer.input_dropout",
    "regularizer.input_noise",
    "regularizer.hidden_noise",
    "regularizer.weight_decay",
    "regularizer.adversarial_weight",
)
TRACED = ("optimizer.learning_rate", "regularizer.adversarial_radius", *STRENGTHS)
_BY_MEMBER = ("seed", "corruption.kind", "corruption.fraction", "corruption.seed")
_SHUFFLES = {"shuffled_pixels", "shuffled_pixels_each"}


class Group(NamedTuple):
    """Points that one compiled program trains.

    Attributes:
      points: their positions in the sweep, ascending.
      traced: the fields that differ among them, to be traced scalars.
    """

    points: tuple[int, ...]
    traced: tuple[str, ...]

    def name(self, names: Sequence[str]) -> str:
        """Returns 16 hex digits: the same points, the same name."""
        text = json.dumps([names[point] for point in self.points])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def part(self, points: Sequence[int]) -> "Group":
        """Returns a group of some of the points; the program stays the same."""
        return self._replace(points=tuple(points))


def group_points(configs: Sequence[Config], datasets: Sequence[Dataset]) -> list[Group]:
    """Groups the points of a sweep, in the order of their first points.

    Args:
      configs: checked, one a point.
      datasets: what each config's dataset section loads.
    """
    together: dict[str, list[int]] = collections.defaultdict(list)
    for point, (config, dataset) in enumerate(zip(configs, datasets, strict=True)):
        together[_program_key(config, dataset)].append(point)
    return [
        Group(tuple(points), _differing([configs[point] for point in points]))
        for points in together.values()
    ]


def num_examples(config: Config, dataset: Dataset) -> int:
    """Returns how many examples the corruption leaves to train on."""
    total = len(dataset.train)
    removed = "removed" in parse_kinds(config.corruption.kind)
    return total - round(config.corruption.fraction * total) if removed else total


def _program_key(config: Config, dataset: Dataset) -> str:
    flat = flatten(config.as_dict())
    kinds = set(parse_kinds(config.corruption.kind))
    key = {name: value for name, value in flat.items() if name not in (*TRACED, *_BY_MEMBER)}
    key.pop("corruption.transition")
    if not kinds & _SHUFFLES:  # parts of one source lie on the devices one behind the other
        key.pop("dataset.seed")
        key["sizes"] = [len(dataset.train), len(dataset.validation)]
    key |= {f"{name} is on": flat[name] != 0 for name in STRENGTHS}
    key["num_examples"] = num_examples(config, dataset)
    key["num_classes"] = len(dataset.train) if "unique_labels" in kinds else dataset.num_classes
    if kinds & _SHUFFLES:  # these images are made once, on the host
        key["images"] = [
            sorted(kinds & _SHUFFLES),
            flat["corruption.fraction"],
            flat["corruption.seed"],
        ]
    return json.dumps(key, sort_keys=True)


def _differing(configs: Sequence[Config]) -> tuple[str, ...]:
    flat = [flatten(config.as_dict()) for config in configs]
    return tuple(name for name in TRACED if len({values[name] for values in flat}) > 1)


def share(groups: Sequence[Group], costs: Sequence[float], index: int, count: int) -> list[Group]:
    """Returns what one task of a job array trains: disjoint shares, balanced by cost.

    The points, group by group, are laid out on a line by their costs, and the line is cut into
    equal parts: a task's cost is off by one point at most, and few groups are cut.

    Args:
      groups: of the whole sweep.
      costs: estimated, one a point of the sweep.
      index: the task, from 0.
      count: tasks there are.

    Raises:
      InputError: if there are more tasks than points, or no such task.

    Example:
      >>> groups = [Group((0, 2), ()), Group((1,), ())]
      >>> [share(groups, [1.0, 2.0, 1.0], task, 2) for task in range(2)]
      [[Group(points=(0, 2), traced=())], [Group(points=(1,), traced=())]]
    """
    if not 0 <= index < count:
        raise InputError(f"--task_index={index}: must be from 0 to {count - 1}")
    if count > len(costs):
        raise InputError(
            f"--num_tasks={count}: must be at most {len(costs)}, the points of the sweep"
        )
    order = [point for group in groups for point in group.points]
    sizes = np.array([costs[point] for point in order], float)
    middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
    task = dict(zip(order, np.floor(middles * count).astype(int).tolist(), strict=True))
    parts = [group.part([p for p in group.points if task[p] == index]) for group in groups]
    return [part for part in parts if part.points]


def bounded(group: Group, bytes_of: Callable[[int], float], budget: float) -> list[Group]:
    """Cuts a group into as few even parts as fit the memory; at the worst, single points.

    Args:
      group: to cut.
      bytes_of: what a number of its points needs.
      budget: bytes that there are.
    """
    points, size = group.points, 1
    for num_parts in range(1, len(points)):
        size = math.ceil(len(points) / num_parts)
        if bytes_of(size) <= budget:
            break
    else:
        size = 1
    return [group.part(points[i : i + size]) for i in range(0, len(points), size)]
