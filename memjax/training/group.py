"""The members of a group on the devices: made or taken up, trained, evaluated, let go."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from memjax.corruption_kinds import parse_kinds
from memjax.runtime.checkpoints import finite_and_checksums
from memjax.runtime.mesh import MEMBER, over_members, place, replicated, shard_members
from memjax.training.evaluation import LOGGED, Evaluation
from memjax.training.members import (
    Images,
    Members,
    arrange,
    group_images,
    group_members,
    have_common_inputs,
    places_of,
    validation_images,
)
from memjax.training.outcomes import Outcomes, no_outcomes, summarize
from memjax.training.program import make_train_program
from memjax.training.setup import Saved, Setup
from memjax.training.state import init_state


class Group:
    """Members of one or more points, numbered from 0 in the order of the points.

    Args:
      setups: of the points; the first one has the images.
      traced: fields of the config that differ among the points.
      mesh: the devices.
      members_per_chunk: members that run side by side on a device.

    Attributes:
      alive: members that still train.
      states: of the member at each place.
    """

    def __init__(
        self, setups: Sequence[Setup], traced: Sequence[str], mesh: Mesh, members_per_chunk: int
    ):
        self.setup, self.mesh, self.chunk = setups[0], mesh, members_per_chunk
        config = self.setup.config
        common = have_common_inputs([setup.config for setup in setups])
        self._on_host = group_members(setups, traced, common)
        self._data = group_images(setups, common, mesh)
        self._train = make_train_program(self.setup, traced, mesh, members_per_chunk)
        self._is_running = config.train.train_metrics == "running"
        self._evaluations = {}
        if not self._is_running:
            rows = self.setup.batches.num_examples
            self._evaluations["train"] = Evaluation(
                self.setup, self.mesh, self.chunk, rows, self._data, of_members=True
            )
        if count := len(self.setup.dataset.validation):
            data = validation_images(setups, mesh)
            self._evaluations["validation"] = Evaluation(
                self.setup, self.mesh, self.chunk, count, data, of_members=False
            )
        self._is_class = "unique_labels" not in parse_kinds(config.corruption.kind)
        whole = replicated(mesh)
        self._summarize = jax.jit(self._logged, static_argnums=0, out_shardings=whole)
        self._on_all = jax.jit(lambda tree: tree, out_shardings=whole)
        self._take = jax.jit(_take)
        self._move = jax.jit(_take, out_shardings=over_members(mesh))
        self._end = jax.jit(_not_finite, donate_argnums=0)
        self.states: Any = None
        self._outcomes: Outcomes | None = None

    @property
    def size(self) -> int:
        """How many members there are."""
        return len(self._on_host.seeds)

    def start(self, alive: Sequence[int], saved: Any = None) -> None:
        """Makes every member anew, or takes them up.

        Args:
          alive: members that still train; the others' states are kept.
          saved: `Saved` of numpy arrays [members ...]; None begins anew.
        """
        self._place(list(alive), list(range(self.size)))
        if saved is not None:
            saved = jax.tree.map(lambda leaf: leaf[self.arrangement], saved)
            self.states, self._outcomes = place(saved, over_members(self.mesh))
            return
        network, optimizer = self.setup.network, self.setup.optimizer
        shape = self.setup.image_shape

        def init_members(seeds: jax.Array) -> Any:
            return jax.lax.map(
                lambda seed: init_state(seed, network.model, optimizer, shape), seeds
            )

        init = shard_members(init_members, self.mesh, num_mapped=1)
        init = jax.jit(init, out_shardings=over_members(self.mesh))
        self.states = init(self.members.seeds)
        if self._is_running:
            room = no_outcomes(len(self.arrangement), self.setup.batches.num_examples)
            self._outcomes = place(room, over_members(self.mesh))

    def _place(self, alive: list[int], kept: list[int]) -> None:
        self.alive, self._kept = alive, kept
        devices = self.mesh.shape[MEMBER]
        per_device = -(-len(kept) // devices)
        per_device = -(-per_device // self.chunk) * self.chunk
        ended = [member for member in kept if member not in set(alive)]
        self.arrangement = arrange(alive or ended, ended if alive else [], devices, per_device)
        arranged = jax.tree.map(lambda leaf: leaf[self.arrangement], self._on_host)
        self.members: Members = place(arranged, over_members(self.mesh))
        for evaluation in self._evaluations.values():
            evaluation.make_room(len(self.arrangement))
        self._note_alive()

    def _note_alive(self) -> None:
        is_alive = np.isin(self.arrangement, self.alive)
        by_device = is_alive.reshape(self.mesh.shape[MEMBER], -1)
        self._num_alive = jnp.int32(np.flatnonzero(by_device.any(axis=0)).max(initial=-1) + 1)
        self._is_alive = place(is_alive, over_members(self.mesh))

    def train(self, step: int, num_steps: int) -> dict[int, int]:
        """Trains all that are alive; returns the first step that was not finite, by member."""
        self.states, self._outcomes, first_bad = self._train(
            self.states, self._outcomes, self._is_alive, self.members, self._data,
            jnp.int32(step), jnp.int32(num_steps), self._num_alive,
        )  # fmt: skip
        found = np.asarray(first_bad)[places_of(self.arrangement, self.alive)]
        return {m: int(s) for m, s in zip(self.alive, found, strict=True) if s >= 0}

    def evaluate(
        self, step: int, stopped: Callable[[], bool], with_outcomes: bool
    ) -> tuple[dict[str, np.ndarray], dict[str, Outcomes] | None] | None:
        """Evaluates all that are alive, a second's worth at a time.

        Args:
          step: training steps done.
          stopped: asked in between; whether to give up.
          with_outcomes: whether outcomes are wanted on the host.

        Returns:
          None if it was stopped; else what is logged, float64 [members], nan for those that are not
          alive, and outcomes by split, numpy arrays [members n].
        """
        found: dict[str, Any] = {}
        for name, evaluation in self._evaluations.items():
            outcomes = evaluation.run(self.states.params, self.members, self._num_alive, stopped)
            if outcomes is None:
                return None
            found[name] = outcomes
        if self._is_running and step:
            found["train"] = self._outcomes
        values = {name: np.full(self.size, np.nan) for name in LOGGED}
        places = places_of(self.arrangement, self.alive)
        for split, outcomes in found.items():
            data = self._data if split == "train" else self._evaluations[split].data
            of_split = self._summarize(split, outcomes, self.members, data)
            for name, by_place in of_split.items():
                column = name if name.startswith(("clean", "corrupted", "mislabeled")) else ""
                column = column or f"{split}_{name}"
                if column in values:
                    values[column][self.alive] = np.asarray(by_place, np.float64)[places]
        if not with_outcomes:
            return values, None
        return values, {split: self._by_member(outcomes) for split, outcomes in found.items()}

    def evaluation_seconds(self) -> float:
        """Returns about what an evaluation of all members takes, from a batch of each split."""
        alive = self.members, self._num_alive
        splits = self._evaluations.values()
        return sum(split.seconds(self.states.params, *alive) for split in splits)

    def _logged(
        self, split: str, outcomes: Outcomes, members: Members, data: Images
    ) -> dict[str, jax.Array]:
        if split == "train":
            true_labels = data.labels[members.rows]
            return summarize(
                outcomes, members.labels, true_labels, members.is_corrupted, self._is_class
            )
        labels = data.labels[None]
        if (part := members.part) is not None:
            rows = jnp.arange(len(self.setup.dataset.validation))[None]
            labels = data.labels[part.first_validation[:, None] + rows]
        found = summarize(outcomes, labels, labels, jnp.zeros(labels.shape, bool), True)
        return {name: found[name] for name in ("loss", "accuracy")}

    def _by_member(self, outcomes: Outcomes) -> Outcomes:
        """Returns outcomes of all members on the host; of those not kept they are zero."""
        outcomes = jax.tree.map(np.asarray, self._on_all(outcomes))
        rows = places_of(self.arrangement, self._kept)

        def put(leaf: np.ndarray) -> np.ndarray:
            room = np.zeros((self.size, *leaf.shape[1:]), leaf.dtype)
            room[self._kept] = leaf[rows]
            return room

        return jax.tree.map(put, outcomes)

    def end(self, members: Sequence[int], diverged: Sequence[int] = ()) -> None:
        """Ends some members; their states are kept as they are, those that diverged as nan."""
        if diverged:
            is_bad = place(np.isin(self.arrangement, diverged), over_members(self.mesh))
            self.states = self._end(self.states, is_bad)
        if members:
            ended = set(members)
            self.alive = [member for member in self.alive if member not in ended]
            self._note_alive()

    def not_finite(self) -> list[int]:
        """Returns the members alive of whose states some number is not finite."""
        finite = np.asarray(finite_and_checksums(self.states)[0])
        return [m for m in self.alive if not finite[places_of(self.arrangement, [m])[0]]]

    def let_go(self, members: Sequence[int]) -> None:
        """Forgets some members, and moves the others up where fewer chunks will do."""
        self.end(members)
        gone = set(members)
        kept = [member for member in self._kept if member not in gone]
        if not self.alive:
            return
        per_device = math.ceil(len(self.alive) / self.mesh.shape[MEMBER])
        if math.ceil(per_device / self.chunk) >= math.ceil(int(self._num_alive) / self.chunk):
            return
        old = self.arrangement
        self._place(self.alive, kept)
        tree = self.states, self._outcomes
        rows = places_of(old, self.arrangement.tolist())
        self.states, self._outcomes = self._move(tree, rows)

    def saved(self, members: Sequence[int]) -> Saved:
        """Returns the states of some members, in this order, on the devices."""
        tree = Saved(self.states, self._outcomes)
        rows = places_of(self.arrangement, members)
        if np.array_equal(rows, np.arange(len(self.arrangement))):
            return tree
        return self._take(tree, rows)


def _take(tree: Any, rows: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _not_finite(tree: Any, is_bad: jax.Array) -> Any:
    """Returns the tree with nan, or 0, in all numbers of some members: the same bits however far
    they went on until it was found."""

    def mark(leaf: jax.Array) -> jax.Array:
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        value = jnp.asarray(jnp.nan if is_float else 0, leaf.dtype)
        return jnp.where(is_bad.reshape(-1, *(1,) * (leaf.ndim - 1)), value, leaf)

    return jax.tree.map(mark, tree)
