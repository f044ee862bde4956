"""A comparison of scores as files: a table, two lists, and one picture."""

import functools
import os
from typing import NamedTuple

import numpy as np
import pandas as pd
from etils import epath
from matplotlib.figure import Figure

from memjax.comparing.agreement import agreement, detection, reachable
from memjax.comparing.scores import (
    EXAMPLE_COLUMNS,
    SCORES,
    STANDARD_ERROR,
    collect_scores,
    oriented,
    read_scores,
    score_names,
)
from memjax.data.duplicates import find_duplicates
from memjax.errors import InputError
from memjax.loading import Run
from memjax.reporting.style import new_figure, save
from memjax.runtime.tables import write_table
from memjax.runtime.workdir import write_atomically

SHOWN = "spearman"


class Comparison(NamedTuple):
    """What is known of a run's scores.

    Attributes:
      table: a row per training example.
      pairs: of `agreement`.
      found: of `detection`; empty if no example is known to be wrong.
      alike: of `detection`, how well the smallest values find the examples that are there more than
        once; empty if none is, None if nobody asked.
      cap: Pearson correlation that is reachable with the memorization score; nan without it.
    """

    table: pd.DataFrame
    pairs: pd.DataFrame
    found: pd.DataFrame
    cap: float
    alike: pd.DataFrame | None = None


def compare(
    run: Run, imported: str | os.PathLike = "", with_duplicates: bool = False
) -> Comparison:
    """Compares all scores of single training examples that a run has.

    Args:
      run: from `load_run`.
      imported: a .npz file of more scores, see `read_scores`; '' for none.
      with_duplicates: whether to look for examples that are there more than once, which takes the
        data set, and every pair of it.

    Raises:
      InputError: fewer than two scores, or the file is not right.
    """
    more = read_scores(imported) if imported else None
    table = collect_scores(run)
    if more is not None:
        unknown = set(more.index) - set(table["index"])
        if unknown:
            raise InputError(
                f"--import={imported}: index {min(unknown)} is no training example of {run.workdir}"
            )
        table = table.join(more.astype(float), on="index")
    scores = oriented(table)
    is_wrong = table["is_mislabeled"] if table["is_mislabeled"].any() else table["is_corrupted"]
    cap = np.nan
    if STANDARD_ERROR in table:
        cap = reachable(table["memorization"], table[STANDARD_ERROR])
    found, alike = detection(scores, is_wrong.to_numpy()), None
    if with_duplicates:
        near = find_duplicates(np.asarray(run.train.images)).near
        is_alike = pd.Series(near >= 0, run.train.source_index)
        # A copy is an example that others teach as well: it is easy, and needs not be memorized.
        alike = detection(-scores, table["index"].map(is_alike).to_numpy(bool))
    return Comparison(table, agreement(scores), found, cap, alike)


def write_comparison(found: Comparison, folder: epath.PathLike) -> None:
    """Writes scores.parquet, agreement.csv, detection.csv, duplicates.csv and compare.png."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    meanings = EXAMPLE_COLUMNS | {name: score.words for name, score in SCORES.items()}
    meanings[STANDARD_ERROR] = "of the memorization, over the members"
    columns = {name: meanings.get(name, "imported") for name in map(str, found.table)}
    write_table(folder / "scores.parquet", found.table, columns)
    lists = {"agreement": found.pairs, "detection": found.found, "duplicates": found.alike}
    for name, rows in lists.items():
        if rows is not None:
            write_atomically(folder / f"{name}.csv", functools.partial(_write_csv, rows))
    figure = draw(found)
    write_atomically(folder / "compare.png", lambda path: save(figure, path))


def _write_csv(rows: pd.DataFrame, path: epath.PathLike) -> None:
    epath.Path(path).write_text(rows.to_csv(index=False))


def draw(found: Comparison) -> Figure:
    """Draws the rank correlations, and what each score finds."""
    names = score_names(found.table)
    matrix = pd.DataFrame(np.eye(len(names)), names, names)
    for row in found.pairs.to_dict("records"):
        matrix.loc[row["first"], row["second"]] = row[SHOWN]
        matrix.loc[row["second"], row["first"]] = row[SHOWN]
    figure, axes = new_figure(1 if found.found.empty else 2, width=6.5, height=5.5)
    ax = axes[0, 0]
    ax.grid(False)
    image = ax.imshow(matrix, vmin=-1, vmax=1, cmap="PuOr")
    words = [name.replace("_", " ") for name in names]
    ax.set_xticks(range(len(names)), words, rotation=90, fontsize=8)
    ax.set_yticks(range(len(names)), words, fontsize=8)
    for (i, j), value in np.ndenumerate(matrix.to_numpy()):
        color = "white" if abs(value) > 0.6 else "black"
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=color)
    ax.set_title("Spearman rank correlation of the scores")
    figure.colorbar(image, ax=ax, shrink=0.8)
    if not found.found.empty:
        ax, rows = axes[0, 1], found.found.iloc[::-1]
        ax.barh(rows["score"].str.replace("_", " "), rows["average_precision"], color="#0072B2")
        ax.set(xlim=(0, 1), xlabel="average precision", title="finding the examples that are wrong")
        ax.tick_params(axis="y", labelsize=8)
    return figure


def describe(found: Comparison) -> list[str]:
    """Returns what is printed."""
    names = score_names(found.table)
    lines = [f"{len(found.table):,} training examples, {len(names)} scores"]
    target = "memorization" if "memorization" in names else "cumulative_loss"
    if target in names:
        cap = f" (at most {found.cap:.2f} is reachable: its own standard error)"
        lines.append(f"with {target}{cap if target == 'memorization' else ''}:")
        lines.append(
            f"  {'score':<18} {'pearson':>22} {'spearman':>22} {'cosine':>8}  beside training"
        )
        of_target = found.pairs[(found.pairs[["first", "second"]] == target).any(axis=1)]
        for row in of_target.sort_values("pearson", ascending=False).to_dict("records"):
            other = row["second"] if row["first"] == target else row["first"]
            cost = SCORES[other].cost if other in SCORES else "imported"
            cells = [f"{row[m]:.2f} [{row[f'{m}_low']:.2f}, {row[f'{m}_high']:.2f}]"
                     for m in ("pearson", "spearman")]  # fmt: skip
            lines.append(
                f"  {other:<18} {cells[0]:>22} {cells[1]:>22} {row['cosine']:>8.2f}  {cost}"
            )
    lines += _finding("the examples that are wrong", found.found)
    if found.alike is not None and found.alike.empty:
        lines.append("no training example is there more than once")
    elif found.alike is not None:
        lines += _finding("the examples that are there more than once, easiest first", found.alike)
    return lines


def _finding(what: str, rows: pd.DataFrame) -> list[str]:
    if rows.empty:
        return []
    return [
        f"finding {what}:",
        f"  {'score':<18} {'AUROC':>6} {'AP':>6} {'precision at k':>15}",
        *(
            f"  {row['score']:<18} {row['auroc']:>6.3f} {row['average_precision']:>6.3f} "
            f"{row['precision_at_k']:>15.3f}"
            for row in rows.to_dict("records")
        ),
    ]
