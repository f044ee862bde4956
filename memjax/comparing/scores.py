"""Every score of single training examples that a run has, in one table.

A score is oriented: larger is harder, or more memorized. What a table has by step is taken at the
last one (the loss-sensitivity: averaged over all), what it has by member is averaged over those
that were trained on the example.
"""

import os
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from memjax.errors import InputError
from memjax.loading import Run

DYNAMICS = "dynamics"


class Score(NamedTuple):
    """Where a score is found.

    Attributes:
      source: the pass whose table has it; 'dynamics' is what training itself recorded.
      column: of that table.
      sign: 1 if larger is harder, -1 if smaller is.
      words: what it is, and who proposed it.
      cost: what it takes beside training the run's networks.
      over_training: whether it is the mean over all checkpoints; else that of the last one.
      power: that its values are raised to before.
    """

    source: str
    column: str
    sign: int
    words: str
    cost: str
    over_training: bool = False
    power: int = 1


_RECORDED, _LAST = "nothing: recorded while training", "one pass over the last checkpoint"
SCORES = {
    "cumulative_loss": Score(
        DYNAMICS, "loss", 1, "loss summed over all evaluations (CSL, Ravikumar et al. 2024)",
        _RECORDED,
    ),
    "final_loss": Score("gradients", "loss", 1, "loss at the end", _LAST),
    "gradient_norm": Score("gradients", "gradient_norm", 1, "GraNd (Paul et al. 2021)", _LAST),
    "el2n": Score("gradients", "el2n", 1, "EL2N (Paul et al. 2021)", _LAST),
    "entropy": Score("gradients", "entropy", 1, "of the predicted probabilities", _LAST),
    "aum": Score("difficulty", "aum", -1, "margin over training (Pleiss et al. 2020)", _RECORDED),
    "forgetting": Score(
        "difficulty", "forgetting_events", 1, "times forgotten (Toneva et al. 2019)", _RECORDED
    ),
    "learned_late": Score(
        "difficulty", "epoch_learned_for_good", 1, "epoch from which it stays right", _RECORDED
    ),
    "confidence": Score(
        "difficulty", "confidence", -1, "mean probability of the label (Swayamdipta et al. 2020)",
        _RECORDED,
    ),
    "variability": Score(
        "difficulty", "variability", 1, "its standard deviation (Swayamdipta et al. 2020)",
        _RECORDED,
    ),
    "sensitivity": Score(
        "sensitivity", "sensitivity", 1, "loss-sensitivity through all updates (Arpit et al. 2017)",
        "about a training a probe", over_training=True,
    ),
    "cumulative_input_gradient": Score(
        "inputs", "input_gradient_norm", 1,
        "mean over checkpoints of |d loss / d image|^2 (CSG, Ravikumar et al. 2024)",
        "a pass over each checkpoint", over_training=True, power=2,
    ),
    "input_curvature": Score(
        "inputs", "input_curvature", 1,
        "curvature around the image, mean over checkpoints (Garg et al. 2024)",
        "ten passes over each checkpoint", over_training=True,
    ),
    "variance_of_gradients": Score(
        "vog", "variance_of_gradients", 1,
        "spread over checkpoints of d logit / d image (VoG, Agarwal et al. 2022)",
        "a pass over each checkpoint",
    ),
    "prediction_depth": Score(
        "prediction_depth", "prediction_depth", 1,
        "layer from which neighbours agree (Baldock et al. 2021)",
        "one pass, and neighbours at each layer",
    ),
    "critical_radius": Score(
        "critical", "found_radius", -1, "distance to another class, as found", "searches at the end"
    ),
    "consistency": Score(
        "memorization", "probability_out", -1,
        "P(correct when left out) (C-score, Jiang et al. 2021)",
        "networks on random subsets",
    ),
    "memorization": Score(
        "memorization", "memorization", 1, "P(correct | in) - P(correct | out) (Feldman 2020)",
        "networks on random subsets",
    ),
    "vulnerability": Score(
        "vulnerability", "lira_auc", 1, "membership inference by LiRA (Carlini et al. 2022)",
        "networks on random subsets",
    ),
}  # fmt: skip
EXAMPLE_COLUMNS = {
    "index": "position in the source's training split",
    "example_id": "file path or key in the source; the index where it has none",
    "label": "the label trained on",
    "is_corrupted": "whether the corruption touched this example, or the source's label is wrong",
    "is_mislabeled": "whether label is not the true label",
}
STANDARD_ERROR = "memorization_standard_error"


def collect_scores(run: Run) -> pd.DataFrame:
    """Returns a row per training example: `EXAMPLE_COLUMNS`, then every score the run has.

    Args:
      run: a run folder, opened.

    Returns:
      The scores as they are, not oriented; nan where an example has none. With memorization, its
      standard error too.

    Raises:
      InputError: the run has fewer than two scores.
    """
    examples = run.examples
    rows = examples[examples["split"] == "train"][list(EXAMPLE_COLUMNS)]
    table = rows.sort_values("index", ignore_index=True)
    found = dict(_columns(run))
    names = [name for name in found if name != STANDARD_ERROR]
    if len(names) < 2:
        raise InputError(
            f"{run.workdir}: {len(names)} scores ({', '.join(names) or 'none'}), at least 2 are "
            "needed; first python -m memjax.analyze --passes=gradients,difficulty"
        )
    for name, values in found.items():
        table[name] = table["index"].map(values).astype(float)
    return table


def _columns(run: Run) -> Iterator[tuple[str, pd.Series]]:
    """Yields (name, values by index) of what is there."""
    if run.has_dynamics:
        rows = run.dynamics
        rows = rows[rows["split"] == "train"]
        by_member = rows.groupby(["member", "index"])["loss"].sum()
        means = by_member.groupby("index").mean()
        yield "cumulative_loss", means.replace([np.inf, -np.inf], np.nan)
    there = set(run.tables)
    for name, score in SCORES.items():
        if score.source not in there:
            continue
        rows = run.table(score.source)
        if "split" in rows:
            rows = rows[rows["split"] == "train"]
        if "step" in rows and not score.over_training:
            rows = rows[rows["step"] == rows["step"].max()]
        if "member" in rows and run.config.ensemble.subset_fraction < 1:
            rows = rows[_was_trained_on(run, rows)]
        if score.column not in rows or rows.empty:
            continue
        values = rows[score.column].replace([np.inf, -np.inf], np.nan) ** score.power
        yield name, values.groupby(rows["index"]).mean()
        if name == "memorization":
            yield STANDARD_ERROR, rows.groupby("index")["standard_error"].mean()


def _was_trained_on(run: Run, rows: pd.DataFrame) -> np.ndarray:
    """Whether each row's member had its example: what it says of the others is of held-out ones."""
    index = run.setup.examples.index
    order = np.argsort(index)
    places = order[np.searchsorted(index, rows["index"].to_numpy(), sorter=order)]
    return run.is_member[rows["member"].to_numpy(), places]


def read_scores(path: os.PathLike | str) -> pd.DataFrame:
    """Reads anybody's scores of the same training examples.

    Args:
      path: a .npz file: `index` (int [n], positions in the source's training split), and arrays of
        numbers [n], a score each, larger for harder examples.

    Returns:
      Indexed by `index`.

    Raises:
      InputError: the file is not like that. No pickle is loaded.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array; must be a .npz file of several, with names")
        with file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"--import={path}: {' '.join(str(error).split())}") from None
    index = arrays.pop("index", None)
    if (
        index is None
        or index.ndim != 1
        or index.dtype.kind not in "iu"
        or not (arrays and len(index))
    ):
        raise InputError(
            f"--import={path}: must have 'index', whole numbers [n], and one or more scores [n]; "
            f"has: {', '.join(arrays) or 'nothing else'}"
        )
    if len(np.unique(index)) < len(index):
        raise InputError(f"--import={path}: an example is in 'index' more than once")
    for name, values in arrays.items():
        if values.shape != index.shape or values.dtype.kind not in "iuf":
            raise InputError(
                f"--import={path}: {name!r} is {values.dtype} {list(values.shape)}; must be "
                f"numbers [{len(index)}]"
            )
        if np.isinf(values).any():
            raise InputError(
                f"--import={path}: {name!r} has infinite numbers; allowed: nan for none"
            )
        if name in (*SCORES, *EXAMPLE_COLUMNS, STANDARD_ERROR):
            raise InputError(f"--import={path}: {name!r} is a name of memjax; choose another")
    return pd.DataFrame(arrays, index=index)


def score_names(table: pd.DataFrame) -> list[str]:
    """Returns the columns of a table that are scores."""
    return [str(n) for n in table if n not in EXAMPLE_COLUMNS and n != STANDARD_ERROR]


def oriented(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the scores, larger for harder examples; those turned around begin at 0."""
    turned = {}
    for name in score_names(table):
        values = table[name]
        is_turned = name in SCORES and SCORES[name].sign < 0
        turned[name] = values.max() - values if is_turned else values
    return pd.DataFrame(turned)
