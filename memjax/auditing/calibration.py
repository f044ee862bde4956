"""The probability that a label is wrong: scores combined by what finds planted flips."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from memjax.auditing.noise import NoiseRate, noise_rate

_FOLDS = 5
_FEWEST_PLANTED = 20


class Calibration(NamedTuple):
    """What the planted flips taught.

    Attributes:
      probability_wrong: [n], of the labels as given.
      rate: share of wrong labels.
      evidence: a row per score and one for `combined`: how well each finds the planted flips
        (auroc, average_precision, precision_at_k with k the number planted); combined is
        cross-fitted, so no flip was judged by a model that had seen it.
      reliability: bins of the predicted probability on the planted copy (predicted, observed,
        num_examples), cross-fitted.
    """

    probability_wrong: np.ndarray
    rate: NoiseRate
    evidence: pd.DataFrame
    reliability: pd.DataFrame


def calibrate(
    features: pd.DataFrame, planted_features: pd.DataFrame, is_planted: np.ndarray, seed: int = 0
) -> Calibration:
    """Fits a logistic model to the planted flips, and applies it to the labels as given.

    Args:
      features: [n scores], of the labels as given.
      planted_features: [n scores], the same scores of the copy with planted flips.
      is_planted: bool [n], which labels of the copy were flipped.
      seed: of folds and bootstrap.

    Raises:
      ValueError: fewer than 20 planted flips, or as few that were not.
    """
    num_planted = int(is_planted.sum())
    if min(num_planted, len(is_planted) - num_planted) < _FEWEST_PLANTED:
        raise ValueError(f"{num_planted} of {len(is_planted)} labels planted: at least 20 of each")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    crossed = cross_val_predict(
        model, planted_features, is_planted, cv=folds, method="decision_function"
    )
    suspicion = model.fit(planted_features, is_planted).decision_function(features)
    rate = noise_rate(suspicion, crossed, is_planted, seed)
    return Calibration(
        probability_wrong=_at_rate(suspicion, num_planted / len(is_planted), rate.rate),
        rate=rate,
        evidence=_evidence(planted_features, crossed, is_planted),
        reliability=_reliability(1 / (1 + np.exp(-crossed)), is_planted),
    )


def _at_rate(suspicion: np.ndarray, planted_rate: float, rate: float) -> np.ndarray:
    """Returns probabilities where `rate` of the labels are wrong, not `planted_rate`."""
    rate = float(np.clip(rate, 1e-4, 1 - 1e-4))
    shift = np.log(rate / (1 - rate)) - np.log(planted_rate / (1 - planted_rate))
    return 1 / (1 + np.exp(-(suspicion + shift)))


def _evidence(
    planted_features: pd.DataFrame, combined: np.ndarray, is_planted: np.ndarray
) -> pd.DataFrame:
    rows = []
    suspicions = {name: -planted_features[name].to_numpy() for name in planted_features}
    for name, suspicion in {"combined": combined, **suspicions}.items():
        worst = np.argsort(-suspicion, kind="stable")[: is_planted.sum()]
        rows.append(
            {
                "score": name,
                "auroc": roc_auc_score(is_planted, suspicion),
                "average_precision": average_precision_score(is_planted, suspicion),
                "precision_at_k": is_planted[worst].mean(),
            }
        )
    return pd.DataFrame(rows).sort_values("average_precision", ascending=False, ignore_index=True)


def _reliability(predicted: np.ndarray, is_planted: np.ndarray) -> pd.DataFrame:
    bins = np.clip((predicted * 10).astype(int), 0, 9)
    frame = pd.DataFrame({"bin": bins, "predicted": predicted, "observed": is_planted})
    return frame.groupby("bin").agg(
        predicted=("predicted", "mean"),
        observed=("observed", "mean"),
        num_examples=("observed", "size"),
    )
