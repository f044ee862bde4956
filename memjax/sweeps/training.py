"""The loop of a group: its points train side by side, and each leaves its own run folder.

At each event (a step at which something is logged or saved) every point that is still training
gets its metrics line and its checkpoint. Points that reached the wanted accuracy, or diverged, end;
the others move up, so that only they cost. Now and then, and at a signal, the state of the whole
group is saved, and an interrupted group goes on from there.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from memjax.data.examples import EXAMPLE_COLUMNS, examples_table
from memjax.runtime.checkpoints import Checkpoints, finite_and_checksum
from memjax.runtime.mesh import make_mesh, over_members, replicated
from memjax.runtime.metrics import MetricsLog
from memjax.runtime.preemption import StopRequest
from memjax.runtime.tables import write_table
from memjax.runtime.workdir import check_same_run, clear, write_json
from memjax.sweeps.grouping import Group
from memjax.sweeps.members import (
    arrange,
    join_members,
    places_of,
    point_members,
    shared_images,
    uses_noise,
)
from memjax.sweeps.program import make_group_programs
from memjax.training.loop import (
    SECONDS_PER_DISPATCH,
    Interrupted,
    divergence,
    event_steps,
    metrics_by_member,
    reached_accuracy,
)
from memjax.training.members import map_members, shard_members
from memjax.training.program import DeviceData
from memjax.training.run import config_document, summarize
from memjax.training.setup import Setup, members_per_chunk
from memjax.training.state import init_state

SECONDS_BETWEEN_SAVES = 300.0
_MIN_CHUNKS = 4  # on accelerators, so that the end of a quarter of the members is felt


class PointRun:
    """One point while it trains: its setup, and what is written to its folder.

    Attributes:
      name: of the point.
      setup: of its config.
      members: its members' numbers in the group.
      failure: why it ended early; empty if it did not.
    """

    def __init__(self, name: str, folder: epath.Path, setup: Setup, first_member: int):
        self.name, self.folder, self.setup = name, folder, setup
        self.members = list(range(first_member, first_member + setup.config.ensemble.size))
        self.failure = ""
        self.document = config_document(setup)
        self.table = examples_table(setup.dataset, setup.examples)
        self._checkpoints: Checkpoints | None = None

    def open(self, resume_step: int) -> None:
        """Makes the folder ready to go on from a step; -1 begins anew."""
        if resume_step < 0:
            clear(self.folder)
        if not check_same_run(self.folder, self.document):
            write_json(self.folder / "config.json", self.document)
        write_table(self.folder / "examples.parquet", self.table, EXAMPLE_COLUMNS)
        self.log = MetricsLog(self.folder, resume_step, self.setup.config.run.tensorboard)
        self.seconds_before = self.log.rows[-1]["wall_seconds"] if self.log.rows else 0.0
        for step in self.checkpoints.steps():
            if step > resume_step:
                self.checkpoints.delete(step)

    @property
    def checkpoints(self) -> Checkpoints:
        """Opened at the first use."""
        if self._checkpoints is None:
            self._checkpoints = Checkpoints(self.folder)
        return self._checkpoints

    def save(self, step: int, states: Any) -> None:
        """Saves the states of its members, unless they are not finite: then it fails."""
        if step in self.checkpoints.steps():
            return
        if not finite_and_checksum(states)[0]:
            self.failure = f"a parameter is not finite at step {step}"
            return
        epoch = step / self.setup.batches.steps_per_epoch
        self.checkpoints.save(step, states, {"step": step, "epoch": epoch})

    def finish(self) -> None:
        """Writes how it ended: summary.json or failure.json."""
        self.close()
        if self.failure:
            write_json(self.folder / "failure.json", {"reason": self.failure})
        else:
            write_json(self.folder / "summary.json", summarize(self.setup, self.log.rows))

    def close(self) -> None:
        """Lets go of the folder."""
        if self._checkpoints is not None:
            self._checkpoints.close()
            self._checkpoints = None
        self.log.close()


class GroupRun:
    """The members of a group on the devices.

    Args:
      group: whose program it is.
      points: those of its points that are not done.
    """

    def __init__(self, group: Group, points: Sequence[PointRun]):
        first = points[0].setup
        config = first.config
        self.setup, self.points = first, list(points)
        num_members = sum(len(point.members) for point in points)
        num_devices = min(config.run.num_devices or jax.local_device_count(), num_members)
        devices = jax.local_devices()  # processes share out points, not members
        self.mesh = make_mesh(num_devices, num_devices, num_devices, devices)
        per_device = -(-num_members // num_devices)
        self.chunk = config.run.members_per_chunk or chunk_size(
            first.num_params, per_device, self.mesh.devices.flat[0].platform
        )
        self.chunk = min(self.chunk, per_device)
        self.places_per_device = -(-per_device // self.chunk) * self.chunk
        # Each device has its own members, so a batch is never padded for the devices' sake.
        self.batches = first.batches._replace(padded_size=config.train.batch_size)
        with_noise = any(uses_noise(point.setup) for point in points)
        self._on_host = join_members(
            [point_members(point.setup, group.traced, with_noise) for point in points]
        )
        whole = replicated(self.mesh)
        self._shared = jax.device_put(shared_images(first), whole)
        validation = first.dataset.validation
        self._validation = None
        if len(validation):
            data = DeviceData(jnp.asarray(validation.images), jnp.asarray(validation.labels))
            self._validation = jax.device_put(data, whole)
        moments = first.network.mean, first.network.std
        classes = first.examples.num_classes
        self._programs = make_group_programs(
            config, classes, moments, self.batches, self.mesh, self.chunk
        )
        split = over_members(self.mesh)
        self._take = jax.jit(lambda tree, places: jax.tree.map(lambda leaf: leaf[places], tree))
        self._move = jax.jit(
            lambda tree, places: jax.tree.map(lambda leaf: leaf[places], tree),
            out_shardings=split,
            donate_argnums=0,
        )
        self._place([member for point in points for member in point.members])
        self.states: Any = None

    def _place(self, alive: list[int]) -> None:
        self.alive = alive
        num_devices = self.mesh.size
        self.arrangement = arrange(alive, num_devices, self.places_per_device)
        arranged = jax.tree.map(lambda leaf: leaf[self._rank(self.arrangement)], self._on_host)
        self._members = jax.device_put(arranged, over_members(self.mesh))
        self._num_alive = jnp.int32(-(-len(alive) // num_devices))

    def _rank(self, members: np.ndarray) -> np.ndarray:
        """Where members stand on the host; they are numbered from that of the first point on."""
        numbers = [member for point in self.points for member in point.members]
        return np.searchsorted(numbers, members)

    def init_states(self) -> None:
        """Makes every member anew."""
        network, optimizer = self.setup.network, self.setup.optimizer
        shape = self.setup.image_shape

        def init_members(seeds: jax.Array) -> Any:
            return map_members(
                lambda seed: init_state(seed, network.model, optimizer, shape), 1, seeds
            )

        init = shard_members(init_members, self.mesh, num_mapped=1)
        self.states = jax.jit(init, out_shardings=over_members(self.mesh))(self._members.seeds)

    def train(self, step: int, num_steps: int) -> np.ndarray:
        """Trains all that are alive; returns the first bad step of the member at each place."""
        self.states, first_bad = self._programs.train(
            self.states, self._members, self._shared, jnp.int32(step), jnp.int32(num_steps),
            self._num_alive,
        )  # fmt: skip
        return np.asarray(first_bad)

    def measure(self) -> dict[str, np.ndarray]:
        """Returns what is logged, of the member at each place."""
        params, alive = self.states.params, self._num_alive
        found = {"train": self._programs.evaluate(params, self._members, self._shared, alive)}
        if self._validation is not None:
            found["validation"] = self._programs.validate(params, self._validation, alive)
        return metrics_by_member(found)

    def states_of(self, point: PointRun) -> Any:
        """Returns the states of a point's members."""
        return self._take(self.states, places_of(self.arrangement, point.members))

    def keep(self, alive: list[int]) -> None:
        """Lets the others go where that makes fewer chunks."""
        per_device = math.ceil(len(alive) / self.mesh.size)
        before = math.ceil(int(self._num_alive) / self.chunk)
        if not alive or math.ceil(per_device / self.chunk) == before:
            return
        old = self.arrangement
        self._place(alive)
        self.states = self._move(self.states, places_of(old, self.arrangement.tolist()))

    def save(self, folder: epath.Path, step: int) -> None:
        """Saves the whole group, in place of what was saved before."""
        checkpoints = Checkpoints(folder)
        try:
            names = {m: point.name for point in self.points for m in point.members}
            owners = [names[member] for member in self.arrangement.tolist()]
            checkpoints.save(step, self.states, {"step": step, "points": owners})
            checkpoints.wait()
            for old in checkpoints.steps():
                if old != step:
                    checkpoints.delete(old)
        finally:
            checkpoints.close()

    def restore(self, folder: epath.Path) -> int:
        """Takes the states from the newest save that has all points; returns its step, or -1."""
        if not (folder / "checkpoints").exists():
            return -1
        checkpoints = Checkpoints(folder)
        try:
            for step in reversed(checkpoints.steps()):
                owners = np.array(checkpoints.metadata(step)["points"])
                if not {point.name for point in self.points} <= set(owners):
                    continue
                abstract = self._abstract_states(len(owners))
                saved = checkpoints.restore(step, abstract).state
                places: dict[int, int] = {}
                for point in self.points:
                    found = np.flatnonzero(owners == point.name)[: len(point.members)]
                    places |= dict(zip(point.members, found.tolist(), strict=True))
                wanted = np.array([places[member] for member in self.arrangement.tolist()])
                self.states = jax.device_put(self._take(saved, wanted), over_members(self.mesh))
                return step
            return -1
        finally:
            checkpoints.close()

    def _abstract_states(self, num_members: int) -> Any:
        setup, whole = self.setup, replicated(self.mesh)
        network, optimizer, shape = setup.network, setup.optimizer, setup.image_shape
        one = jax.eval_shape(lambda: init_state(0, network.model, optimizer, shape))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                (num_members, *leaf.shape), leaf.dtype, sharding=whole
            ),
            one,
        )


def chunk_size(num_params: int, num_members: int, platform: str) -> int:
    """Returns how many of a device's members run side by side; as even chunks as can be.

    Example:
      >>> chunk_size(num_params=1500, num_members=100, platform="cpu")  # 4 chunks, not 3 and a rest
      25
    """
    chunk = members_per_chunk(num_params, num_members, platform)
    if platform != "cpu":
        chunk = -(-chunk // _MIN_CHUNKS)
    return math.ceil(num_members / math.ceil(num_members / chunk))


@dataclasses.dataclass
class _Loop:
    """What a group's loop carries from event to event."""

    run: GroupRun
    folder: epath.Path
    stop: StopRequest
    on_step: Callable[[PointRun, int], None]
    steps_per_dispatch: int = 0
    has_compiled: bool = False

    def __post_init__(self) -> None:
        self.began = self.saved_at = time.monotonic()
        self.alive = list(self.run.points)
        self.logged, self.saved = event_steps(self.run.setup)
        self.num_steps = self.run.setup.num_steps

    def to_the_end(self, step: int) -> None:
        while True:
            self._event(step)
            if not self.alive:
                return
            target = min(s for s in (*self.logged, *self.saved) if s > step)
            while step < target and self.alive:
                step = self._dispatch(step, target)
                if self.stop.signal_number and step < self.num_steps and self.alive:
                    self.run.save(self.folder, step)
                    raise Interrupted(step, self.stop.exit_code)
            if self.alive and time.monotonic() - self.saved_at > SECONDS_BETWEEN_SAVES:
                self.run.save(self.folder, step)
                self.saved_at = time.monotonic()

    def _dispatch(self, step: int, target: int) -> int:
        fixed = self.run.setup.config.run.steps_per_dispatch
        size = min(fixed or self.steps_per_dispatch or 1, target - step)
        began = time.monotonic()
        first_bad = self.run.train(step, size)
        if self.has_compiled:
            rate = size / (time.monotonic() - began)
            self.steps_per_dispatch = max(1, math.floor(rate * SECONDS_PER_DISPATCH))
        self.has_compiled = True
        for point in self.alive:
            point.failure = divergence(first_bad[places_of(self.run.arrangement, point.members)])
        self._end([point for point in self.alive if point.failure])
        return step + size

    def _event(self, step: int) -> None:
        if step in self.logged:
            self._log(step)
        ended = []
        for point in self.alive:
            row = point.log.rows[-1]
            is_last = step == self.num_steps
            is_last |= row["step"] == step and reached_accuracy(point.setup, row)
            if not point.failure and (is_last or step in self.saved):
                point.save(step, self.run.states_of(point))
            if is_last or point.failure:
                ended.append(point)
            self.on_step(point, self.num_steps if is_last or point.failure else step)
        self._end(ended)

    def _log(self, step: int) -> None:
        if all(point.log.rows and point.log.rows[-1]["step"] == step for point in self.alive):
            return
        values = self.run.measure()
        for point in self.alive:
            places = places_of(self.run.arrangement, point.members)
            row = {name: value[places] for name, value in values.items()}
            if not np.isfinite(row["train_loss"]).all():
                point.failure = divergence(np.where(np.isfinite(row["train_loss"]), -1, step))
            if len(point.members) == 1:
                row = {name: float(value[0]) for name, value in row.items()}
            seconds = round(point.seconds_before + time.monotonic() - self.began, 3)
            epoch = step / self.run.batches.steps_per_epoch
            point.log.append({"step": step, "epoch": epoch, **row, "wall_seconds": seconds})

    def _end(self, ended: list[PointRun]) -> None:
        for point in ended:
            point.finish()
            self.on_step(point, self.num_steps)
        if ended:
            self.alive = [point for point in self.alive if point not in ended]
            self.run.keep([member for point in self.alive for member in point.members])


def train_group(
    group: Group,
    points: Sequence[PointRun],
    folder: epath.Path,
    stop: StopRequest,
    on_step: Callable[[PointRun, int], None],
) -> None:
    """Trains the points of a group to their ends, each in its own folder.

    Args:
      group: whose program it is.
      points: those of its points that are not done, their folders claimed.
      folder: where the state of the whole group is saved, and found again.
      stop: asked after every dispatch.
      on_step: called with a point and the step that it reached; its last one when it ended.

    Raises:
      Interrupted: when `stop` was set, after saving.
    """
    run = GroupRun(group, points)
    with jax.set_mesh(run.mesh):
        step = run.restore(folder)
        for point in points:
            point.open(step)
        try:
            if step < 0:
                run.init_states()
            _Loop(run, folder, stop, on_step).to_the_end(max(step, 0))
        finally:
            for point in points:
                point.close()
