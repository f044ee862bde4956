"""What is the matter with an example, and why, in one line."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from memjax.auditing.evidence import Evidence
from memjax.auditing.scores import overall, suggest
from memjax.data.duplicates import Duplicates

# By urgency: an example's `issue` is the first that it has.
ISSUES = {
    "wrong label": "another class is likelier than the label",
    "conflicting duplicate": "the same or nearly the same example has another label",
    "leakage": "the same or nearly the same example is in the validation set",
    "blank": "hardly any pixel differs from the others",
    "odd size": "shape or area as stored is unlike those of the other images",
    "ambiguous": "two classes are about as likely",
    "outlier": "no class is likely, and nothing is near",
    "duplicate": "the same or nearly the same example is there again, with the same label",
    "memorized": "right, but only networks that were trained on it say so: a rare kind, keep it",
    "rare class": "far fewer examples than other classes have",
}
_LIKELY_WRONG = 0.5
_SECOND = 0.3  # probability of the second of two classes that are about as likely
_UNLIKELY = 0.5  # no class is likely, out of sample
_FAR = 3.0  # times the usual distance to the nearest neighbour
_MEMORIZED = 0.5  # difference of the label's probability in and out of sample
_RARE = 0.2  # of the median class
_BLANK = 0.01  # standard deviation of the pixels, over that of the data


def find_issues(
    evidence: Evidence,
    labels: np.ndarray,
    probability_wrong: np.ndarray,
    images: np.ndarray,
    duplicates: Duplicates,
    other_labels: np.ndarray,
    is_odd_sized: np.ndarray | None = None,
) -> pd.DataFrame:
    """Returns a bool column for every kind of issue, a row per training example.

    Args:
      evidence: of the ensemble that was trained on the labels.
      labels: int [n].
      probability_wrong: [n].
      images: [n ...].
      duplicates: of the training examples and after them the validation examples.
      other_labels: int [m], of the validation examples.
      is_odd_sized: bool [n]; None: none is.
    """
    n, rows = len(labels), np.arange(len(labels))
    outside = evidence.outside.mean(axis=0)
    ordered = np.sort(overall(evidence), axis=1)
    every_label = np.concatenate([labels, other_labels])
    near = duplicates.near[:n]
    is_near = near >= 0
    in_sample, out_of_sample = (
        evidence.inside[-1][rows, labels],
        evidence.outside[-1][rows, labels],
    )
    is_wrong = probability_wrong > _LIKELY_WRONG
    counts = np.bincount(labels)
    spread = images.reshape(n, -1).std(axis=1)
    partner = every_label[np.maximum(near, 0)]
    conflicts, leaks, repeats = (
        found[:n] for found in among_identical(duplicates.exact, every_label, n)
    )
    return pd.DataFrame(
        {
            "wrong label": is_wrong,
            "conflicting duplicate": conflicts | (is_near & (partner != labels)),
            "leakage": leaks | (is_near & (near >= n)),
            "blank": spread < _BLANK * images.std(),
            "odd size": np.zeros(n, bool) if is_odd_sized is None else is_odd_sized,
            "ambiguous": ~is_wrong & (ordered[:, -2] > _SECOND),
            "outlier": (outside.max(axis=1) < _UNLIKELY) & (duplicates.distance[:n] > _FAR),
            "duplicate": repeats | (is_near & (near < n) & (partner == labels)),
            "memorized": ~is_wrong & (in_sample - out_of_sample > _MEMORIZED),
            "rare class": counts[labels] < _RARE * np.median(counts[counts > 0]),
        }
    )[list(ISSUES)]


def among_identical(
    group: np.ndarray, labels: np.ndarray, num_train: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what each example's identical ones have, however many they are.

    Args:
      group: int [m], as `Duplicates.exact`.
      labels: int [m].
      num_train: the first so many are training examples, the others validation examples.

    Returns:
      Three bool [m]: another label, a validation example, a training example with the same label.
    """
    is_validation = np.arange(len(group)) >= num_train
    frame = pd.DataFrame({"group": group, "label": labels, "held": is_validation})
    is_there, in_group = group >= 0, frame.groupby("group")
    same_label = (~frame["held"]).groupby([frame["group"], frame["label"]]).transform("sum")
    return (
        is_there & (in_group["label"].transform("nunique") > 1).to_numpy(),
        is_there & in_group["held"].transform("any").to_numpy(),
        is_there & (same_label - ~is_validation > 0).to_numpy(),
    )


def main_issue(issues: pd.DataFrame) -> np.ndarray:
    """Returns the most urgent issue of every example, '' where there is none.

    Args:
      issues: as `find_issues` gives.
    """
    names = np.array([*issues.columns, ""], dtype=object)
    flags = np.column_stack([issues.to_numpy(bool), np.ones(len(issues), bool)])
    return names[flags.argmax(axis=1)]


def reasons(
    issue: np.ndarray,
    evidence: Evidence,
    labels: np.ndarray,
    probability_wrong: np.ndarray,
    class_names: Sequence[str],
) -> list[str]:
    """Returns one line on every example that has an issue, '' for the others."""
    likely, mean = suggest(evidence, labels), overall(evidence)
    lines = []
    for row, kind in enumerate(issue):
        if not kind:
            lines.append("")
            continue
        label, other = labels[row], likely[row]
        if kind == "wrong label":
            detail = (
                f"networks say {class_names[other]} ({mean[row, other]:.0%}) rather than "
                f"{class_names[label]} ({mean[row, label]:.0%}); wrong with probability "
                f"{probability_wrong[row]:.0%}"
            )
        elif kind == "ambiguous":
            second, first = np.argsort(mean[row], kind="stable")[-2:]
            detail = (
                f"networks waver between {class_names[first]} ({mean[row, first]:.0%}) and "
                f"{class_names[second]} ({mean[row, second]:.0%}); wrong with probability "
                f"{probability_wrong[row]:.0%}"
            )
        elif kind == "memorized":
            detail = (
                f"{class_names[label]} has {evidence.inside[-1, row, label]:.0%} where trained on, "
                f"{evidence.outside[-1, row, label]:.0%} where not"
            )
        else:
            detail = ISSUES[kind]
        lines.append(f"{kind}: {detail}" if detail != ISSUES[kind] else detail)
    return lines
