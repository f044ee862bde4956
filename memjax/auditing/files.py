"""What an audit leaves for people and for other tools."""

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
from etils import epath

from memjax.runtime.tables import write_table
from memjax.runtime.workdir import write_atomically

BROKEN = "broken file"
COLUMNS = {
    "index": "position in the source's training split",
    "label": "the label as given",
    "suggested_label": "the likeliest other class",
    "suggested_probability": "what the networks, or your probabilities, give that class",
    "probability_wrong": "that the label as given is wrong, calibrated on planted flips",
    "rank": "1 for the label to look at first",
    "issue": "the most urgent kind of trouble; '' for none",
    "why": "in words",
    "example_id": "file path or key in the source",
    "label_name": "name of the class given",
    "suggested_name": "name of the class suggested",
}


def make_table(
    index: np.ndarray,
    example_ids: np.ndarray,
    labels: np.ndarray,
    suggested: np.ndarray,
    suggested_probability: np.ndarray,
    probability_wrong: np.ndarray,
    issue: np.ndarray,
    why: Sequence[str],
    class_names: Sequence[str],
    scores: pd.DataFrame,
) -> pd.DataFrame:
    """Returns audit.parquet: COLUMNS, then the scores; a row per training example, in order."""
    names = np.array([str(name) for name in class_names], dtype=object)
    rank = np.empty(len(labels), int)
    rank[np.argsort(-probability_wrong, kind="stable")] = np.arange(1, len(labels) + 1)
    table = pd.DataFrame(
        {
            "index": index,
            "label": labels,
            "suggested_label": suggested,
            "suggested_probability": suggested_probability,
            "probability_wrong": probability_wrong,
            "rank": rank,
            "issue": issue,
            "why": list(why),
            "example_id": [str(name) for name in example_ids],
            "label_name": names[labels],
            "suggested_name": names[suggested],
        }
    )
    return pd.concat([table, scores.reset_index(drop=True)], axis=1)


def write_audit(path: epath.PathLike, table: pd.DataFrame) -> None:
    """Writes audit.parquet; its schema says what the columns mean."""
    words = {str(name): "a score; high is right" for name in table if name not in COLUMNS}
    write_table(path, table, COLUMNS | words)


def write_issues(
    path: epath.PathLike,
    table: pd.DataFrame,
    issues: pd.DataFrame,
    broken: Sequence[tuple[str, str]] = (),
) -> None:
    """Writes issues.csv: every example that has an issue, the most suspect first.

    Args:
      path: of the file.
      table: audit.parquet's columns, a row per training example.
      issues: bool, a column per kind, rows as in `table`; `also`: all but the main one.
      broken: (example id, reason) of files that could not be read; they stand last, with
        index -1, since no network has seen them.
    """
    chosen = table[table["issue"] != ""].sort_values("rank")
    names = ["rank", "index", "example_id", "label_name", "suggested_name"]
    shares = ["suggested_probability", "probability_wrong"]
    chosen = chosen[[*names, *shares, "issue", "why"]].round(dict.fromkeys(shares, 4))
    flags = issues.to_numpy(bool)[chosen.index.to_numpy()]
    chosen["also"] = [
        "; ".join(
            str(kind) for kind, flag in zip(issues, row, strict=True) if flag and kind != main
        )
        for row, main in zip(flags, chosen["issue"], strict=True)
    ]
    unread = pd.DataFrame(
        [
            (rank, -1, name, "", "", np.nan, np.nan, BROKEN, reason, "")
            for rank, (name, reason) in enumerate(broken, start=len(table) + 1)
        ],
        columns=chosen.columns,
    )
    if len(unread):
        chosen = pd.concat([chosen, unread], ignore_index=True)
    write_csv(path, chosen)


def export_cleanlab(path: epath.PathLike, table: pd.DataFrame) -> None:
    """Writes cleanlab's columns: is_label_issue, label_quality, given_label, predicted_label."""
    wrong = table["issue"] == "wrong label"
    frame = pd.DataFrame(
        {
            "is_label_issue": wrong,
            "label_quality": 1 - table["probability_wrong"],
            "given_label": table["label"],
            "predicted_label": np.where(wrong, table["suggested_label"], table["label"]),
        }
    )
    write_csv(path, frame)


def export_aum(path: epath.PathLike, table: pd.DataFrame) -> None:
    """Writes the columns of the package aum: sample_id, aum (here of averaged probabilities)."""
    frame = pd.DataFrame({"sample_id": table["example_id"], "aum": table["inside_margin"]})
    write_csv(path, frame.sort_values("aum", ascending=False))


def export_json(path: epath.PathLike, table: pd.DataFrame, class_names: Sequence[str]) -> None:
    """Writes ids as FiftyOne and COCO read them: images, categories, annotations."""
    columns = ["index", "label", "suggested_label", "probability_wrong", "issue"]
    annotations = [
        {
            "id": int(row["index"]),
            "image_id": int(row["index"]),
            "category_id": int(row["label"]),
            "suggested_category_id": int(row["suggested_label"]),
            "mistakenness": round(float(row["probability_wrong"]), 6),
            "issue": row["issue"],
        }
        for row in table[columns].to_dict("records")
    ]
    images = [
        {"id": int(index), "file_name": name}
        for index, name in zip(table["index"], table["example_id"], strict=True)
    ]
    categories = [{"id": number, "name": str(name)} for number, name in enumerate(class_names)]
    document = {"images": images, "categories": categories, "annotations": annotations}
    text = json.dumps(document) + "\n"
    write_atomically(path, lambda name: epath.Path(name).write_text(text))


def safe_cell(text: str) -> str:
    """Returns a text that no spreadsheet takes for a formula.

    Example:
      >>> safe_cell("=SUM(A1)"), safe_cell("cat.png")
      ("'=SUM(A1)", 'cat.png')
    """
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def write_csv(path: epath.PathLike, frame: pd.DataFrame) -> None:
    """Writes a table of which no cell is a formula."""
    safe = frame.copy()
    for name in safe:
        if safe[name].dtype == object or isinstance(safe[name].dtype, pd.StringDtype):
            safe[name] = safe[name].map(lambda value: safe_cell(str(value)))
    text = safe.to_csv(index=False, lineterminator="\n")
    write_atomically(path, lambda name: epath.Path(name).write_text(text))
