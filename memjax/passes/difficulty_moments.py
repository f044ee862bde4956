"""What the pass `difficulty` keeps of all times: running moments, never a time for each example."""

import dataclasses
import io
import json
from typing import Any

import numpy as np
from etils import epath

from memjax.runtime.workdir import write_atomically


@dataclasses.dataclass
class Moments:
    """Of every member and example, over the times seen so far; arrays [members n].

    Means and sums of squared deviations are updated as of Welford 1962, which does not cancel.

    Attributes:
      count: int32, times seen.
      loss: mean cross-entropy.
      loss_squares: sum of squared deviations from it.
      probability: mean probability of the label.
      probability_squares: sum of squared deviations from it.
      margin: mean margin.
      first: epoch at which it was first right; -1: not yet.
      for_good: epoch since which it has been right; -1: it is wrong now.
      events: times it went from right to wrong.
      prediction: the last one.
    """

    count: np.ndarray
    loss: np.ndarray
    loss_squares: np.ndarray
    probability: np.ndarray
    probability_squares: np.ndarray
    margin: np.ndarray
    first: np.ndarray
    for_good: np.ndarray
    events: np.ndarray
    prediction: np.ndarray

    @classmethod
    def empty(cls, num_members: int, num_examples: int) -> "Moments":
        """Returns those of no times."""
        shape = num_members, num_examples
        means = [np.zeros(shape) for _ in range(5)]
        epochs = [np.full(shape, -1, np.float32) for _ in range(2)]
        counts = [np.zeros(shape, np.int32) for _ in range(2)]
        return cls(np.zeros(shape, np.int32), *means, *epochs, *counts)

    def add(
        self,
        member: int,
        epoch: float,
        losses: np.ndarray,
        margins: np.ndarray,
        predictions: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        """Takes in one member's examples at one time, later than those before.

        Args:
          member: its row.
          epoch: the time.
          losses: [n], softmax cross-entropy in nats.
          margins: [n].
          predictions: [n].
          labels: [n].
        """
        self.count[member] += 1
        count = self.count[member]
        _add(self.loss[member], self.loss_squares[member], losses, count)
        _add(self.probability[member], self.probability_squares[member], np.exp(-losses), count)
        self.margin[member] += (margins - self.margin[member]) / count
        correct, good = predictions == labels, self.for_good[member]
        self.events[member] += (good >= 0) & ~correct
        good[:] = np.where(correct, np.where(good >= 0, good, epoch), -1)
        first = self.first[member]
        first[:] = np.where((first < 0) & correct, epoch, first)
        self.prediction[member] = predictions

    def at(self, rows: slice) -> "Moments":
        """Returns those of some of the examples."""
        return Moments(*(getattr(self, each.name)[:, rows] for each in dataclasses.fields(self)))

    def save(self, path: epath.Path, told: dict[str, Any]) -> None:
        """Writes them, and JSON values that say of what they are."""
        buffer = io.BytesIO()
        np.savez(buffer, told=np.array(json.dumps(told)), **dataclasses.asdict(self))
        write_atomically(path, lambda name: epath.Path(name).write_bytes(buffer.getvalue()))

    @classmethod
    def load(cls, path: epath.Path) -> tuple["Moments", dict[str, Any]]:
        """Reads what `save` wrote."""
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            told = json.loads(str(found["told"]))
            return cls(**{field.name: found[field.name] for field in dataclasses.fields(cls)}), told


def _add(mean: np.ndarray, squares: np.ndarray, values: np.ndarray, count: np.ndarray) -> None:
    before = values - mean
    mean += before / count
    squares += before * (values - mean)
