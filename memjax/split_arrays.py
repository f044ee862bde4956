"""The examples of one split, as a network was given them."""

from typing import Any, NamedTuple

import jax
import numpy as np


class SplitArrays(NamedTuple):
    """The examples of one split as the network was given them.

    Attributes:
      images: [n height width channels], float32 in [0, 1] (Gaussian inputs are not clipped).
      labels: int32 [n], the labels trained on.
      true_labels: int32 [n], before corruption; where the source knows better, its true labels.
      is_corrupted: bool [n], by the corruption, or mislabelled in the source.
      source_index: int64 [n], positions in the source's split.
      is_mislabeled: bool [n], the label is not the true label.
      example_ids: str [n], file paths or keys in the source.
    """

    images: jax.Array
    labels: np.ndarray
    true_labels: np.ndarray
    is_corrupted: np.ndarray
    source_index: np.ndarray
    is_mislabeled: np.ndarray
    example_ids: np.ndarray

    def at(self, rows: Any) -> "SplitArrays":
        """Returns the chosen rows: a slice, a mask, or positions."""
        return SplitArrays(*(values[rows] for values in self))  # type: ignore[arg-type]

    def columns(self) -> dict[str, np.ndarray]:
        """Returns what every table says of an example, column -> [n]."""
        return {
            "index": self.source_index,
            "example_id": self.example_ids,
            "label": self.labels,
            "true_label": self.true_labels,
            "is_corrupted": self.is_corrupted,
            "is_mislabeled": self.is_mislabeled,
        }
