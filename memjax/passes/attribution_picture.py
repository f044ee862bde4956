"""The picture of the pass `attribution`: queries, and what helped and harmed them."""

from typing import Any

import numpy as np
import pandas as pd
from etils import epath

from memjax.passes.base import Context, save_figure

_QUERIES, _EXAMPLES = 6, 5


def draw(context: Context, table: pd.DataFrame) -> epath.Path:
    """Draws figures/attribution.png: a query a row, its most helpful and most harmful examples.

    Args:
      context: of the run.
      table: of the pass `attribution`.

    Returns:
      The path.
    """
    return save_figure(context, draw_attribution(context.run, table), "attribution")


def draw_attribution(run: Any, table: pd.DataFrame, num_queries: int = _QUERIES) -> Any:
    """Returns the figure of the first queries in the table, of its first member."""
    from memjax.reporting.style import new_figure

    table = table[table["member"] == table["member"].iloc[0]]
    queries = table["query"].unique()[:num_queries]
    count = min(_EXAMPLES, table["rank"].max() + 1)
    figure, axes = new_figure(2 * count + 1, len(queries), width=1.05, height=1.35)
    images = {"train": _images(run.train), "validation": _images(run.validation)}
    names, true_names = (
        [_short(name) for name in each] for each in (run.class_names, run.setup.dataset.class_names)
    )
    for row, query in zip(axes, queries, strict=True):
        of_query = table[table["query"] == query].sort_values("rank")
        first = of_query.iloc[0]
        said = names[first.query_prediction]
        title = f"query {query}\nis {true_names[first.query_label]}, said {said}"
        _show(row[0], images["validation"][query], title, "black")
        chosen = [(example, "#0072B2") for example in of_query[:count].itertuples()]
        chosen += [(example, "#D55E00") for example in of_query[::-1][:count].itertuples()]
        for ax, (example, color) in zip(row[1:], chosen, strict=True):
            label = names[example.label]
            if example.label != example.true_label:
                label += f" (truly {true_names[example.true_label]})"
            _show(
                ax, images["train"][example.train_index],
                f"{label}\n{example.attribution:+.1e}", color,
            )  # fmt: skip
    figure.suptitle(
        f"helpful training examples (blue) and harmful ones (orange), with the labels trained on; "
        f"attribution: {table['trust'].iloc[0]}, LDS {table['lds'].iloc[0]:.2f}",
        fontsize=8,
    )
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 12 else f"{name[:11]}…"


def _images(arrays: Any) -> dict[int, np.ndarray]:
    return dict(zip(arrays.source_index.tolist(), np.asarray(arrays.images), strict=True))


def _show(ax: Any, image: np.ndarray, title: str, color: str) -> None:
    image = np.clip(image, 0, 1)
    shown = image[..., 0] if image.shape[-1] == 1 else image
    ax.imshow(shown, cmap="gray_r", vmin=0, vmax=1)
    ax.set_title(title, fontsize=6, color=color, parse_math=False)  # a $ in a name is a $
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
