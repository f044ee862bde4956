"""What tells a wrong label: margins of averaged probabilities, at several times of training.

A network that has not yet learned an example by heart disagrees with its wrong label, and one that
never saw the example disagrees at any time. Averaging probabilities over networks before taking the
margin beats every score of single networks (benchmarks/audit.py).
"""

import numpy as np
import pandas as pd

from memjax.auditing.evidence import Evidence

_WINDOWS = 6  # of the time that an example was trained on
_SMALLEST = 1e-3  # probabilities below it are alike to a logarithm


def label_margin(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the probability of the label minus the largest other one.

    Args:
      probabilities: [n classes].
      labels: int [n].

    Returns:
      [n], in [-1, 1]; negative where another class is likelier.

    Example:
      >>> label_margin(np.array([[0.75, 0.25], [0.75, 0.25]]), np.array([0, 1])).tolist()
      [0.5, -0.5]
    """
    own, others = _own_and_others(probabilities, labels)
    return own - others.max(axis=1)


def log_margin(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the logarithm of the label's probability over the largest other one, both + .001."""
    own, others = _own_and_others(probabilities, labels)
    return np.log(own + _SMALLEST) - np.log(others.max(axis=1) + _SMALLEST)


def overall(evidence: Evidence) -> np.ndarray:
    """Returns [n classes]: probabilities in and out of sample alike, averaged over training."""
    return (evidence.inside.mean(axis=0) + evidence.outside.mean(axis=0)) / 2


def suggest(evidence: Evidence, labels: np.ndarray) -> np.ndarray:
    """Returns int [n]: the likeliest class other than the label."""
    _, others = _own_and_others(overall(evidence), labels)
    return others.argmax(axis=1)


def features(evidence: Evidence, labels: np.ndarray, class_prior: np.ndarray) -> pd.DataFrame:
    """Returns the scores of every label, a column each; high is right.

    Args:
      evidence: of the ensemble that was trained on these labels.
      labels: int [n].
      class_prior: [classes classes], P(label | class), as `memjax.auditing.noise.transition` gives.

    Returns:
      [n scores], finite.
    """
    columns: dict[str, np.ndarray] = {}
    for first, last in _windows(len(evidence.epochs)):
        name = f"inside_{evidence.epochs[first]:g}_to_{evidence.epochs[last - 1]:g}"
        columns |= _margins(name, evidence.inside[first:last].mean(axis=0), labels)
    times = len(evidence.epochs)
    quarter = max(1, times // 4)
    columns |= _margins("inside", evidence.inside.mean(axis=0), labels)
    columns |= _margins("outside", evidence.outside.mean(axis=0), labels)
    columns |= _margins("outside_early", evidence.outside[:quarter].mean(axis=0), labels)
    columns |= _margins("outside_late", evidence.outside[-quarter:].mean(axis=0), labels)
    columns |= _margins("overall", overall(evidence), labels)
    likely = suggest(evidence, labels)
    # How often this label is given to examples of the class that is suggested.
    columns["confusion"] = -np.log(class_prior[likely, labels])
    return pd.DataFrame(columns)


def _margins(name: str, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {
        f"{name}_margin": label_margin(probabilities, labels),
        f"{name}_log_margin": log_margin(probabilities, labels),
    }


def _windows(times: int) -> list[tuple[int, int]]:
    """Returns (first, last) of windows that double in length: most happens early.

    Example:
      >>> _windows(8)
      [(0, 1), (1, 2), (2, 3), (3, 5), (5, 8)]
    """
    cuts = np.unique(np.round(np.geomspace(1, times, _WINDOWS)).astype(int))
    return list(zip([0, *cuts[:-1].tolist()], cuts.tolist(), strict=True))


def _own_and_others(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(labels))
    others = probabilities.copy()
    others[rows, labels] = -1.0
    return probabilities[rows, labels], others
