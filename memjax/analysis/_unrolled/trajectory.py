"""A training trajectory that can be walked backwards in little memory."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from memjax.analysis._unrolled.sensitivity_inputs import num_bytes, positive

_TRAJECTORY_BYTES = 2**28

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

    One segment at a time is in memory, and the states at all the segments' starts.

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
        self._starts = [start]
        for index in range(self.num_segments):
            self._starts.append(self._record(index))

    @property
    def num_segments(self) -> int:
        return math.ceil(self._num_steps / self._length)

    @property
    def end(self) -> State:
        """The state after the last update."""
        return self._starts[-1]

    def steps(self, index: int) -> tuple[int, int]:
        """Returns the steps at which a segment starts and ends."""
        first = index * self._length
        return first, min(first + self._length, self._num_steps)

    def _record(self, index: int) -> State:
        first, last = self.steps(index)
        self._segment = None  # type: ignore[assignment]  # frees the one before
        state, rows = self._record_steps(self._starts[index], first, last, self._length)
        self._index, self._segment = index, Segment(rows, first)
        return state

    def segment(self, index: int, after: Any = ()) -> Segment:
        """Returns a segment; `after`: what was computed from the one before.

        Dispatch is asynchronous: without waiting for that, all the segments would be in memory.
        """
        if index != self._index:
            jax.block_until_ready(after)
            self._record(index)
        return self._segment

    def before(self, step: int, after: Any = ()) -> Segment:
        """Returns the segment that leads to `step`."""
        return self.segment(max(step - 1, 0) // self._length, after)


def segment_length(num_steps: int, kept: Any, checkpoint_every: int | None) -> int:
    """Returns the steps of a segment: about sqrt(num_steps), or all where 256 MiB hold them.

    Args:
      num_steps: updates.
      kept: what is kept of one step.
      checkpoint_every: where given, this instead.
    """
    fits = num_steps * num_bytes(kept) <= _TRAJECTORY_BYTES
    automatic = num_steps if fits else math.ceil(math.sqrt(num_steps))
    return min(positive("checkpoint_every", checkpoint_every, automatic), num_steps)
