"""What an ensemble thinks of every training example, in and out of its members' subsets."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.errors import InputError
from memjax.loading import Run

LogitsFn = Callable[[Any, jax.Array], jax.Array]


class Evidence(NamedTuple):
    """Probabilities of the classes, averaged over members, at several times of training.

    Attributes:
      epochs: float [times], ascending.
      inside: float32 [times n classes], mean over the members that trained on the example.
      outside: float32 [times n classes], mean over the members that did not.
    """

    epochs: np.ndarray
    inside: np.ndarray
    outside: np.ndarray


class EvidenceSums:
    """Adds up the probabilities of members, one at a time, so that no member is kept.

    Args:
      epochs: [times] at which every member is seen.
      is_member: bool [members n], which examples each member trains on.
      num_classes: of the labels.

    Raises:
      InputError: if some example is in every member's subset, or in none.

    Example:
      >>> sums = EvidenceSums([1.0], np.array([[True], [False]]), num_classes=2)
      >>> sums.add(0, 0, np.array([[0.9, 0.1]]))
      >>> sums.add(0, 1, np.array([[0.4, 0.6]]))
      >>> sums.mean().outside.tolist()
      [[[0.4000000059604645, 0.6000000238418579]]]
    """

    def __init__(self, epochs: Sequence[float], is_member: np.ndarray, num_classes: int):
        self._epochs, self._is_member = np.asarray(epochs, float), np.asarray(is_member, bool)
        members, n = self._is_member.shape
        self._num_inside = self._is_member.sum(0)
        one_sided = (self._num_inside == 0) | (self._num_inside == members)
        if one_sided.any():
            raise InputError(
                f"example {int(np.argmax(one_sided))}: is in {self._num_inside[one_sided][0]} of "
                f"{members} training subsets; each must be in some and out of others (more members)"
            )
        self._inside = np.zeros((len(self._epochs), n, num_classes), np.float32)
        self._outside = np.zeros_like(self._inside)

    def add(self, time: int, member: int, probabilities: np.ndarray) -> None:
        """Adds one member at one time.

        Args:
          time: position in `epochs`.
          member: row of `is_member`.
          probabilities: [n classes].
        """
        inside = self._is_member[member]
        self._inside[time, inside] += probabilities[inside]
        self._outside[time, ~inside] += probabilities[~inside]

    def mean(self) -> Evidence:
        """Returns the means over the members on either side."""
        inside = self._num_inside[:, None].astype(np.float32)
        outside = len(self._is_member) - inside
        return Evidence(self._epochs, self._inside / inside, self._outside / outside)


def gather(run, steps: Sequence[int] | None = None) -> Evidence:
    """Returns the evidence of a run's checkpoints.

    Args:
      run: from `memjax.load_run`, an ensemble on random subsets.
      steps: of the checkpoints, ascending; None: all but the untrained one.

    Raises:
      InputError: if the run has no such checkpoints, or its members have no subsets.
    """
    steps = [step for step in run.steps if step > 0] if steps is None else list(steps)
    if not steps:
        raise InputError(f"{run.workdir}: no checkpoint after step 0")
    sums = EvidenceSums(
        [run.epoch(step) for step in steps], run.is_member, run.setup.examples.num_classes
    )
    for time, step in enumerate(steps):
        for member, params in each_member(run, step):
            sums.add(time, member, probabilities(run.logits_fn, params, run.train.images))
    return sums.mean()


def each_member(run: Run, step: int) -> Iterator[tuple[int, Any]]:
    """Yields (member, params) of a checkpoint, read once."""
    every_member = run.member_params(step)
    for member in range(run.num_members):
        yield member, jax.tree.map(lambda leaf: leaf[member], every_member)  # noqa: B023


def probabilities(
    logits_fn: LogitsFn, params: Any, images: jax.Array, batch_size: int = 2000
) -> np.ndarray:
    """Returns float32 [n classes], the predicted probabilities, `batch_size` images at a time."""
    return np.concatenate(
        [
            np.asarray(_probabilities(logits_fn, params, images[start : start + batch_size]))
            for start in range(0, len(images), batch_size)
        ]
    )


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(logits_fn: LogitsFn, params: Any, images: jax.Array) -> jax.Array:
    return jax.nn.softmax(logits_fn(params, images).astype(jnp.float32))
