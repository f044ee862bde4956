"""What a run says of its data before it starts: shapes, ranges, classes, and what was done."""

from typing import Any

import numpy as np

from memjax.data.dataset import Dataset
from memjax.data.examples import Examples


def describe_data(dataset: Dataset, examples: Examples) -> list[str]:
    """Returns lines that show at a glance whether the data were read as they are meant.

    Args:
      dataset: as loaded.
      examples: its training examples as corrupted.

    Returns:
      The images' shape, type and range and the classes' sizes; then a line for each note.

    Example:
      >>> from memjax import config
      >>> from memjax.data.examples import corrupt_examples
      >>> from memjax.data.sources import load_dataset
      >>> digits = load_dataset(config.Dataset())
      >>> print(*describe_data(digits, corrupt_examples(config.Corruption(), digits)))
      data: 8 x 8 pixels, 1 channel, float32 in [0, 1] | classes of 139 (8) to 147 (3) examples
    """
    images = dataset.train.images
    low, high = _bounds(images)
    kept = f"{images.dtype} in [{low:.4g}, {high:.4g}]"
    if images.ndim == 2:
        units = ", standardised" if dataset.feature_moments else ""
        shape = f"{images.shape[1]} features, {kept}{units}"
    else:
        height, width, channels = images.shape[1:]
        plural = "" if channels == 1 else "s"
        shape = f"{height} x {width} pixels, {channels} channel{plural}, {kept}"
    line = f"data: {shape} | {_class_sizes(dataset)}"
    num_wrong = int((dataset.train.labels != dataset.train.true_labels).sum())
    if num_wrong:
        share = num_wrong / len(dataset.train)
        line += f" | {num_wrong:,} labels ({share:.1%}) are known to be wrong"
    lost = dataset.num_classes - len(np.unique(examples.true_labels))
    notes = [f"warning: {lost} classes have no example left"] if lost else []
    return [line, *(f"data: {note}" for note in (*dataset.notes, *notes))]


def derived_data(dataset: Dataset) -> dict[str, Any]:
    """Returns what config.json keeps of the data: class names, and the moments of features."""
    found: dict[str, Any] = {"class_names": list(dataset.class_names)}
    if dataset.feature_moments:
        mean, std = dataset.feature_moments
        found |= {"feature_mean": mean.tolist(), "feature_std": std.tolist()}
    return found


def _bounds(images: np.ndarray) -> tuple[float, float]:
    return float(images.min()), float(images.max())


def _class_sizes(dataset: Dataset) -> str:
    counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
    small, large = int(counts.argmin()), int(counts.argmax())
    if counts[small] == counts[large]:
        return f"classes of {counts[small]:,} examples each"
    names = dataset.class_names
    return (
        f"classes of {counts[small]:,} ({names[small]}) to {counts[large]:,} ({names[large]}) "
        "examples"
    )
