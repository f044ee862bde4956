"""A sweep from start to end: plan, skip what is done, train group by group, one table."""

import concurrent.futures
import contextlib
import logging
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from memjax.config import Config, saved_science
from memjax.errors import InputError, InUse
from memjax.keys import DRAWS_VERSION
from memjax.models.source import code_fingerprints
from memjax.runtime.locks import claim, hold_together
from memjax.runtime.metrics import check_tensorboard
from memjax.runtime.preemption import StopRequest, stop_request
from memjax.runtime.workdir import (
    clear,
    difference,
    has_config,
    is_being_cleared,
    read_config,
    read_group,
    write_json,
)
from memjax.sweeps.cost import sweep_mesh
from memjax.sweeps.grouping import Group
from memjax.sweeps.plan import Plan
from memjax.sweeps.progress import SweepProgress
from memjax.sweeps.table import assemble, failure_of, state_of
from memjax.training import dynamics
from memjax.training.documents import goes_on
from memjax.training.loop import train_group
from memjax.training.memory import chunk_size, is_out_of_memory
from memjax.training.point_folder import PointFolder, whole_summary
from memjax.training.setup import Setup, prepare, source_fingerprint
from memjax.training.watcher import Watcher

_LOGGER = logging.getLogger("memjax")


class Outcome(NamedTuple):
    """How the points of a task ended.

    Attributes:
      failures: why, by the point's name.
      elsewhere: points that another process is at work on.
    """

    failures: dict[str, str]
    elsewhere: list[str]


def check_workdir(workdir: epath.Path, plan: Plan) -> None:
    """Raises InputError if a point's folder holds a run of another config."""
    for point, config, dataset in zip(plan.points, plan.configs, plan.datasets, strict=True):
        folder = workdir / "points" / point.name
        if is_being_cleared(folder) or not has_config(folder):
            continue
        known = code_fingerprints(config.model.name) | {"draws.version": DRAWS_VERSION}
        here = config.science() | known | source_fingerprint(config.dataset, dataset)
        there = saved_science(read_config(folder)["science"], here)
        there.pop("data.fingerprint", None)  # of the examples as corrupted
        found = difference(there, here)
        if found and not goes_on(there, here, f"--workdir={workdir}: point {point.name!r}"):
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
    check_tensorboard(any(config.run.tensorboard for config in plan.configs))
    folder = epath.Path(workdir)
    check_workdir(folder, plan)
    own = [point for group in plan.groups for point in group.points]
    elsewhere: list[str] = []
    progress = SweepProgress({plan.points[p].name: plan.costs[p].work for p in own}, show_progress)
    try:
        with hold_together(folder), stop_request() as stop:
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
    with contextlib.ExitStack() as claims:
        together: dict[tuple[str, ...], list[int]] = {}
        for point in group.points:
            name, folder = plan.points[point].name, _folder(workdir, plan, point)
            if _is_open(folder, plan.configs[point], retry_failed):
                try:
                    claims.enter_context(claim(folder))
                except InUse:
                    elsewhere.append(name)
            # It may have ended while it was being claimed.
            if name in elsewhere or not _is_open(folder, plan.configs[point], retry_failed):
                progress.skip(name)
                continue
            if state_of(folder) == "failed":
                clear(folder)
            together.setdefault(tuple(read_group(folder)[0]), []).append(point)
        # A point that was deleted, or failed, begins anew; the others go on from what was saved.
        for names, points in together.items():
            _GroupTraining(plan, group, workdir, stop, progress).train(list(names), points)
    return elsewhere


def _is_open(folder: epath.Path, config: Config, retry_failed: bool) -> bool:
    """Whether there is something to train: also where the config now has more epochs."""
    state = state_of(folder)
    if state == "finished":
        if not read_group(folder)[0]:
            raise InputError(
                f"{folder}: its group.json is gone, and with it the way to its states; delete the "
                "point's folder, and the sweep trains that point anew"
            )
        there = read_config(folder)["science"]
        more = there.get("train.num_epochs", 0) < config.train.num_epochs
        return more or whole_summary(folder) is None
    return state == "open" or retry_failed


class _GroupTraining:
    """The points of a group on their way; halved where memory, or one of them, fails."""

    def __init__(
        self,
        plan: Plan,
        group: Group,
        workdir: epath.Path,
        stop: StopRequest,
        progress: SweepProgress,
    ):
        self._plan, self._group, self._workdir = plan, group, workdir
        self._stop, self._progress = stop, progress

    def train(self, groups: list[str], points: list[int], chunk: int = 0) -> None:
        """Trains some points.

        Args:
          groups: the folders in groups/ that have states of them.
          points: their positions in the sweep.
          chunk: members side by side; 0 is as fits.
        """
        names = [point.name for point in self._plan.points]
        name = self._group.part(points).name(names)
        if name not in groups:
            folder = self._workdir / "groups" / name
            kept = [p for p in points if has_config(_folder(self._workdir, self._plan, p))]
            if folder.exists() and kept:
                path = _folder(self._workdir, self._plan, kept[0])
                raise InputError(
                    f"{path}: its group.json is gone, and {folder} may have its states; delete "
                    "the point's folder, and the sweep trains that point anew"
                )
            if folder.exists():  # all its points were deleted
                folder.rmtree()
            groups = [*groups, name]
        runs = self._begin(groups, points)
        if not runs:
            return
        size = sum(run.size for run in runs)
        mesh = sweep_mesh(runs[0].setup.config, size)
        chunk = chunk or chunk_size(runs[0].setup, size, mesh)
        folders = [self._workdir / "groups" / each for each in groups]
        watcher = _Watcher(self._progress)
        try:
            train_group(runs, self._group.traced, mesh, chunk, folders, self._stop, watcher)
        except jax.errors.JaxRuntimeError as error:
            still = [p for p in points if state_of(_folder(self._workdir, self._plan, p)) == "open"]
            self._try_again(error, groups, still, chunk)

    def _try_again(
        self, error: Exception, groups: list[str], points: list[int], chunk: int
    ) -> None:
        """Goes on from what is saved: with fewer members at once, or fewer points."""
        words = (str(error).splitlines() or [type(error).__name__])[0][:300]
        if not _devices_work():
            raise InputError(f"a device failed ({words}); the same command goes on") from error
        if is_out_of_memory(error) and chunk > 1:
            chunk = -(-chunk // 2)
            _LOGGER.warning("out of memory: going on with %d members side by side", chunk)
            self.train(groups, points, chunk)
        elif len(points) == 1:
            folder = _folder(self._workdir, self._plan, points[0])
            _fail(folder, self._plan.points[points[0]].name, words, self._progress)
        else:
            _LOGGER.warning("a group of %d points failed (%s): its halves", len(points), words)
            half = len(points) // 2
            for part in (points[:half], points[half:]):
                self.train(groups, part, chunk)

    def _begin(self, groups: list[str], points: list[int]) -> list[PointFolder]:
        """Writes what each point is; one that cannot be trained at all fails."""
        plan, setups = self._plan, self._prepare(points)
        if not setups:
            return []
        records = dynamics.records(plan.configs[points[0]], plan.dynamics_bytes)
        num_params = plan.costs[points[0]].num_params
        one = sweep_mesh(plan.configs[points[0]], 1)
        runs = [
            PointFolder(
                plan.points[point].name,
                _folder(self._workdir, plan, point),
                # Each device has its own members, so a batch is never padded for their sake.
                setup._replace(
                    mesh=one, batches=setup.batches._replace(padded_size=setup.batches.batch_size)
                ),
                num_params,
                records,
            )
            for point, setup in setups.items()
        ]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda run: run.begin(groups), runs))
        return runs

    def _prepare(self, points: list[int]) -> dict[int, Setup]:
        """Returns the setups of points that can be trained; the images of the first serve all."""
        plan, found = self._plan, dict[int, Setup | InputError]()

        def prepared(point: int, with_images: bool = False) -> Setup | InputError:
            config, dataset = plan.configs[point], plan.datasets[point]
            try:
                return prepare(config, dataset, jax.local_devices(), with_images)
            except InputError as error:
                return error

        left = list(points)
        while left and not any(isinstance(each, Setup) for each in found.values()):
            point = left.pop(0)
            found[point] = prepared(point, True)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found |= zip(left, pool.map(prepared, left), strict=True)
        for point, each in found.items():
            if isinstance(each, InputError):
                folder = _folder(self._workdir, plan, point)
                _fail(folder, plan.points[point].name, str(each), self._progress)
        return {point: each for point, each in found.items() if isinstance(each, Setup)}


def _devices_work() -> bool:
    try:
        return float(jnp.ones(()) + 1) == 2.0
    except jax.errors.JaxRuntimeError:
        return False


class _Watcher(Watcher):
    """Tells the progress of each point."""

    def __init__(self, progress: SweepProgress):
        self._progress = progress

    def logged(self, point: PointFolder, row: dict[str, Any]) -> None:
        share = min(row["step"] / point.setup.num_steps, 0.999)  # it is not done before it is saved
        self._progress.update(point.name, share, row)

    def ended(self, point: PointFolder) -> None:
        summary = point.finish()
        row = point.rows[-1] if point.rows else {}
        self._progress.update(point.name, 1.0, row, "" if summary else point.failure)


def _fail(folder: epath.Path, name: str, reason: str, progress: SweepProgress) -> None:
    write_json(folder / "failure.json", {"reason": reason})
    progress.update(name, 1.0, {}, reason)
