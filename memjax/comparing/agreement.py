"""How scores agree with one another, and how well each finds what is known to be wrong."""

import functools
import itertools

import numpy as np
import pandas as pd
import scipy.stats
from sklearn.metrics import average_precision_score, roc_auc_score

NUM_DRAWS = 200
LEVEL = 0.95
_MEASURES = ("pearson", "spearman", "cosine")


def agreement(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Returns a row per pair of scores: how they agree, with bootstrap intervals over examples.

    Args:
      scores: [examples scores], oriented; nan where an example has none.
      seed: of the bootstrap.

    Returns:
      first, second, num_examples (that have both), and of pearson, spearman and cosine the value
      and its 95 % interval, NAME_low and NAME_high; nan where a score is the same everywhere.

    Example:
      >>> scores = pd.DataFrame({"a": [0.0, 1.0, 2.0], "b": [0.0, 1.0, 4.0]})
      >>> agreement(scores)[["pearson", "spearman", "cosine"]].round(3).values.tolist()
      [[0.961, 1.0, 0.976]]
    """
    rows = []
    for first, second in itertools.combinations(scores.columns, 2):
        both = scores[[first, second]].dropna().to_numpy(np.float64)
        row = {"first": first, "second": second, "num_examples": len(both)}
        rows.append(row)
        if len(both) < 2:
            row |= {f"{name}{end}": np.nan for name in _MEASURES for end in ("", "_low", "_high")}
            continue
        draws = _draws(seed, len(both))
        ranks = scipy.stats.rankdata(both, axis=0)
        for name in _MEASURES:
            # The ranks are those among all examples: a draw is not ranked anew.
            values = ranks if name == "spearman" else both
            centred = name != "cosine"
            row[name] = _cosines(values[None], centred)[0]
            found = [_cosines(values[part], centred) for part in np.array_split(draws, 20)]
            # Of a score that is the same everywhere all are nan, and so is the interval.
            edges = np.quantile(np.concatenate(found), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            row[f"{name}_low"], row[f"{name}_high"] = edges
    return pd.DataFrame(rows)


@functools.lru_cache(maxsize=1)
def _draws(seed: int, num_examples: int) -> np.ndarray:
    """[NUM_DRAWS examples]: of the bootstrap; most pairs have equally many examples."""
    return np.random.default_rng(seed).integers(0, num_examples, (NUM_DRAWS, num_examples))


def _cosines(values: np.ndarray, centred: bool) -> np.ndarray:
    """[draws examples 2] -> [draws]: of the two columns, about their means or about 0."""
    if centred:
        values = values - values.mean(axis=1, keepdims=True)
    products = np.einsum("dei,dej->dij", values, values)
    norms = np.sqrt(products[:, 0, 0] * products[:, 1, 1])
    return np.where(norms > 0, products[:, 0, 1] / np.where(norms > 0, norms, 1), np.nan)


def reachable(values: pd.Series, standard_errors: pd.Series) -> float:
    """Returns the Pearson correlation that a perfect score would have with noisy estimates.

    Args:
      values: [examples], each the truth and an independent error.
      standard_errors: [examples], of these errors.

    Returns:
      sqrt(1 - mean squared error / variance of the values), 0 if the errors are all there is.

    Example:
      >>> round(reachable(pd.Series([0.0, 1.0]), pd.Series([0.3, 0.3])), 3)
      0.8
    """
    both = pd.DataFrame({"value": values, "error": standard_errors}).dropna()
    variance = both["value"].var(ddof=0)
    if not variance > 0:
        return 0.0
    return float(np.sqrt(max(0.0, 1 - (both["error"] ** 2).mean() / variance)))


def detection(scores: pd.DataFrame, is_wrong: np.ndarray) -> pd.DataFrame:
    """Returns a row per score: how well its largest values find the examples that are wrong.

    Args:
      scores: [examples scores], oriented; an example without a score is left out for that score.
      is_wrong: bool [examples], some but not all.

    Returns:
      score, num_examples, auroc, average_precision and precision_at_k, k the number that are
      wrong; best first.

    Example:
      >>> detection(pd.DataFrame({"a": [3.0, 1.0, 2.0]}), np.array([True, False, False]))
        score  num_examples  auroc  average_precision  precision_at_k
      0     a             3    1.0                1.0             1.0
    """
    rows = []
    for name in scores:
        known = scores[name].notna().to_numpy()
        values, wrong = scores[name].to_numpy()[known], is_wrong[known]
        if wrong.all() or not wrong.any():
            continue
        first = np.argsort(-values, kind="stable")[: wrong.sum()]
        rows.append(
            {
                "score": name,
                "num_examples": len(values),
                "auroc": roc_auc_score(wrong, values),
                "average_precision": average_precision_score(wrong, values),
                "precision_at_k": wrong[first].mean(),
            }
        )
    columns = ["score", "num_examples", "auroc", "average_precision", "precision_at_k"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("average_precision", ascending=False, ignore_index=True)
