"""The learning curves of one run."""

import os
from typing import Any

import numpy as np

from memjax.reporting.style import COLORS, DASHES, new_figure, save

LINES = {
    "train_accuracy": "training",
    "validation_accuracy": "validation (true labels)",
    "clean_accuracy": "training, clean",
    "corrupted_accuracy": "training, corrupted",
}


def draw_curves(rows: list[dict[str, Any]], title: str, path: os.PathLike | str) -> None:
    """Draws accuracy and loss over epochs; for several members, their mean and range.

    Args:
      rows: lines of metrics.jsonl.
      title: stands above.
      path: the PNG file.
    """
    epochs = np.array([row["epoch"] for row in rows])
    figure, axes = new_figure(columns=2)
    accuracy, loss = axes[0]
    for place, (name, words) in enumerate(LINES.items()):
        _draw(accuracy, epochs, rows, name, words, place)
    for place, name in enumerate(("train_loss", "validation_loss")):
        _draw(loss, epochs, rows, name, name.split("_")[0].replace("train", "training"), place)
    accuracy.set(xlabel="epochs", ylabel="accuracy (share right)", ylim=(-0.02, 1.02))
    loss.set(xlabel="epochs", ylabel="mean cross-entropy (nats)", yscale="log")
    for ax in (accuracy, loss):
        ax.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def _draw(ax: Any, epochs: np.ndarray, rows: list[dict], name: str, words: str, place: int):
    values = np.array([row[name] for row in rows], dtype=float).reshape(len(rows), -1)
    if np.isnan(values).all():
        return
    style = {"color": COLORS[place], "linestyle": DASHES[place], "label": words}
    ax.plot(epochs, values.mean(axis=1), linewidth=1.6, **style)
    if values.shape[1] > 1:
        low, high = values.min(axis=1), values.max(axis=1)
        ax.fill_between(epochs, low, high, color=COLORS[place], alpha=0.15, linewidth=0)
