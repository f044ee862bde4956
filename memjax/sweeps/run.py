"""A sweep from start to end: plan, skip what is done, train group by group, one table."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from memjax.config import Config, comparable
from memjax.data.sources import Dataset, load_dataset
from memjax.errors import InputError, InUse
from memjax.keys import DRAWS_VERSION
from memjax.models.source import code_fingerprints
from memjax.runtime.preemption import StopRequest, stop_request
from memjax.runtime.workdir import (
    claim,
    difference,
    has_config,
    is_being_cleared,
    read_json,
    write_json,
)
from memjax.sweeps.cost import Cost, estimate, group_bytes
from memjax.sweeps.grouping import Group, bounded, group_points, memory_budget, share
from memjax.sweeps.points import Point, Sweep
from memjax.sweeps.progress import SweepProgress
from memjax.sweeps.table import assemble, failure_of, state_of, taken_names
from memjax.sweeps.training import PointRun, train_group
from memjax.training.setup import prepare, source_fingerprint

_MAX_CPU_DEVICES = 16  # each has a copy of the images


class Plan(NamedTuple):
    """A sweep that was looked through, before anything is trained.

    Attributes:
      points: all of the sweep.
      configs: theirs.
      datasets: theirs, as loaded; equal sections share one.
      costs: theirs.
      groups: those of this task, each fit for the memory.
    """

    points: tuple[Point, ...]
    configs: tuple[Config, ...]
    datasets: tuple[Dataset, ...]
    costs: tuple[Cost, ...]
    groups: tuple[Group, ...]


class Outcome(NamedTuple):
    """How the points of a task ended.

    Attributes:
      failures: why, by the point's name.
      elsewhere: points that another process is at work on.
    """

    failures: dict[str, str]
    elsewhere: list[str]


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
    budget = memory_budget(devices[0])
    parts: list[Group] = []
    for group in shares:
        first = group.points[0]
        bytes_of = functools.partial(
            group_bytes,
            cost=ordered[first],
            config=sweep.configs[first],
            dataset=datasets[first],
            devices=devices,
        )
        parts += bounded(group, bytes_of, budget)
    return Plan(sweep.points, sweep.configs, datasets, ordered, tuple(parts))


def check_workdir(workdir: epath.Path, plan: Plan) -> None:
    """Raises InputError if a point's folder holds a run of another config."""
    for point, config, dataset in zip(plan.points, plan.configs, plan.datasets, strict=True):
        folder = workdir / "points" / point.name
        if is_being_cleared(folder) or not has_config(folder):
            continue
        there = comparable(read_json(folder / "config.json").get("science", {}))
        there.pop("data.fingerprint", None)  # that of the corrupted examples
        known = code_fingerprints(config.model.name) | {"draws.version": DRAWS_VERSION}
        known |= source_fingerprint(config.dataset, dataset)
        found = difference(there, config.science() | known)
        if found:
            raise InputError(
                f"--workdir={workdir}: point {point.name!r} there is of another config ({found}); "
                "choose another --workdir, or delete that point's folder"
            )


def run_sweep(
    plan: Plan, workdir: epath.PathLike, retry_failed: bool = False, show_progress: bool = True
) -> Outcome:
    """Trains every point of the plan that is not done, and assembles the table.

    Args:
      plan: from `make_plan`.
      workdir: of the sweep: points/NAME are run folders, results.parquet is the table.
      retry_failed: trains failed points anew, rather than listing them again.
      show_progress: whether to say how far the sweep is.

    Returns:
      How the points ended.

    Raises:
      InputError: if a folder there is of another config; nothing is written then.
      Interrupted: at a signal, after saving; the same call goes on from there.
    """
    folder = epath.Path(workdir)
    check_workdir(folder, plan)
    own = [point for group in plan.groups for point in group.points]
    elsewhere: list[str] = []
    progress = SweepProgress({plan.points[p].name: plan.costs[p].work for p in own}, show_progress)
    try:
        with stop_request() as stop:
            for group in plan.groups:
                busy = _run_group(plan, group, folder, retry_failed, stop, progress)
                elsewhere += busy
                assemble(folder, plan.points, plan.configs)
    finally:
        progress.close()
    reasons = {plan.points[p].name: failure_of(_folder(folder, plan, p)) for p in own}
    return Outcome({name: reason for name, reason in reasons.items() if reason}, elsewhere)


def _folder(workdir: epath.Path, plan: Plan, point: int) -> epath.Path:
    return workdir / "points" / plan.points[point].name


def _run_group(
    plan: Plan,
    group: Group,
    workdir: epath.Path,
    retry_failed: bool,
    stop: StopRequest,
    progress: SweepProgress,
) -> list[str]:
    """Trains what is open of a group; returns the points that others are at work on."""
    elsewhere = []
    states = ("open", "failed") if retry_failed else ("open",)
    state_folder = workdir / "groups" / group.name([point.name for point in plan.points])
    with contextlib.ExitStack() as claims:
        still_open = []
        for point in group.points:
            name, folder = plan.points[point].name, _folder(workdir, plan, point)
            if state_of(folder) in states:
                try:
                    claims.enter_context(claim(folder))
                except InUse:
                    elsewhere.append(name)
            # It may have ended while it was being claimed.
            if name in elsewhere or state_of(folder) not in states:
                progress.skip(name)
                continue
            was_deleted = not (folder / "metrics.jsonl").exists()
            if (was_deleted or state_of(folder) == "failed") and state_folder.exists():
                state_folder.rmtree()  # what is saved there holds the point as it was
            still_open.append(point)
        if still_open:
            _train(plan, group, still_open, workdir, state_folder, stop, progress)
            if state_folder.exists():
                state_folder.rmtree()
    return elsewhere


def _train(
    plan: Plan,
    group: Group,
    still_open: Sequence[int],
    workdir: epath.Path,
    state_folder: epath.Path,
    stop: StopRequest,
    progress: SweepProgress,
) -> None:
    runs: list[PointRun] = []
    num_members = 0
    for point in still_open:
        name, folder = plan.points[point].name, _folder(workdir, plan, point)
        try:
            setup = prepare(plan.configs[point], plan.datasets[point], jax.local_devices())
        except InputError as error:
            _fail(folder, name, str(error), progress)
            continue
        runs.append(PointRun(name, folder, setup, num_members))
        num_members += setup.config.ensemble.size
        if len(runs) > 1:  # the images of the first serve all
            runs[-1].setup = _without_images(setup)
    if not runs:
        return
    on_step: Callable[[PointRun, int], Any] = lambda run, step: progress.update(  # noqa: E731
        run.name, step / run.setup.num_steps, run.log.rows[-1], run.failure
    )
    try:
        train_group(group, runs, state_folder, stop, on_step)
    except jax.errors.JaxRuntimeError as error:  # out of memory, above all
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        for run in runs:
            if state_of(run.folder) == "open":
                _fail(run.folder, run.name, reason, progress)


def _fail(folder: epath.Path, name: str, reason: str, progress: SweepProgress) -> None:
    write_json(folder / "failure.json", {"reason": reason})
    progress.update(name, 1.0, {}, reason)


def _without_images(setup: Any) -> Any:
    """Labels and masks stay; a group must not hold every point's corrupted images."""
    examples = dataclasses.replace(setup.examples, images=setup.examples.images[:0])
    return setup._replace(examples=examples)
