"""The probability that a label is wrong: scores combined by what finds planted flips."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from memjax.auditing.noise import NoiseRate, mixture_rate, noise_rate

_FOLDS = 5
FEWEST_PLANTED = 20


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
    if min(num_planted, len(is_planted) - num_planted) < FEWEST_PLANTED:
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


def calibrate_fixed(
    features: pd.DataFrame, planted_features: pd.DataFrame, seed: int = 0
) -> Calibration:
    """The same from probabilities that no label has changed: a user's own, out of sample.

    Flips are planted into labels as given that the probabilities agree with. The planted ones are
    a sample of wrong labels and the others a mixture, so that the odds of being planted are
    proportional to L / (rate L + 1 - rate), L the likelihood ratio of wrong to right; hence
    P(wrong) = rate x those odds (Elkan and Noto 2008, "Learning classifiers from only positive and
    unlabeled data").

    Args:
      features: [n scores], of the labels as given.
      planted_features: [m scores], of some of the examples, with a flip planted in every label.
      seed: of folds and bootstrap.
    """
    both = pd.concat([planted_features, features], ignore_index=True)
    is_planted = np.arange(len(both)) < len(planted_features)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    crossed = cross_val_predict(model, both, is_planted, cv=folds, method="decision_function")
    suspicion, planted_suspicion = crossed[~is_planted], crossed[is_planted]
    rate = mixture_rate(suspicion, planted_suspicion, seed)
    odds = np.exp(suspicion) * len(features) / len(planted_features)
    return Calibration(
        probability_wrong=np.clip(rate.rate * odds, 0.0, 1.0),
        rate=rate,
        evidence=_evidence(both, crossed, is_planted),
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
