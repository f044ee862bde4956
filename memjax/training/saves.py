"""What is saved of a group, and which of it a run goes on from.

`checkpoints/` has the scheduled states and the last one of every point: what analyses read.
`resume/` has the newest state of all that still train, saved now and then and at a signal, and is
gone when the group is done. Each row of a state says whose it is, so that a group goes on on any
number of devices.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from memjax.errors import InputError
from memjax.runtime.checkpoints import Checkpoints, Damaged
from memjax.runtime.distributed import is_main_process, largest, on_main

_LOGGER = logging.getLogger("memjax")
Row = tuple[str, int]  # a point's name, and a member's number in it


class Found(NamedTuple):
    """A state that was read.

    Attributes:
      step: of the state.
      state: numpy arrays, a row for each wanted member.
      metadata: what was noted with it; "rows" are all rows of the file.
    """

    step: int
    state: Any
    metadata: dict[str, Any]


class Saves:
    """The saved states of a group.

    Args:
      folders: that have states of its members, the one that is written to last: of a run of
        `memjax.main` the run folder alone.
      shared: whether all processes have this group, as in `Checkpoints`.
    """

    def __init__(self, folders: Sequence[epath.Path], shared: bool):
        self._folders, self._shared = list(folders), shared
        self._stores: dict[str, Checkpoints] = {}

    def _store(self, name: str) -> Checkpoints:
        if name not in self._stores:
            self._stores[name] = Checkpoints(self._folders[-1], name, shared=self._shared)
        return self._stores[name]

    def keep(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
        """Starts to save a scheduled or a last state; one that is there is the same."""
        store = self._store("checkpoints")
        if step not in store.steps():
            store.save(step, state, {"step": step, **metadata})

    def save_for_resume(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
        """Saves the state of all that still train, in place of what was saved so before."""
        self.wait()
        store = self._store("resume")
        if step in store.steps():  # of logs that have changed since
            store.delete(step)
        store.save(step, state, {"step": step, **metadata})
        store.wait()
        for old in store.steps():
            if old != step:
                store.delete(old)

    def wait(self) -> None:
        """Returns when every started save is on disk."""
        for store in self._stores.values():
            store.wait()

    def restore(
        self,
        wanted: Sequence[Row],
        one: Any,
        holds: Callable[[dict[str, Any]], bool],
        take_up: Callable[[Found], Any],
    ) -> Found | None:
        """Reads the newest whole state that has all wanted rows; None if there is none.

        A damaged one is renamed, with a warning, in favour of the one before. All processes call
        it: process 0 chooses, each reads, and one that cannot read it speaks for all.

        Args:
          wanted: rows, in the order of the result.
          one: jax.ShapeDtypeStructs of one row.
          holds: metadata -> whether the points' logs are what they were at the save.
          take_up: puts what was found on the devices; returns that, a row for each wanted one.

        Raises:
          InputError: for a state of another network, or one that cannot be read or held for reasons
            outside of it; nothing is changed then.
        """
        with _Readers(self._folders, self._shared) as readers:
            while True:
                chosen = on_main(lambda: readers.newest(wanted, holds))
                if chosen is None:
                    return None
                key, step = chosen
                found: Found | None = None
                error: Exception | None = None
                try:
                    found = readers.read(key, step, wanted, one)
                except InputError as caught:
                    error = caught
                code = largest(1 + (not isinstance(error, Damaged)) if error else 0)
                if code == 2:
                    raise error or InputError(f"{self._folders[-1]}: not readable for a process")
                if code == 0 and found is not None:
                    rows = _places(found.metadata["rows"], wanted)
                    sums = [found.metadata["checksum"][row] for row in rows]
                    try:
                        readers[key].check(step, sums, take_up(found))
                        return found
                    except Damaged as caught:
                        error = caught
                on_main(lambda: readers.set_aside(key, step, error))  # noqa: B023

    def close(self) -> None:
        """Waits and lets go."""
        for store in self._stores.values():
            store.close()

    def forget(self) -> None:
        """Deletes the states for going on: the group is done."""
        if (self._folders[-1] / "resume").exists():
            (self._folders[-1] / "resume").rmtree()


class _Readers:
    """The stores of this process alone: one that fails to read must not hang the others."""

    def __init__(self, folders: Sequence[epath.Path], shared: bool):
        self._places = [(folder, name) for folder in folders for name in ("checkpoints", "resume")]
        self._read_only = shared and not is_main_process()
        self._stores: dict[int, Checkpoints] = {}
        self._passed: list[tuple[int, int]] = []

    def __getitem__(self, key: int) -> Checkpoints:
        if key not in self._stores:
            folder, name = self._places[key]
            self._stores[key] = Checkpoints(folder, name, read_only=self._read_only)
        return self._stores[key]

    def newest(
        self, wanted: Sequence[Row], holds: Callable[[dict[str, Any]], bool]
    ) -> list[int] | None:
        """Returns the store and the step to try next."""
        there = [key for key, (folder, name) in enumerate(self._places) if (folder / name).exists()]
        known = [(step, key) for key in there for step in self[key].steps()]
        for step, key in sorted(known, reverse=True):
            if (key, step) in self._passed:
                continue
            self._passed.append((key, step))
            try:
                metadata = self[key].metadata(step)
            except Damaged as error:
                self.set_aside(key, step, error)
                continue
            if not set(wanted) <= {tuple(row) for row in metadata["rows"]}:
                continue
            if holds(metadata):
                return [key, step]
            _LOGGER.warning(
                "checkpoint %d passed over: metrics.jsonl or dynamics/ is no longer what it was at "
                "this step; both are written again from an older one",
                step,
            )
        return None

    def read(self, key: int, step: int, wanted: Sequence[Row], one: Any) -> Found:
        """Returns the wanted rows of a state."""
        state, metadata = self[key].restore(step, one)
        rows = _places(metadata["rows"], wanted)
        return Found(step, jax.tree.map(lambda leaf: leaf[rows], state), metadata)

    def set_aside(self, key: int, step: int, error: Exception | None) -> None:
        """Renames a damaged state."""
        path = self[key].set_aside(step)
        _LOGGER.warning("checkpoint skipped: %s; it is now %s", error, path.name)

    def __enter__(self) -> "_Readers":
        return self

    def __exit__(self, *_: object) -> None:
        for store in self._stores.values():
            store.close()


def _places(rows: Sequence[Sequence[Any]], wanted: Sequence[Row]) -> list[int]:
    """Returns where in a saved state the wanted rows are."""
    place = {tuple(row): number for number, row in enumerate(rows)}
    return [place[row] for row in wanted]
