"""The loop of a run: train to the next event, evaluate, log, save, and go on exactly after a kill.

An event is a step at which something is logged or saved. At each one the metrics line is written
before the checkpoint, so that a checkpoint's run folder always has the lines up to its step.
"""

import bisect
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from memjax.data.examples import Examples
from memjax.data.sources import Split
from memjax.errors import Diverged
from memjax.runtime.checkpoints import Checkpoints, checkpoint_steps, finite_and_checksum
from memjax.runtime.distributed import is_main_process, largest
from memjax.runtime.mesh import over_members, place, place_images, replicated
from memjax.runtime.metrics import MetricsLog
from memjax.runtime.preemption import StopRequest
from memjax.runtime.progress import Progress
from memjax.runtime.throughput import Profile, Throughput
from memjax.training.program import DeviceData, make_evaluation_program, make_train_program
from memjax.training.setup import Setup, abstract_states, init_states, member_subsets
from memjax.training.state import TrainState

SECONDS_PER_DISPATCH = 1.0  # long enough to cost nothing, short enough to stop at a signal


class Evaluation(NamedTuple):
    """What an evaluation needs on the devices: a split's data, and which rows count."""

    subsets: jax.Array
    data: DeviceData
    is_corrupted: jax.Array


class Interrupted(Exception):
    """A signal ended the run after a checkpoint at `step`."""

    def __init__(self, step: int, exit_code: int):
        super().__init__(f"stopped by a signal; step {step} is saved")
        self.step, self.exit_code = step, exit_code


def train(
    setup: Setup, workdir: epath.Path, stop: StopRequest, throughput: Throughput
) -> list[dict[str, Any]]:
    """Trains to the end, from the newest checkpoint if there is one.

    Args:
      setup: from `prepare`.
      workdir: the run folder, claimed by process 0.
      stop: asked after every dispatch, on all processes.
      throughput: told of every dispatch but the first, which compiles, and those in a trace.

    Returns:
      The lines of metrics.jsonl.

    Raises:
      Diverged: with the last good checkpoint kept.
      Interrupted: when `stop` was set on any process, after saving.
    """
    checkpoints = Checkpoints(workdir, shared=True)
    try:
        restored = checkpoints.restore_newest(abstract_states(setup))
        if restored is None:
            step, states = 0, init_states(setup)
        else:
            step, states = restored.step, restored.state
        log = MetricsLog(
            workdir, step if restored else -1, setup.config.run.tensorboard, shared=True
        )
        profile = Profile(workdir, setup.config.run.profile_steps)
        run = _Run(setup, checkpoints, log, step, throughput, profile)
        try:
            run.to_the_end(states, step, stop)
        finally:
            profile.close()
            run.progress.close()
            log.close()
    finally:
        checkpoints.close()
    return log.rows


def event_steps(setup: Setup) -> tuple[list[int], list[int]]:
    """Returns the steps that are logged and the steps that are saved, both ascending."""
    config, per_epoch = setup.config, setup.batches.steps_per_epoch
    logged = set(range(0, setup.num_steps + 1, config.train.log_every_epochs * per_epoch))
    saved = checkpoint_steps(config.checkpoint, per_epoch, config.train.num_epochs)
    return sorted(logged | {setup.num_steps}), saved


def reached_accuracy(setup: Setup, row: dict[str, Any]) -> bool:
    """Returns whether a metrics line ends the run early: every member learned its examples."""
    wanted = setup.config.train.stop_at_train_accuracy
    return wanted > 0 and bool(np.min(row["train_accuracy"]) >= wanted)


def metrics_by_member(found: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """Returns what is logged, each float64 [members], from the evaluations of the splits.

    Args:
      found: by split ("train", and "validation" if there is one) what
        `make_evaluation_program` gives.
    """
    values = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)
    train = values["train"]
    nothing = np.full_like(train["loss"], np.nan)
    validation = values.get("validation", {"loss": nothing, "accuracy": nothing})
    return {
        "train_loss": train["loss"],
        "train_accuracy": train["accuracy"],
        "validation_loss": validation["loss"],
        "validation_accuracy": validation["accuracy"],
        "clean_accuracy": train["clean_accuracy"],
        "corrupted_accuracy": train["corrupted_accuracy"],
    }


def divergence(first_bad: np.ndarray) -> str:
    """Returns in words where a loss was not finite first; empty if all were.

    Args:
      first_bad: int [members], the first such step, -1 for none.
    """
    if (first_bad < 0).all():
        return ""
    step = first_bad[first_bad >= 0].min()
    member = int(np.flatnonzero(first_bad == step)[0])
    return (
        f"loss not finite at step {step}, member {member}; the last good checkpoint "
        f"is kept (try a smaller config.optimizer.learning_rate)"
    )


def _placed(setup: Setup, split: Split | Examples) -> DeviceData:
    images = place_images(setup.mesh, split.images, setup.images_are_split)
    return DeviceData(images, place(split.labels, replicated(setup.mesh)))


class _Run:
    """What stays the same from event to event."""

    def __init__(
        self,
        setup: Setup,
        checkpoints: Checkpoints,
        log: MetricsLog,
        step: int,
        throughput: Throughput,
        profile: Profile,
    ):
        self.setup, self.checkpoints, self.log = setup, checkpoints, log
        self.throughput, self.profile = throughput, profile
        self.logged, self.saved = event_steps(setup)
        self.seconds_before = log.rows[-1]["wall_seconds"] if log.rows else 0.0
        self.began = time.monotonic()
        members = setup.config.ensemble.size
        examples_per_step = members * setup.batches.num_examples / setup.batches.steps_per_epoch
        self.progress = Progress(
            setup.num_steps,
            step,
            examples_per_step,
            setup.config.run.progress and is_main_process(),
        )
        whole, split = replicated(setup.mesh), over_members(setup.mesh)
        examples, validation = setup.examples, setup.dataset.validation
        self.seeds = place(setup.seeds, split)
        self.training = Evaluation(
            place(member_subsets(setup), split),
            _placed(setup, examples),
            place(examples.is_corrupted, whole),
        )
        self.validation = None
        if len(validation.labels):
            rows = jnp.arange(len(validation.labels), dtype=jnp.int32)
            self.validation = Evaluation(
                place(jnp.tile(rows, (members, 1)), split),
                _placed(setup, validation),
                place(np.zeros(len(validation.labels), bool), whole),
            )
        self.evaluate = make_evaluation_program(
            setup.network,
            setup.mesh,
            setup.config.run.evaluation_batch_size,
            setup.members_per_chunk,
            setup.images_are_split,
        )
        self.train = make_train_program(
            setup.network,
            setup.optimizer,
            setup.batches,
            setup.mesh,
            setup.members_per_chunk,
            setup.images_are_split,
        )
        self.steps_per_dispatch = setup.config.run.steps_per_dispatch
        self.is_compiling = True

    def to_the_end(self, states: TrainState, step: int, stop: StopRequest) -> None:
        """Goes from event to event until the last step, the wanted accuracy, or a signal."""
        with jax.set_mesh(self.setup.mesh):
            while True:
                finished = self._event(states, step)
                if finished:
                    return
                target = self._next_event(step)
                while step < target:
                    states, step = self._dispatch(states, step, target)
                    self.progress.update(step)
                    signal_number = stop.on_any_process()
                    if signal_number and step < target:
                        self._save(states, step)
                        raise Interrupted(step, 128 + signal_number)

    def _next_event(self, step: int) -> int:
        later = (events[bisect.bisect_right(events, step)] for events in (self.logged, self.saved))
        return min(later)

    def _dispatch(self, states: TrainState, step: int, target: int) -> tuple[TrainState, int]:
        """Trains about a second's worth of steps, at most to `target`."""
        size = min(self.steps_per_dispatch or 1, target - step)
        if not self.is_compiling:
            self.profile.start()
            size = min(size, self.profile.steps_left or size)
        began = time.monotonic()
        states, first_bad = self.train(
            states, self.seeds, self.training.subsets, self.training.data,
            jnp.int32(step), jnp.int32(size),
        )  # fmt: skip
        self._check_finite(np.asarray(first_bad))
        if self.is_compiling:
            self.is_compiling = False
            self.progress.restart(step + size)
            return states, step + size
        seconds = time.monotonic() - began
        if self.profile.steps_left:
            self.profile.count(size)
        else:
            self.throughput.add(size, seconds)
        if not self.setup.config.run.steps_per_dispatch:
            steps = max(1, math.floor(size / seconds * SECONDS_PER_DISPATCH))
            self.steps_per_dispatch = largest(steps)  # all run the same program
        return states, step + size

    def _check_finite(self, first_bad: np.ndarray) -> None:
        found = divergence(first_bad)
        if found:
            raise Diverged(found)

    def _event(self, states: TrainState, step: int) -> bool:
        """Logs and saves what is due at this step; returns whether the run ends here."""
        is_last = step == self.setup.num_steps
        if step in self.logged and not (self.log.rows and self.log.rows[-1]["step"] == step):
            row = self.log.append(self._measure(states, step))
            self.progress.log(row)
        row = self.log.rows[-1]
        is_last |= row["step"] == step and reached_accuracy(self.setup, row)
        due = is_last or step in self.saved
        if due and step not in self.checkpoints.steps():
            self._save(states, step)
            self._drop_unscheduled(step)
        return is_last

    def _measure(self, states: TrainState, step: int) -> dict[str, Any]:
        found = {"train": self.evaluate(states.params, *self.training)}
        if self.validation:
            found["validation"] = self.evaluate(states.params, *self.validation)
        row: dict[str, Any] = dict(metrics_by_member(found))
        if not np.isfinite(row["train_loss"]).all():
            bad = np.where(np.isfinite(row["train_loss"]), -1, step)
            self._check_finite(bad)
        if self.setup.config.ensemble.size == 1:
            row = {name: float(value[0]) for name, value in row.items()}
        epoch = step / self.setup.batches.steps_per_epoch
        seconds = self.seconds_before + time.monotonic() - self.began
        return {"step": step, "epoch": epoch, **row, "wall_seconds": round(seconds, 3)}

    def _save(self, states: TrainState, step: int) -> None:
        finite, _ = finite_and_checksum(states)
        if not finite:
            raise Diverged(
                f"a parameter is not finite at step {step}; the last good checkpoint is kept"
            )
        epoch = step / self.setup.batches.steps_per_epoch
        self.checkpoints.save(step, states, {"step": step, "epoch": epoch})

    def _drop_unscheduled(self, step: int) -> None:
        """Deletes what a signal saved between events, once a later checkpoint is on disk."""
        extra = [s for s in self.checkpoints.steps() if s < step and s not in self.saved]
        if extra:
            self.checkpoints.wait()
            for old in extra:
                self.checkpoints.delete(old)
