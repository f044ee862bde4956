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
OF_WRONG_LABELS = {
    "mislabeled_as_label": "as the label trained on",
    "mislabeled_as_true": "as the true class",
    "mislabeled_as_other": "as another class",
}


def draw_curves(rows: list[dict[str, Any]], title: str, path: os.PathLike | str) -> None:
    """Draws accuracy and loss over epochs; for several members, their mean and range.

    Where some labels are wrong, a third panel has what those examples are taken for.

    Args:
      rows: lines of metrics.jsonl.
      title: stands above.
      path: the PNG file.
    """
    epochs = np.array([row["epoch"] for row in rows])
    has_wrong = any(_has(row.get("mislabeled_as_label")) for row in rows)
    figure, axes = new_figure(columns=2 + has_wrong)
    accuracy, loss, *of_wrong = axes[0]
    for place, (name, words) in enumerate(LINES.items()):
        _draw(accuracy, epochs, rows, name, words, place)
    for place, name in enumerate(("train_loss", "validation_loss")):
        _draw(loss, epochs, rows, name, name.split("_")[0].replace("train", "training"), place)
    accuracy.set(xlabel="epochs", ylabel="accuracy (share right)", ylim=(-0.02, 1.02))
    loss.set(xlabel="epochs", ylabel="mean cross-entropy (nats)", yscale="log")
    for ax in of_wrong:
        for place, (name, words) in enumerate(OF_WRONG_LABELS.items()):
            _draw(ax, epochs, rows, name, words, place)
        ax.set(xlabel="epochs", ylabel="share of the wrong labels", ylim=(-0.02, 1.02))
    for ax in axes[0]:
        ax.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def _has(value: Any) -> bool:
    return any(v is not None for v in np.atleast_1d(np.asarray(value, object)).tolist())


def _draw(ax: Any, epochs: np.ndarray, rows: list[dict], name: str, words: str, place: int):
    values = np.array([row[name] for row in rows], dtype=float).reshape(len(rows), -1)
    if np.isnan(values).all():
        return
    is_known = ~np.isnan(values)
    is_known, epochs = is_known.any(axis=1), epochs[is_known.any(axis=1)]
    values = values[is_known]
    style = {"color": COLORS[place], "linestyle": DASHES[place], "label": words}
    ax.plot(epochs, np.nanmean(values, axis=1), linewidth=1.6, **style)
    if values.shape[1] > 1:
        low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
        ax.fill_between(epochs, low, high, color=COLORS[place], alpha=0.15, linewidth=0)
