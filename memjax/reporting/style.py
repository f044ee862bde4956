"""One style for every figure: colour-blind safe, readable in grey, no display needed."""

import io
from typing import Any

import matplotlib
from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's colours, ordered so that neighbours differ in grey as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))
DOTS_PER_INCH = 150
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def series_style(place: int) -> dict[str, Any]:
    """Returns the colour, dashes and marker of the series at a place in the legend."""
    place %= len(COLORS)
    return {"color": COLORS[place], "linestyle": DASHES[place], "marker": MARKERS[place]}


def level_style(place: int, num_levels: int) -> dict[str, Any]:
    """Returns the look of one of several ordered levels: the higher the level, the lighter."""
    share = place / max(1, num_levels - 1)
    color = matplotlib.colormaps["cividis"](0.78 * share)
    return series_style(place) | {"color": matplotlib.colors.to_hex(color)}


def share_style(share: float) -> dict[str, Any]:
    """Returns the look of a noise level, the same in every figure: the higher, the lighter."""
    place = round(5 * share) % len(MARKERS)
    color = matplotlib.colormaps["cividis"](0.78 * share)
    look = {"color": matplotlib.colors.to_hex(color), "marker": MARKERS[place]}
    return look | {"linestyle": DASHES[place]}


def new_figure(columns: int = 1, rows: int = 1, width: float = 5.0, height: float = 3.6):
    """Returns a figure and its axes [rows columns]; no global pyplot state."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.grid(True, color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, path: epath.PathLike, kind: str = "png") -> None:
    """Writes a figure; the same numbers give the same file."""
    with epath.Path(path).open("wb") as file:
        file.write(drawn(figure, kind))


def drawn(figure: Figure, kind: str = "png") -> bytes:
    """Returns a figure as a file's content; the same numbers give the same bytes.

    Args:
      figure: from `new_figure`.
      kind: 'png' or 'svg'.
    """
    metadata = {"Software": None} if kind == "png" else {"Date": None}
    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "memjax"}):
        figure.savefig(
            content,
            format=kind,
            dpi=DOTS_PER_INCH,
            metadata=metadata,
            bbox_inches="tight",
            pad_inches=0.06,
        )
    if kind != "png":
        return content.getvalue()
    # Enough for lines and grey pictures, in a third of the bytes.
    small = io.BytesIO()
    Image.open(content).convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return small.getvalue()
