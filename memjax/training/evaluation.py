"""What is evaluated of a group, and its evaluation, a second's worth at a time."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from memjax.runtime.distributed import largest
from memjax.runtime.mesh import over_members, place
from memjax.training.members import Images, Members
from memjax.training.outcomes import Outcomes, no_outcomes
from memjax.training.program import make_evaluation_program
from memjax.training.setup import Setup

SECONDS_PER_DISPATCH = 1.0  # long enough to cost nothing, short enough to stop at a signal

LOGGED = (
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "clean_accuracy",
    "corrupted_accuracy",
    "mislabeled_as_label",
    "mislabeled_as_true",
    "mislabeled_as_other",
)


class Evaluation:
    """The evaluation of one split, in dispatches of about a second.

    Args:
      setup: of any point of the group.
      mesh: the devices.
      members_per_chunk: members that are trained side by side on a device.
      num_examples: of each member.
      data: what they are drawn from.
      of_members: whether they are the members' own training examples.
    """

    def __init__(
        self,
        setup: Setup,
        mesh: Mesh,
        members_per_chunk: int,
        num_examples: int,
        data: Images,
        of_members: bool,
    ):
        self.data, self._of_members, self._mesh = data, of_members, mesh
        # One member's batch keeps a CPU busy, and convolutions with kernels side by side are slow.
        is_cpu = mesh.devices.flat[0].platform == "cpu"
        self._program, self._num_batches, self._num_rows = make_evaluation_program(
            setup.network, mesh, num_examples, setup.config.run.evaluation_batch_size,
            1 if is_cpu else members_per_chunk, of_members, setup.images_are_split,
        )  # fmt: skip
        self._has_compiled, self._batches_per_dispatch = False, 1

    def make_room(self, num_places: int) -> None:
        """Makes room for the outcomes of so many members."""
        room = no_outcomes(num_places, self._num_rows)
        self._outcomes: Any = place(room, over_members(self._mesh))

    def run(
        self, params: Any, members: Members, num_alive: jax.Array, stopped: Callable[[], bool]
    ) -> Outcomes | None:
        """Returns outcomes [places rows], valid until the next call; None if it was stopped.

        Args:
          params: flax variables [places ...].
          members: at each place.
          num_alive: int32 scalar, as `map_first` takes it.
          stopped: asked between dispatches; whether to give up.
        """
        looked_at, done = self._looked_at(members), 0
        while done < self._num_batches:
            size = min(self._batches_per_dispatch, self._num_batches - done)
            began = time.monotonic()
            self._dispatch(params, looked_at, num_alive, done, size)
            done += size
            if done < self._num_batches or not self._has_compiled:
                jax.block_until_ready(self._outcomes)
                if self._has_compiled:
                    rate = size / (time.monotonic() - began)
                    self._batches_per_dispatch = largest(
                        max(1, math.floor(rate * SECONDS_PER_DISPATCH))
                    )
                self._has_compiled = True
            if done < self._num_batches and stopped():
                return None
        return self._outcomes

    def seconds(self, params: Any, members: Members, num_alive: jax.Array) -> float:
        """Returns about what all batches take, from one of them; see `run`."""
        looked_at = self._looked_at(members)
        for _ in range(2):  # the first one compiles
            began = time.monotonic()
            self._dispatch(params, looked_at, num_alive, 0, 1)
            jax.block_until_ready(self._outcomes)
        return (time.monotonic() - began) * self._num_batches

    def _looked_at(self, members: Members) -> Members | None:
        return members if self._of_members or members.part is not None else None

    def _dispatch(
        self, params: Any, looked_at: Members | None, num_alive: jax.Array, first: int, size: int
    ) -> None:
        self._outcomes = self._program(
            self._outcomes, params, looked_at, self.data,
            jnp.int32(first), jnp.int32(size), num_alive,
        )  # fmt: skip
