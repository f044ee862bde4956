"""One run from start to end: claim the folder, train a group of one point, sum up."""

import contextlib
import json
import logging
from typing import Any

import jax
from etils import epath

from memjax.errors import Diverged, InputError
from memjax.runtime.distributed import (
    check_same_on_all_processes,
    is_main_process,
    on_main,
)
from memjax.runtime.locks import claim
from memjax.runtime.metrics import check_tensorboard
from memjax.runtime.preemption import StopRequest, stop_request
from memjax.runtime.progress import Progress
from memjax.runtime.shared_folder import check_shared_workdir
from memjax.runtime.throughput import Profile, Throughput
from memjax.runtime.workdir import check_overwrite, clear, was_begun_by_this_job
from memjax.training import dynamics
from memjax.training.loop import train_group
from memjax.training.memory import chunk_size, is_out_of_memory
from memjax.training.point_folder import PointFolder, divergence
from memjax.training.setup import Setup
from memjax.training.step import step_flops
from memjax.training.watcher import Watcher

_LOGGER = logging.getLogger("memjax")


def run(setup: Setup, workdir: epath.PathLike, overwrite: bool = False) -> dict[str, Any]:
    """Trains a run in its folder, or finishes one that was interrupted.

    All processes of a run call it: they train together, and process 0 writes the folder.

    Args:
      setup: from `memjax.training.setup.prepare`.
      workdir: the run folder; made if it is not there.
      overwrite: deletes a run that is there instead of going on with it; once for each job, where
        $MEMJAX_JOB names it.

    Returns:
      The summary, as in summary.json.

    Raises:
      InputError: if the folder cannot be used; nothing is written then.
      Diverged: at the end, if some member was no longer finite; what is good is kept.
      Interrupted: see `memjax.training.loop.train_group`.
    """
    on_main(lambda: check_tensorboard(setup.config.run.tensorboard))
    folder = epath.Path(workdir)
    point = PointFolder("run", folder, setup, records_dynamics=records_dynamics(setup))
    facts = json.dumps([point.document, setup.images_are_split])
    check_same_on_all_processes(facts, "data, devices or memjax")
    on_main(lambda: check_overwrite(folder) if overwrite else point.check())
    check_shared_workdir(folder)

    def begin() -> dict[str, Any] | None:
        held.enter_context(claim(folder))
        if overwrite and not was_begun_by_this_job(folder):
            clear(folder)
        return point.begin()

    with contextlib.ExitStack() as held, stop_request() as stop:
        summary = on_main(begin)
        if summary is None:
            watcher = _Watcher(setup, folder)
            _train(point, stop, watcher)
            summary = on_main(lambda: watcher.finish(point))
            if summary is None:
                raise Diverged(point.failure)
    steps = summary["diverged_at_step"]
    steps = {m: s for m, s in enumerate(steps if isinstance(steps, list) else []) if s is not None}
    if steps:
        raise Diverged(f"{divergence(steps)}; the other members are done")
    return summary


def records_dynamics(setup: Setup) -> bool:
    """Returns whether the dynamics of a run that begins are recorded."""
    return dynamics.records(setup.config, dynamics_bytes(setup))


def dynamics_bytes(setup: Setup) -> int:
    """Returns about what the dynamics of a run take."""
    num_validation = len(setup.dataset.validation)
    return dynamics.estimate_bytes(setup.config, setup.batches.num_examples, num_validation)


def _train(point: PointFolder, stop: StopRequest, watcher: Watcher) -> None:
    """Trains the run; where memory does not suffice, with fewer members side by side."""
    setup = point.setup
    chunk = chunk_size(setup, point.size, setup.mesh)
    while True:
        try:
            train_group([point], (), setup.mesh, chunk, [point.folder], stop, watcher, shared=True)
            return
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if chunk == 1:
                raise InputError(
                    "out of memory with one member at a time; what was saved is kept (try a "
                    "smaller config.train.batch_size or config.run.evaluation_batch_size)"
                ) from error
        chunk = -(-chunk // 2)
        _LOGGER.warning("out of memory: going on with %d members side by side", chunk)


class _Watcher(Watcher):
    """Shows progress, measures speed, traces, and sums up."""

    def __init__(self, setup: Setup, folder: epath.Path):
        self._setup, self._folder = setup, folder
        self._throughput = Throughput()
        self._progress: Progress | None = None
        self._profile: Profile | None = None

    def started(self, step: int) -> None:
        setup, config = self._setup, self._setup.config
        examples = config.ensemble.size * setup.batches.num_examples / setup.batches.steps_per_epoch
        self._progress = Progress(
            setup.num_steps, step, examples, config.run.progress and is_main_process()
        )
        self._profile = Profile(self._folder, config.run.profile_steps)

    def most_steps(self, num_steps: int) -> int:
        assert self._profile
        self._profile.start()
        return min(num_steps, self._profile.steps_left or num_steps)

    def dispatched(self, step: int, num_steps: int, seconds: float, share: float) -> None:
        assert self._progress
        assert self._profile
        if not seconds:
            self._progress.restart(step)
        elif self._profile.steps_left:
            self._profile.count(num_steps)
        else:
            self._throughput.add(num_steps * share, seconds)
        self._progress.update(step)

    def logged(self, point: PointFolder, row: dict[str, Any]) -> None:
        assert self._progress
        self._progress.log(row)

    def ended(self, point: PointFolder) -> None:
        """How it ended is written when the devices are free, for their speed is measured."""

    def finish(self, point: PointFolder) -> dict[str, Any] | None:
        """Draws and sums up; process 0 alone."""
        if len(point.diverged) < point.size:
            point.draw()
        return point.finish(self._speed())

    def close(self) -> None:
        if self._profile:
            self._profile.close()
        if self._progress:
            self._progress.close()

    def _speed(self) -> dict[str, float | None]:
        setup, batches = self._setup, self._setup.batches
        size = setup.config.ensemble.size
        flops = step_flops(setup.network, setup.optimizer, setup.image_shape, batches.batch_size)
        return self._throughput.summary(
            size * batches.num_examples / batches.steps_per_epoch,
            flops / batches.batch_size,
            setup.mesh,
            setup.config.train.compute_dtype,
        )
