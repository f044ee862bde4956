"""How well scores tell members from others: the area under the ROC curve, and its left end."""

from typing import Any

import numpy as np
import scipy.stats

from memjax.analysis._arguments import check_members
from memjax.errors import InputError


def attack_auc(scores: Any, is_member: Any, axis: int = -1) -> np.ndarray:
    """Returns the area under the ROC: the chance that a score "in" is above a score "out".

    Args:
      scores: [... n ...]; nan ones are left out.
      is_member: bool, likewise.
      axis: along which scores are compared: over the examples of a target, or over the targets of
        an example.

    Returns:
      The shape without `axis`, float64, ties counting half; nan without scores on both sides.

    Raises:
      InputError: the shapes differ.

    Example:
      >>> print(attack_auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]))
      0.75
    """
    scores, is_member = _as_scores(scores, is_member)
    is_known = ~np.isnan(scores)
    # Unknown scores are made the largest, above infinite ones, and so change the rank of no other.
    finite = np.minimum(scores, np.finfo(np.float64).max)
    ranks = scipy.stats.rankdata(np.where(is_known, finite, np.inf), axis=axis)
    is_in = is_member & is_known
    num_in = is_in.sum(axis=axis).astype(np.float64)
    num_out = (is_known & ~is_member).sum(axis=axis)
    above = (ranks * is_in).sum(axis=axis) - num_in * (num_in + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return above / (num_in * num_out)


def attack_tpr(scores: Any, is_member: Any, false_positive_rates: Any) -> np.ndarray:
    """Returns the true positive rate of an attack at given false positive rates.

    The threshold is the lowest at which no larger share of the examples "out" is said to be "in".
    With fewer than 1 / rate of them that is their largest score: the rate is then 0.

    Args:
      scores: [n]; nan ones are left out.
      is_member: bool [n].
      false_positive_rates: [k], in [0, 1].

    Returns:
      [k], float64; nan without scores on both sides.

    Raises:
      InputError: the shapes differ, or a rate is no share.

    Example:
      >>> print(attack_tpr([0.1, 0.4, 0.35, 0.8], [False, False, True, True], [0.0, 0.5]))
      [0.5 1. ]
    """
    scores, is_member = _as_scores(scores, is_member)
    rates = np.asarray(false_positive_rates, np.float64)
    if scores.ndim != 1 or rates.ndim != 1 or not ((rates >= 0) & (rates <= 1)).all():
        raise InputError(
            f"scores, false_positive_rates: shapes {scores.shape}, {rates.shape}, must be [n] and "
            "[k] in [0, 1]"
        )
    is_known = ~np.isnan(scores)
    inside = np.sort(scores[is_known & is_member])
    outside = np.sort(scores[is_known & ~is_member])[::-1]
    if not len(inside) or not len(outside):
        return np.full(len(rates), np.nan)
    # One part in 1e9: .01 of 100 examples is one of them.
    allowed = np.floor(rates * len(outside) * (1 + 1e-9)).astype(int)
    thresholds = np.append(outside, -np.inf)[allowed]
    found = 1 - np.searchsorted(inside, thresholds, side="right") / len(inside)
    return np.where(allowed == len(outside), 1.0, found)


def _as_scores(scores: Any, is_member: Any) -> tuple[np.ndarray, np.ndarray]:
    scores, is_member = np.asarray(scores, np.float64), np.asarray(check_members(is_member))
    if scores.shape != is_member.shape or not scores.ndim:
        raise InputError(
            f"scores, is_member: shapes {scores.shape}, {is_member.shape}, must be the same"
        )
    return scores, is_member
