"""The audit as one HTML page that needs nothing else: what to look at first, and what to decide."""

import base64
import html
import importlib.resources
import io
import json
import string
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from memjax.auditing.issues import ISSUES
from memjax.reporting.style import drawn, new_figure

MOST_SHOWN = 1000  # suspects in the page; every example is in audit.parquet
_SIDE = 96  # pixels of the longer side of a picture


def render(
    title: str,
    summary: Sequence[str],
    evidence: pd.DataFrame,
    figures: Mapping[str, Figure],
    table: pd.DataFrame,
    issues: pd.DataFrame,
    images: np.ndarray,
    class_names: Sequence[str],
    identity: str,
) -> str:
    """Returns the HTML text.

    Names of files and classes are hostile input: they reach the page as JSON and as escaped text
    only, and the page may load nothing.

    Args:
      title: the heading.
      summary: lines below it.
      evidence: how well each score found planted flips, as `calibrate` gives.
      figures: by what they show.
      table: audit.parquet's columns, a row per training example.
      issues: bool, a column per kind, rows as in `table`.
      images: [n ...], those that can be shown as pictures; features cannot.
      class_names: by class.
      identity: under which the browser keeps decisions.
    """
    has_issue = table["issue"].to_numpy() != ""
    order = np.argsort(np.where(has_issue, 0, len(table)) + table["rank"].to_numpy())[:MOST_SHOWN]
    names, flags = [str(name) for name in issues], issues.to_numpy(bool)[order]
    kinds = [[name for name, flag in zip(names, row, strict=True) if flag] for row in flags]
    rows = [
        _row(table.iloc[place], own, images[place]) for place, own in zip(order, kinds, strict=True)
    ]
    data = {
        "identity": identity,
        "total": len(table),
        "classes": [str(name) for name in class_names],
        "issues": [name for name in ISSUES if issues[name].any()],
        "rows": rows,
    }
    template = string.Template(
        importlib.resources.files("memjax.auditing").joinpath("page.html").read_text()
    )
    return template.substitute(
        title=html.escape(title),
        summary="".join(f"<p>{html.escape(line)}</p>" for line in summary),
        evidence=_evidence(evidence),
        pictures="".join(_picture(figure, words) for words, figure in figures.items()),
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    )


def _row(row: pd.Series, kinds: list[str], image: np.ndarray) -> dict[str, object]:
    return {
        "index": int(row["index"]),
        "id": str(row["example_id"]),
        "label": int(row["label"]),
        "suggested": int(row["suggested_label"]),
        "wrong": round(float(row["probability_wrong"]), 4),
        "rank": int(row["rank"]),
        "why": str(row["why"]),
        "kinds": kinds,
        "image": thumbnail(image),
    }


def thumbnail(image: np.ndarray) -> str:
    """Returns a picture as a data address, '' for what is none.

    Args:
      image: [height width channels], uint8 or float in [0, 1]; 1, 3 or 4 channels.
    """
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4):
        return ""
    if image.dtype != np.uint8:
        image = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _evidence(evidence: pd.DataFrame) -> str:
    best = evidence.head(5)
    combined = evidence[evidence["score"] == "combined"]
    shown = pd.concat([combined, best]).drop_duplicates("score")
    rows = "".join(
        "<tr>"
        f"<td>{html.escape(str(row['score']).replace('_', ' '))}</td><td>{row['auroc']:.3f}</td>"
        f"<td>{row['average_precision']:.3f}</td><td>{row['precision_at_k']:.3f}</td></tr>"
        for row in shown.to_dict("records")
    )
    return (
        "<p>Flips of the same kind and rate were planted in a copy whose labels are what the "
        "networks suggest, and found again. Its unflipped labels are never in doubt, as real ones "
        "can be: on the data themselves expect somewhat less.</p>"
        '<div class="scroll"><table><thead><tr><th>score</th><th>AUROC</th>'
        "<th>average precision</th>"
        f"<th>precision at k</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _picture(figure: Figure, words: str) -> str:
    address = base64.b64encode(drawn(figure, "svg")).decode()
    return f'<img alt="{html.escape(words)}" src="data:image/svg+xml;base64,{address}">'


def draw_confusion(transition: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws P(label | class), without the diagonal.

    Args:
      transition: [classes classes], rows sum to 1.
      class_names: by class; numbers are shown where there are more than 20.
    """
    figure, axes = new_figure(width=4.6, height=4.0)
    ax = axes[0, 0]
    flips = np.where(np.eye(len(transition)) > 0, np.nan, transition)
    picture = ax.imshow(flips, cmap="viridis")
    figure.colorbar(picture, ax=ax, label="share of the class given this label")
    names = [str(name)[:12] for name in class_names] if len(class_names) <= 20 else None
    if names:
        look = {"fontsize": 8, "parse_math": False}  # a $ in a name is a $
        ax.set_xticks(range(len(names)), names, rotation=90, **look)
        ax.set_yticks(range(len(names)), names, **look)
    ax.set(xlabel="label as given", ylabel="class as suggested")
    ax.grid(False)
    return figure


def draw_learning(
    epochs: np.ndarray, label_probability: np.ndarray, is_wrong: np.ndarray
) -> Figure:
    """Draws how suspects and others were learned.

    Args:
      epochs: [times].
      label_probability: [times n], of the label as given, members that trained on it.
      is_wrong: bool [n].
    """
    figure, axes = new_figure(width=4.6, height=4.0)
    ax = axes[0, 0]
    for name, chosen, style in (("suspects", is_wrong, "--"), ("others", ~is_wrong, "-")):
        if chosen.any():
            curves = label_probability[:, chosen]
            low, middle, high = np.quantile(curves, (0.25, 0.5, 0.75), axis=1)
            (line,) = ax.plot(epochs, middle, style, label=f"{name} ({chosen.sum():,})")
            ax.fill_between(epochs, low, high, color=line.get_color(), alpha=0.2)
    ax.set(xlabel="epochs", ylabel="probability of the label as given", ylim=(-0.02, 1.02))
    ax.legend()
    return figure
