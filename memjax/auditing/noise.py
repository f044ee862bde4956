"""How labels go wrong: confused classes, a copy with such flips planted, the share wrong."""

from typing import NamedTuple

import numpy as np

_RIGHT_ABOVE = np.array([0.04, 0.06, 0.08, 0.1])  # shares of the copy's right labels
_MOST_FOUND = 0.95  # of the planted flips
_MOST_WRONG = 0.45  # of a class: beyond it no majority tells which label is the right one


class NoiseRate(NamedTuple):
    """The share of wrong labels, with its 95 % interval."""

    rate: float
    low: float
    high: float


def count_confusions(suggested: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns int [classes classes]: examples of each suggested class (row) by label (column)."""
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (suggested, labels), 1)
    return counts


def transition(counts: np.ndarray) -> np.ndarray:
    """Returns P(label | class), smoothed so that no flip is impossible.

    Args:
      counts: [classes classes], as `count_confusions` gives.

    Returns:
      [classes classes], rows sum to 1; at most 45 % of a class are flipped.

    Example:
      >>> transition(np.array([[90, 10], [0, 100]])).round(2).tolist()
      [[0.9, 0.1], [0.0, 1.0]]
    """
    smoothed = counts + 0.2 / len(counts)
    shares = smoothed / smoothed.sum(axis=1, keepdims=True)
    flips = shares * (1 - np.eye(len(shares)))
    return _with_diagonal(flips)


def expected_transition(
    labels: np.ndarray, suggested: np.ndarray, probability_wrong: np.ndarray, num_classes: int
) -> np.ndarray:
    """Returns P(label | class) where each label is wrong with its probability.

    Args:
      labels: int [n], as given.
      suggested: int [n], the class of an example whose label is wrong.
      probability_wrong: [n].
      num_classes: of them.

    Returns:
      [classes classes], rows sum to 1; a class that no example is of has no flips.

    Example:
      >>> expected_transition(np.array([0, 0, 1]), np.array([1, 1, 0]), np.array([0, 0.5, 0]), 2)
      array([[1.        , 0.        ],
             [0.33333333, 0.66666667]])
    """
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (suggested, labels), probability_wrong)
    np.add.at(counts, (labels, labels), 1 - probability_wrong)
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1e-12), np.eye(num_classes))


def at_least(flips: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Returns P(label | class) with so many flips among the labels to be expected, or more.

    Args:
      flips: [classes classes], as `transition` gives; where they are enough, they stay as they are.
      labels: int [n].
      count: of flips; no class has more than 45 % of its labels flipped.

    Example:
      >>> labels = np.array([0] * 50 + [1] * 50)
      >>> at_least(np.array([[0.99, 0.01], [0.0, 1.0]]), labels, 10).round(2).tolist()
      [[0.8, 0.2], [0.0, 1.0]]
    """
    wrong = flips * (1 - np.eye(len(flips)))
    expected = wrong.sum(axis=1)[labels].sum()
    if expected >= count:
        return flips
    return _with_diagonal(wrong * count / max(expected, 1e-12))


def _with_diagonal(wrong: np.ndarray) -> np.ndarray:
    """Returns rows that sum to 1, of a class at most 45 % flipped; the diagonal was 0."""
    shares = wrong.sum(axis=1, keepdims=True)
    wrong = wrong * np.minimum(1.0, _MOST_WRONG / np.maximum(shares, 1e-12))
    return wrong + np.diag(1 - wrong.sum(axis=1))


def flip_all(rng: np.random.Generator, labels: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """Returns int [n]: every label replaced by another one, drawn as they are confused.

    Args:
      rng: of the draws.
      labels: int [n].
      flips: [classes classes], P(label | class); its diagonal does not matter.
    """
    others = flips * (1 - np.eye(len(flips)))
    return plant(rng, labels, others / others.sum(axis=1, keepdims=True))


def plant(rng: np.random.Generator, labels: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """Returns int [n]: labels drawn from the row of each label's class.

    Args:
      rng: of the draws.
      labels: int [n], taken as right.
      flips: [classes classes], P(label | class).
    """
    chances = np.cumsum(flips, axis=1)[labels]
    drawn = rng.random((len(labels), 1)) * chances[:, -1:]
    return (chances < drawn).sum(axis=1)


def noise_rate(
    suspicion: np.ndarray, planted_suspicion: np.ndarray, is_planted: np.ndarray, seed: int = 0
) -> NoiseRate:
    """Returns the share of labels that are wrong, from how many look as the planted ones do.

    Above a bound, the share of suspicious labels is rate x P(above | wrong) + (1 - rate) x
    P(above | right), and both probabilities are known where the flips were planted. Real wrong
    labels are better hidden than planted ones, which matters least at bounds that nearly all of
    these exceed; right ones are more suspicious than those of the copy, which matters least at
    bounds that few of these exceed. The rate is the median over bounds that 4 to 10 % of the right
    labels of the copy exceed, moved to where half to 95 % of the planted flips do; the interval is
    its bootstrap over examples.

    Args:
      suspicion: [n], of the labels as given; high is wrong.
      planted_suspicion: [n], of the copy.
      is_planted: bool [n], which labels of the copy were flipped; some and not all.
      seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    wrong, right = planted_suspicion[is_planted], planted_suspicion[~is_planted]
    found = []
    for _ in range(200):
        parts = [rng.choice(values, len(values)) for values in (suspicion, wrong, right)]
        found.append(_rate(*parts))
    low, high = np.quantile(found, (0.025, 0.975))
    return NoiseRate(_rate(suspicion, wrong, right), float(low), float(high))


def mixture_rate(suspicion: np.ndarray, wrong: np.ndarray, seed: int = 0) -> NoiseRate:
    """Returns the largest share of labels that can be as the wrong ones are.

    Where no right label is as suspicious as a wrong one, the share above a bound over that of the
    wrong ones is the rate; the smallest over the bounds that a third to two thirds exceed.

    Args:
      suspicion: [n], of the labels as given; high is wrong.
      wrong: [m], of planted flips.
      seed: of the bootstrap.
    """

    def rate(given: np.ndarray, wrong: np.ndarray) -> float:
        bounds = np.quantile(wrong, 1 - np.linspace(1 / 3, 2 / 3, 8))
        above = [
            1 - np.searchsorted(np.sort(values), bounds, side="right") / len(values)
            for values in (given, wrong)
        ]
        return float(np.clip((above[0] / np.maximum(above[1], 1e-9)).min(), 0.0, 1.0))

    rng = np.random.default_rng(seed)
    found = [
        rate(rng.choice(suspicion, len(suspicion)), rng.choice(wrong, len(wrong)))
        for _ in range(200)
    ]
    low, high = np.quantile(found, (0.025, 0.975))
    return NoiseRate(rate(suspicion, wrong), float(low), float(high))


def _rate(given: np.ndarray, wrong: np.ndarray, right: np.ndarray) -> float:
    bounds = np.quantile(right, 1 - _RIGHT_ABOVE)
    bounds = np.clip(bounds, *np.quantile(wrong, (1 - _MOST_FOUND, 0.5)))
    above = [
        1 - np.searchsorted(np.sort(values), bounds, side="right") / len(values)
        for values in (given, wrong, right)
    ]
    rates = (above[0] - above[2]) / np.maximum(above[1] - above[2], 1e-9)
    return float(np.clip(np.median(rates), 0.0, 1.0))
