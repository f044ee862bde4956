"""A training trajectory that can be walked backwards in little memory."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from memjax import memory
from memjax.analysis._unrolled.sensitivity_inputs import num_bytes, positive

State = Any


class Segment(NamedTuple):
    """A stretch of the trajectory: trees with a leading axis, row 0 at step `first_step`."""

    rows: Any
    first_step: Any

    def at(self, step: jax.Array) -> Any:
        """Returns what was kept of one step."""
        return jax.tree.map(lambda rows: rows[step - self.first_step], self.rows)


class Trajectory:
    """What was kept of every step, in segments that are recomputed from checkpoints.

    One segment at a time is on the device; the states at all segments' starts are on the host.

    Args:
      record: `record(state, first, last, length) -> (state at last, rows [length + 1 ...])`.
      start: the state before the first update.
      num_steps: updates.
      length: steps of a segment.
    """

    def __init__(
        self,
        record: Callable[[State, int, int, int], tuple[State, Any]],
        start: State,
        num_steps: int,
        length: int,
    ):
        self._record_steps, self._num_steps, self._length = record, num_steps, length
        self._segment: Segment
        self._placements = jax.tree.map(_placement, start)
        self._starts = [jax.device_get(start)]
        for index in range(self.num_segments):
            start = self._record(index, start)
            self._starts.append(jax.device_get(start))

    @property
    def num_segments(self) -> int:
        return math.ceil(self._num_steps / self._length)

    @property
    def end(self) -> State:
        """The state after the last update, on the host."""
        return self._starts[-1]

    def steps(self, index: int) -> tuple[int, int]:
        """Returns the steps at which a segment starts and ends."""
        first = index * self._length
        return first, min(first + self._length, self._num_steps)

    def _record(self, index: int, start: State) -> State:
        first, last = self.steps(index)
        self._segment = None  # type: ignore[assignment]  # frees the one before
        state, rows = self._record_steps(start, first, last, self._length)
        self._index, self._segment = index, Segment(rows, first)
        return state

    def segment(self, index: int, after: Any = ()) -> Segment:
        """Returns a segment; `after`: what was computed from the one before.

        Dispatch is asynchronous: without waiting for that, all the segments would be in memory.
        """
        if index != self._index:
            jax.block_until_ready(after)
            start = jax.tree.map(_put, self._starts[index], self._placements)
            self._record(index, start)
        return self._segment

    def before(self, step: int, after: Any = ()) -> Segment:
        """Returns the segment that leads to `step`."""
        return self.segment(max(step - 1, 0) // self._length, after)


class _Placement(NamedTuple):
    """Where an array was committed to; None: nowhere."""

    sharding: jax.sharding.Sharding | None


def _placement(leaf: Any) -> _Placement:
    return _Placement(leaf.sharding if getattr(leaf, "committed", False) else None)


def _put(leaf: Any, placement: _Placement) -> Any:
    """Returns a leaf as it was before it came to the host: the same program takes it."""
    return jax.device_put(leaf, placement.sharding) if placement.sharding else leaf


def segment_length(num_steps: int, kept: Any, checkpoint_every: int | None) -> int:
    """Returns the steps of a segment: about sqrt(num_steps), or all where they fit.

    Args:
      num_steps: updates.
      kept: what is kept of one step.
      checkpoint_every: where given, this instead.
    """
    fits = num_steps * num_bytes(kept) <= memory.memory_budget() // 8
    automatic = num_steps if fits else math.ceil(math.sqrt(num_steps))
    return min(positive("checkpoint_every", checkpoint_every, automatic), num_steps)
