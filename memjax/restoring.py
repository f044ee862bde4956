"""Checkpoints of a run read for analysis, each once: the last ones are kept for the next."""

import collections
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from memjax.errors import InputError
from memjax.memory import memory_budget
from memjax.runtime.checkpoints import Checkpoints, finite_and_checksums
from memjax.runtime.workdir import read_group
from memjax.training.setup import Setup, abstract_saved


class _Read(NamedTuple):
    """What is kept of a checkpoint: params [rows ...] on the host, checksums as found, metadata."""

    params: Any
    checksums: list[int]
    metadata: dict[str, Any]


_read_ones: collections.OrderedDict[tuple[str, int], _Read] = collections.OrderedDict()


def read(checkpoints: Checkpoints, folder: epath.Path, step: int, setup: Setup) -> _Read:
    """Returns a checkpoint; the last ones read are kept, for all passes and points of a group.

    The optimiser's state is read for the checksum, and let go at once.
    """
    metadata = checkpoints.metadata(step)
    key = f"{folder}", step
    if key in _read_ones and _read_ones[key].metadata == metadata:
        _read_ones.move_to_end(key)
        return _read_ones[key]
    _read_ones.pop(key, None)
    state, metadata = checkpoints.restore(step, abstract_saved(setup))
    checksums = np.asarray(finite_and_checksums(state)[1]).tolist()
    for leaf in jax.tree.leaves(state.state.params):
        leaf.setflags(write=False)  # all who ask are given the same arrays
    _read_ones[key] = _Read(state.state.params, checksums, metadata)
    sizes = {
        k: sum(x.nbytes for x in jax.tree.leaves(each.params)) for k, each in _read_ones.items()
    }
    most = memory_budget(jax.devices("cpu")[0]) // 8
    while len(_read_ones) > 1 and sum(sizes[k] for k in _read_ones) > most:
        _read_ones.popitem(last=False)
    return _read_ones[key]


def noted(checkpoints: Checkpoints, folder: epath.Path, step: int) -> dict[str, Any]:
    """Returns what was noted with a checkpoint, from what was read where that is at hand."""
    key = f"{folder}", step
    return _read_ones[key].metadata if key in _read_ones else checkpoints.metadata(step)


class RunCheckpoints:
    """The checkpoints of one run, in its own folder or among those of the sweep that it is of.

    Args:
      workdir: the run folder.
      num_members: networks in the run.
    """

    def __init__(self, workdir: epath.Path, num_members: int):
        self._workdir, self._num_members = workdir, num_members

    @functools.cached_property
    def _stores(self) -> tuple[str, list[tuple[epath.Path, Checkpoints]]]:
        """The run's name among the rows of its checkpoints, and where these are."""
        folders = [self._workdir]
        groups, name = read_group(self._workdir)
        if name:  # a point of a sweep
            folders = [self._workdir.parent.parent / "groups" / each for each in groups]
            folders = [folder for folder in folders if (folder / "checkpoints").exists()]
        return name, [(folder, Checkpoints(folder, read_only=True)) for folder in folders]

    @functools.cached_property
    def _places(self) -> dict[int, tuple[epath.Path, Checkpoints, list[int]]]:
        """By step, where its checkpoint is, and in which rows of it the run's members are."""
        found, (name, stores) = {}, self._stores
        for folder, store in stores:
            for step in store.steps():
                if not name:
                    found[step] = folder, store, list(range(self._num_members))
                    continue
                rows = noted(store, folder, step)["rows"]
                own = [place for place, (owner, _) in enumerate(rows) if owner == name]
                if own:
                    found[step] = folder, store, own
        return dict(sorted(found.items()))

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        return list(self._places)

    def _place(self, step: int) -> tuple[epath.Path, Checkpoints, list[int]]:
        if step not in self._places:
            known = ", ".join(map(str, self.steps)) or "none"
            raise InputError(f"step {step}: no such checkpoint of {self._workdir}; has: {known}")
        return self._places[step]

    def member_params(self, step: int, setup: Setup) -> Any:
        """Returns the params of every member at a checkpoint, each a numpy array [members ...].

        Args:
          step: one of `steps`.
          setup: of the run.

        Raises:
          InputError: if there is no such checkpoint.
        """
        folder, store, rows = self._place(step)
        params, checksums, metadata = read(store, folder, step, setup)
        noted_sums = [metadata["checksum"][row] for row in rows]
        store.check_sums(step, noted_sums, [checksums[row] for row in rows])
        if rows == list(range(len(checksums))):
            return params
        return jax.tree.map(lambda leaf: leaf[rows], params)

    def last_step(self, member: int) -> int:
        """Returns the last step that a member was trained; its params stay as they are then."""
        folder, store, rows = self._place(self.steps[-1])
        metadata = noted(store, folder, self.steps[-1])
        ended = max(metadata[how][rows[member]] for how in ("fitted", "diverged"))
        return ended if ended >= 0 else self.steps[-1]
