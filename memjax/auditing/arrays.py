"""An audit of arrays, from a notebook."""

import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from etils import epath

from memjax.auditing.request import Request
from memjax.auditing.run import audit
from memjax.auditing.stages import save_arrays
from memjax.errors import InputError


def audit_labels(
    images: np.ndarray,
    labels: Sequence,
    *,
    effort: str = "standard",
    workdir: epath.PathLike | None = None,
    pred_probs: np.ndarray | None = None,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Says which labels are wrong: the table of `python -m memjax.audit`, as a data frame.

    Args:
      images: [n height width channels], uint8 or float in [0, 1]; or [n features], any scale.
      labels: [n], integers or strings.
      effort: 'quick', 'standard' or 'thorough'.
      workdir: keeps everything, the report too, and resumes; None: nothing is kept.
      pred_probs: [n classes], out-of-sample probabilities of your own model; nothing is trained.
      say: shows a line to the user.

    Returns:
      A row per example, in order: index, label, suggested_label, probability_wrong, rank, issue,
      why, example_id, label_name, suggested_name, and the scores.

    Raises:
      InputError: if the arrays cannot be audited.
    """
    if effort not in ("quick", "standard", "thorough"):
        raise InputError(f"effort={effort!r}: must be quick, standard or thorough")
    with tempfile.TemporaryDirectory() as nothing:
        folder = epath.Path(workdir or nothing)
        folder.mkdir(parents=True, exist_ok=True)
        save_arrays(folder / "data.npz", {"images": images, "labels": np.asarray(labels)})
        if pred_probs is not None:
            np.save(folder / "pred_probs.npy", np.asarray(pred_probs))
        request = Request(
            data=str(folder / "data.npz"),
            effort=effort,
            pred_probs=str(folder / "pred_probs.npy") if pred_probs is not None else "",
        )
        return audit(request, folder, say).table
