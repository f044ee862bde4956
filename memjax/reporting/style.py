"""One style for every figure: colour-blind safe, readable in grey, no display needed."""

import os
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours, ordered so that neighbours differ in grey as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


def new_figure(columns: int = 1, rows: int = 1, width: float = 5.0, height: float = 3.6):
    """Returns a figure and its axes [rows columns]; no global pyplot state."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.grid(True, color="0.9", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, path: os.PathLike | str, kind: str = "png") -> None:
    """Writes a figure; the same numbers give the same file."""
    metadata = {"Software": None} if kind == "png" else {"Date": None}
    figure.savefig(os.fspath(path), format=kind, dpi=150, metadata=metadata)
