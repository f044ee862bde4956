"""The loop of a group: train to the next event, evaluate, log, save; after a kill go on exactly.

An event is a step at which something is logged or saved. At each one the logs are written before
the checkpoint, so that a checkpoint's run folder always has what was logged up to its step. Members
that have the wanted accuracy, or are no longer finite, end; the others go on, and only they cost.
"""

import bisect
import math
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from memjax.runtime.checkpoints import checkpoint_steps
from memjax.runtime.distributed import largest, on_main
from memjax.runtime.preemption import StopRequest
from memjax.training.evaluation import SECONDS_PER_DISPATCH
from memjax.training.group import Group
from memjax.training.point_folder import PointFolder
from memjax.training.saves import Found, Saves
from memjax.training.setup import Setup, abstract_saved
from memjax.training.watcher import Interrupted, Watcher

SECONDS_BETWEEN_SAVES = 300.0


def event_steps(setup: Setup) -> tuple[list[int], list[int]]:
    """Returns the steps that are logged and the steps that are saved, both ascending."""
    config, per_epoch = setup.config, setup.batches.steps_per_epoch
    times = config.train.logs_per_epoch
    each = 1 if times > 1 else config.train.log_every_epochs
    places = range(0, config.train.num_epochs * times + 1, each)
    logged = {round(place * per_epoch / times) for place in places}
    saved = checkpoint_steps(config.checkpoint, per_epoch, config.train.num_epochs)
    return sorted(logged | {setup.num_steps}), saved


def train_group(
    points: Sequence[PointFolder],
    traced: Sequence[str],
    mesh: Mesh,
    members_per_chunk: int,
    folders: Sequence[epath.Path],
    stop: StopRequest,
    watcher: Watcher,
    shared: bool = False,
) -> None:
    """Trains points to their ends, each in its own folder, from the newest save if there is one.

    Args:
      points: that have begun, their folders claimed.
      traced: fields of the config that differ among them.
      mesh: the devices.
      members_per_chunk: members that run side by side on a device.
      folders: where states of them are found; all are saved in the last one.
      stop: asked after every dispatch and every event.
      watcher: told of what happens.
      shared: whether all processes train this group together; process 0 writes the logs.

    Raises:
      Interrupted: when `stop` was set, after saving.
    """
    saves = Saves(folders, shared)
    try:
        with jax.set_mesh(mesh):
            group = Group([point.setup for point in points], traced, mesh, members_per_chunk)
            loop = _Loop(group, points, saves, stop, watcher, shared)
            loop.to_the_end(loop.begin())
    finally:
        watcher.close()
        for point in points:
            point.close()
        saves.close()
    on_main(saves.forget) if shared else saves.forget()


class _Loop:
    """What a group's loop carries from event to event."""

    def __init__(
        self,
        group: Group,
        points: Sequence[PointFolder],
        saves: Saves,
        stop: StopRequest,
        watcher: Watcher,
        shared: bool,
    ):
        self.group, self.saves, self.stop, self.watcher = group, saves, stop, watcher
        self.points, self.shared = list(points), shared
        self.owners = [(point, member) for point in points for member in range(point.size)]
        self.numbers: dict[str, list[int]] = {point.name: [] for point in points}
        for number, (point, _) in enumerate(self.owners):
            self.numbers[point.name].append(number)
        self.logged, self.saved = event_steps(group.setup)
        self.num_steps = group.setup.num_steps
        self.steps_per_dispatch = fixed = group.setup.config.run.steps_per_dispatch
        self.is_fixed, self.has_compiled = bool(fixed), False
        self.began = self.saved_at = time.monotonic()
        self.saved_step, self.records = -1, False

    def begin(self) -> int:
        """Takes up the newest save, or makes the members anew; returns the step."""
        wanted = [(point.name, member) for point, member in self.owners]
        found = self.saves.restore(
            wanted, abstract_saved(self.group.setup), self._holds, self._take_up
        )
        for point in self.points:
            point.open(found.metadata["logs"][point.name][0] if found else -1, self.shared)
        self.records = any(p.document["derived"]["records_dynamics"] for p in self.points)
        if found is None:
            for point in self.points:
                point.fitted, point.diverged = {}, {}
            self.group.start(range(self.group.size))
        self.saved_step = found.step if found else -1
        self.watcher.started(max(self.saved_step, 0))
        return max(self.saved_step, 0)

    def _holds(self, metadata: dict[str, Any]) -> bool:
        return all(point.holds(metadata["logs"][point.name]) for point in self.points)

    def _take_up(self, found: Found) -> Any:
        rows = [tuple(row) for row in found.metadata["rows"]]
        for point in self.points:
            for name, ends in (("fitted", point.fitted), ("diverged", point.diverged)):
                steps = dict(zip(rows, found.metadata[name], strict=True))
                ends.clear()
                mine = {m: steps[point.name, m] for m in range(point.size)}
                ends |= {member: step for member, step in mine.items() if step >= 0}
        self.group.start(self._alive(self.points), found.state)
        return self.group.saved(range(self.group.size))

    def _members(self, points: Sequence[PointFolder]) -> list[int]:
        return [number for point in points for number in self.numbers[point.name]]

    def _alive(self, points: Sequence[PointFolder]) -> list[int]:
        return [n for n in self._members(points) if self.owners[n][1] in self.owners[n][0].alive]

    def to_the_end(self, step: int) -> None:
        """Goes from event to event until every point has ended, or a signal."""
        while True:
            self._event(step)
            if not self.points:
                return
            self._pause(step)
            later = (e[bisect.bisect_right(e, step)] for e in (self.logged, self.saved))
            target = min(later)
            while step < target and self.points:
                if not self.group.alive:  # what is left has ended, and is written at the event
                    break
                step = self._dispatch(step, target)
                if step < target and self.points:
                    self._pause(step)
            step = target

    def _dispatch(self, step: int, target: int) -> int:
        """Trains about a second's worth of steps, at most to `target`."""
        size = min(self.steps_per_dispatch or 1, target - step)
        if self.has_compiled:
            size = self.watcher.most_steps(size)
        began = time.monotonic()
        diverged = self.group.train(step, size)
        seconds = time.monotonic() - began if self.has_compiled else 0.0
        if self.has_compiled and not self.is_fixed:
            steps = max(1, math.floor(size / seconds * SECONDS_PER_DISPATCH))
            self.steps_per_dispatch = largest(steps)  # all run the same program
        self.has_compiled = True
        share = len(self.group.alive) / self.group.size
        self.watcher.dispatched(step + size, size, seconds, share)
        self._diverge(diverged)
        self._finish([point for point in self.points if len(point.diverged) == point.size])
        return step + size

    def _diverge(self, steps: dict[int, int]) -> None:
        if not steps:
            return
        for number, step in steps.items():
            point, member = self.owners[number]
            point.diverged[member] = step
        self.group.end(list(steps), list(steps))

    def _event(self, step: int) -> None:
        """Logs and saves what is due at this step, and ends what ends here."""
        if step in self.logged:
            self._log(step)
        is_last = step == self.num_steps
        for point in self.points:
            wanted = point.setup.config.train.stop_at_train_accuracy
            row = point.rows[-1]
            accuracy = np.array(np.atleast_1d(row["train_accuracy"]), float)
            if wanted > 0 and row["step"] == step:
                point.fitted |= {m: step for m in point.alive if accuracy[m] >= wanted}
        alive = set(self._alive(self.points))
        self.group.end([member for member in self.group.alive if member not in alive])
        ended = [point for point in self.points if is_last or not point.alive]
        due = self.points if step in self.saved else ended
        if due:
            self._keep(step, due)
        self._finish([point for point in ended if point in self.points])

    def _log(self, step: int) -> None:
        if all(point.rows and point.rows[-1]["step"] == step for point in self.points):
            return
        found = self.group.evaluate(step, self._is_stopped, self.records)
        if found is None:
            self._interrupt(step)
        values, outcomes = found
        if step or self.group.setup.config.train.train_metrics == "exact":
            is_bad = ~np.isfinite(values["train_loss"])
            self._diverge({member: step for member in self.group.alive if is_bad[member]})
        seconds = time.monotonic() - self.began
        for point in self.points:
            members = self._members([point])
            own = {name: value[members] for name, value in values.items()}
            of_point = outcomes and {
                split: jax.tree.map(lambda leaf: leaf[members], each)  # noqa: B023
                for split, each in outcomes.items()
            }
            self.watcher.logged(point, point.log(step, own, seconds, of_point))

    def _is_stopped(self) -> bool:
        return bool(self.stop.on_any_process())

    def _metadata(self, members: Sequence[int]) -> dict[str, Any]:
        """Returns what is noted with a save: whose the rows are, and what their logs have."""
        owners = [self.owners[member] for member in members]
        return {
            "rows": [[point.name, member] for point, member in owners],
            "fitted": [point.fitted.get(member, -1) for point, member in owners],
            "diverged": [point.diverged.get(member, -1) for point, member in owners],
            "logs": {point.name: point.noted() for point in dict(owners)},
        }

    def _keep(self, step: int, due: Sequence[PointFolder]) -> None:
        """Saves the states of some points, but of none of which no member is finite."""
        self._diverge(dict.fromkeys(self.group.not_finite(), step))
        due = [point for point in due if len(point.diverged) < point.size]
        if not due:
            return
        members = self._members(due)
        self.saves.keep(step, self.group.saved(members), self._metadata(members))
        if len(due) == len(self.points):
            self.saved_step = step

    def _finish(self, ended: Sequence[PointFolder]) -> None:
        if not ended:
            return
        self.saves.wait()
        for point in ended:
            self.watcher.ended(point)
        self.points = [point for point in self.points if point not in ended]
        self.group.let_go(self._members(ended))

    def _pause(self, step: int) -> None:
        """Saves and stops after a signal; saves where the last time was long ago."""
        is_due = time.monotonic() - self.saved_at > SECONDS_BETWEEN_SAVES
        request = largest(2 * self.stop.signal_number + int(is_due))
        if request > 1:
            self._interrupt(step, request // 2)
        if request:
            self._save_for_resume(step)

    def _interrupt(self, step: int, signal_number: int = 0) -> NoReturn:
        self._save_for_resume(step)
        raise Interrupted(step, 128 + (signal_number or self.stop.on_any_process()))

    def _save_for_resume(self, step: int) -> None:
        if step != self.saved_step:
            members = self._members(self.points)
            self.saves.save_for_resume(step, self.group.saved(members), self._metadata(members))
        self.saves.wait()
        self.saved_step, self.saved_at = step, time.monotonic()
