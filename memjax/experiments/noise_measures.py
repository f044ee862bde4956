"""What the claims of figures 7 and 8 measure.

Nothing is chosen on the validation set that is then measured on it: the epoch at which validation
accuracy should be at its peak is found on the training set, as that at which clean examples and
wrong labels are told apart best.
"""

import numpy as np
import pandas as pd
import scipy.stats

from memjax.experiments import fit, kinds
from memjax.experiments.rows import (
    final,
    highest,
    of_kind,
    rise_over_levels,
    select,
    values_at,
)
from memjax.reporting.measurement import Measurement, NotMeasurable, over_seeds

MATCHED = 0.9  # training accuracy at which networks are compared
# Checkpoints at powers of two: one is always as near as this.
TOLERANCE = 0.5
_RUN = ["level", "seed"]


def measure_radius_rise(
    table: pd.DataFrame, kind: str, column: str = "median_radius"
) -> Measurement:
    """Doublings of the final median critical radius from level 0 to 1, by least squares."""
    return over_seeds(rise_over_levels(_final_logs(of_kind(table, kind), column)))


def measure_own_noise(table: pd.DataFrame) -> Measurement:
    """Doublings of the final radius, real networks at real images to randX ones at noise images."""
    noisy = select(table, kind=kinds.RANDX)
    noisy = select(noisy, level=highest(noisy["level"]))
    noise = _final_logs(noisy, "noise_median_radius").groupby("seed").first()
    real = _final_logs(select(table, kind=kinds.REAL), "median_radius").groupby("seed").first()
    return over_seeds((noise - real).dropna())


def _final_logs(rows: pd.DataFrame, column: str) -> pd.Series:
    """Returns log2 of a radius at the end of training, by level and seed."""
    logs = rows.assign(**{column: np.log2(rows[column])})
    if np.isinf(logs[column]).any():
        raise NotMeasurable("for half of the images no other class was found at any distance")
    return final(logs, column, _RUN)


def measure_csr_rise(table: pd.DataFrame, kind: str, column: str = "csr_lower") -> Measurement:
    """Rise of the CSR at the end of training from noise level 0 to 1, by least squares."""
    return over_seeds(rise_over_levels(final(of_kind(table, kind), column, _RUN)))


def measure_monotone(table: pd.DataFrame, kind: str) -> Measurement:
    """Kendall's tau of level and final CSR, for each seed."""
    wide = final(of_kind(table, kind), "csr_lower", _RUN).unstack("level").dropna()
    if wide.shape[1] < 3:
        raise NotMeasurable(f"{wide.shape[1]} levels, at least 3 are needed for an order")
    taus = [scipy.stats.kendalltau(wide.columns, row).statistic for row in wide.to_numpy()]
    return over_seeds(np.nan_to_num(taus))  # all equal: no order


def measure_csr_matched(table: pd.DataFrame, kind: str) -> Measurement:
    """CSR of the highest level minus that of real data, both at MATCHED training accuracy."""
    rows = of_kind(table, kind)
    at = []
    for level in (highest(rows["level"]), 0.0):
        part = select(rows, level=level)
        times = _first(part, "train_accuracy", MATCHED)
        if times.isna().any():
            raise NotMeasurable(f"level {level:g}: {MATCHED:.0%} training accuracy is not reached")
        at.append(values_at(_curves(part, "csr_lower"), times, TOLERANCE))
    return over_seeds(at[0] - at[1])


def measure_fitted(table: pd.DataFrame, kind: str) -> Measurement:
    """Final training accuracy at the highest level."""
    rows = select(table, kind=kind)
    rows = select(rows, level=highest(rows["level"]))
    return over_seeds(rows.groupby("seed")["final_train_accuracy"].first())


def measure_final_accuracy_rise(table: pd.DataFrame, kind: str) -> Measurement:
    """Rise of the final validation accuracy from noise level 0 to 1, by least squares."""
    accuracy = final(of_kind(table, kind), "validation_accuracy", _RUN)
    return over_seeds(rise_over_levels(accuracy))


def measure_best_accuracy_rise(table: pd.DataFrame, kind: str) -> Measurement:
    """Rise of the best validation accuracy from noise level 0 to 1, by least squares."""
    best = of_kind(table, kind).groupby(_RUN)["validation_accuracy"].max()
    return over_seeds(rise_over_levels(best))


def measure_clean_first(table: pd.DataFrame) -> Measurement:
    """Doublings from the time for half of the clean examples to that for half of the wrong ones."""
    rows = _noisiest_labels(table)
    early, late = (_bounds(rows, name, 0.5) for name in ("clean_accuracy", "mislabeled_as_label"))
    with np.errstate(divide="ignore"):
        lower, upper = (np.log2(late[i] / early[1 - i]) for i in (0, 1))
    return over_seeds(lower, upper)


def measure_true_first(table: pd.DataFrame) -> Measurement:
    """Share of wrong labels predicted as true minus as given, where both are told apart best."""
    rows = _noisiest_labels(table)
    more = rows.assign(more=rows["mislabeled_as_true"] - rows["mislabeled_as_label"])
    return over_seeds(values_at(_curves(more, "more"), _told_apart(rows), TOLERANCE))


def measure_randy_later(table: pd.DataFrame) -> Measurement:
    """Doublings of the epochs to fit from real data to the highest level of randY."""
    noise, real = (
        _bounds(rows, "train_accuracy", fit.FITTED)
        for rows in (_noisiest_labels(table), select(table, kind=kinds.REAL))
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return over_seeds(np.log2(noise[0] / real[1]), np.log2(noise[1] / real[0]))


def measure_peak_time(table: pd.DataFrame) -> Measurement:
    """Share of training at which validation accuracy peaks, highest randY level below 1."""
    curves = _curves(_noisiest_labels(table), "validation_accuracy")
    return over_seeds(curves.idxmax() / curves.index.max())


def measure_fall(table: pd.DataFrame) -> Measurement:
    """Validation accuracy where clean and wrong are told apart best minus at the end."""
    rows = _noisiest_labels(table)
    curves = _curves(rows, "validation_accuracy")
    return over_seeds(values_at(curves, _told_apart(rows), TOLERANCE) - curves.iloc[-1])


def measure_csr_rise_meanwhile(table: pd.DataFrame) -> Measurement:
    """CSR at the end minus where clean and wrong are told apart best."""
    rows = _noisiest_labels(table)
    ratios = _curves(rows, "csr_lower")
    return over_seeds(ratios.iloc[-1] - values_at(ratios, _told_apart(rows), TOLERANCE))


def _curves(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Returns [epochs seeds], only epochs at which every seed was measured."""
    curves = rows.pivot(index="epoch", columns="seed", values=value).dropna()
    if len(curves) < 2:
        raise NotMeasurable(f"{value} was measured at fewer than two epochs")
    return curves


def _told_apart(rows: pd.DataFrame) -> pd.Series:
    """Returns for each seed the epoch at which clean beats corrupted accuracy by the most."""
    gap = rows.assign(gap=rows["clean_accuracy"] - rows["corrupted_accuracy"])
    return _curves(gap, "gap").idxmax()


def _first(rows: pd.DataFrame, value: str, least: float) -> pd.Series:
    """Returns for each seed the first epoch at which a value is reached; nan: never."""
    curves = _curves(rows, value)
    reached = curves >= least
    return reached.idxmax().astype(float).where(reached.any())


def _bounds(rows: pd.DataFrame, value: str, least: float) -> tuple[pd.Series, pd.Series]:
    """Returns for each seed the epochs between which a value was reached.

    They are the last evaluation before (0: none) and the first after; of a run that never got
    there the last one and infinity.
    """
    curves = _curves(rows, value)
    epochs = curves.index.to_numpy(float)
    lower, upper = {}, {}
    for seed, curve in curves.items():
        reached = np.flatnonzero(curve.to_numpy() >= least)
        place = reached[0] if len(reached) else len(epochs)
        lower[seed] = epochs[place - 1] if place else 0.0
        upper[seed] = epochs[place] if place < len(epochs) else np.inf
    return pd.Series(lower), pd.Series(upper)


def _noisiest_labels(table: pd.DataFrame) -> pd.DataFrame:
    rows = select(table, kind=kinds.RANDY)
    return select(rows, level=highest(rows["level"], below=1.0))
