"""Passes `membership` and `vulnerability`: can one tell which examples a member was trained on?

Members trained on random subsets attack each other: each in turn is the target, and all others are
the shadow models. Carlini et al. 2022, "Membership inference attacks from first principles".
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from etils import epath

from memjax.analysis.membership import (
    example_vulnerability,
    lira_scores,
    logit_confidence,
    loss_scores,
    rmia_scores,
)
from memjax.analysis.membership_curves import attack_auc, attack_tpr
from memjax.analysis.statistics import mean_difference_interval
from memjax.passes.base import (
    CHECKPOINT_COLUMNS,
    EXAMPLE_COLUMNS,
    Context,
    Pass,
    save_figure,
)
from memjax.passes.memorization import check_subsets, memorized

_CURVE = np.append(0, np.geomspace(1e-4, 1, 41))

MEMBERSHIP_COLUMNS = {
    **{k: v for k, v in CHECKPOINT_COLUMNS.items() if k != "member"},
    "attack": "'lira', 'lira_fixed' (one variance for all examples), 'lira_offline', "
    "'lira_offline_fixed', 'rmia', 'rmia_offline' or 'loss'",
    "auc": "area under the ROC, mean over the members as targets; .5 tells nothing",
    "auc_low": "lower end of its 95 % t interval over the targets",
    "auc_high": "upper end of it",
    "tpr_1_percent": "true positive rate at 1 % false positives, mean over the targets",
    "tpr_1_percent_low": "lower end of its 95 % t interval over the targets",
    "tpr_1_percent_high": "upper end of it",
    "tpr_01_percent": "true positive rate at .1 % false positives, mean over the targets; with "
    "fewer than 1000 examples out, at none",
    "tpr_01_percent_low": "lower end of its 95 % t interval over the targets",
    "tpr_01_percent_high": "upper end of it",
    "num_targets": "members whose examples were told apart",
    "num_examples": "examples that got a score, mean over the targets",
    "false_positive_rates": "of the ROC, 0 and from .0001 to 1",
    "true_positive_rates": "of the ROC, mean over the targets",
    "true_positive_rates_low": "lower ends of their 95 % t intervals",
    "true_positive_rates_high": "upper ends of them",
}
VULNERABILITY_COLUMNS = {
    **{k: v for k, v in EXAMPLE_COLUMNS.items() if k != "member"},
    "lira_auc": "chance that a member trained with the example has the larger LiRA score of it "
    "(offline, fixed variance) than one trained without; .5 gives nothing away",
    "distance": "(confidence_in - confidence_out) / pooled standard deviation over the members",
    "confidence_in": "mean of log(p / (1 - p)), p of the label, over the members trained with it",
    "confidence_out": "the same over the members trained without it",
    "memorization": "P(correct | in the training subset) - P(correct | out of it)",
    "standard_error": "of the memorization, over the members",
    "num_in": "members trained with the example",
    "num_out": "members trained without it",
}

_confidences_of = jax.jit(jax.vmap(logit_confidence))


def _attacks() -> dict[str, Callable[..., jax.Array]]:
    def loss(confidences: jax.Array, is_member: jax.Array, target: int) -> jax.Array:
        del is_member
        return loss_scores(confidences, target)

    return {
        "lira": lira_scores,
        "lira_fixed": functools.partial(lira_scores, fixed_variance=True),
        "lira_offline": functools.partial(lira_scores, online=False),
        "lira_offline_fixed": functools.partial(lira_scores, online=False, fixed_variance=True),
        "rmia": rmia_scores,
        "rmia_offline": functools.partial(rmia_scores, online=False),
        "loss": loss,
    }


def _check(context: Context) -> None:
    check_subsets(context, "membership and vulnerability", 20, 0.5)


def _no_answers(context: Context) -> dict[int, Any]:
    del context
    return {}


def _answers(context: Context, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns confidences, whether they are right, and memberships, each [members n]."""
    known = context.shared(_no_answers)  # for both passes: a forward pass of every member
    if step not in known:
        known.clear()
        arrays = context.split("train")
        labels, all_params = jnp.asarray(arrays.labels), context.run.member_params(step)
        confidences, correct = [], []
        for member in context.members:
            logits = context.logits(context.member(all_params, member), arrays.images)
            confidences.append(np.asarray(_confidences_of(logits, labels)))
            correct.append(np.asarray(logits).argmax(axis=-1) == arrays.labels)
        is_member = context.run.is_member[: len(correct), : len(arrays.labels)]
        known[step] = np.stack(confidences), np.stack(correct), is_member
    return known[step]


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % t interval of a share over the targets, which cannot leave [0, 1]."""
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return (float(values.mean()) if len(values) else np.nan), np.nan, np.nan
    mean, low, high = mean_difference_interval(values, np.zeros(len(values)), paired=True)
    return mean, max(low, 0.0), min(high, 1.0)


def attack_row(scores: np.ndarray, is_member: np.ndarray) -> dict[str, Any]:
    """Returns how well an attack did: the columns from `auc` on.

    Args:
      scores: [targets n].
      is_member: bool, likewise.
    """
    rates = np.append([0.01, 0.001], _CURVE)
    found = np.stack([attack_tpr(*each, rates) for each in zip(scores, is_member, strict=True)])
    measured = {
        "auc": attack_auc(scores, is_member),
        "tpr_1_percent": found[:, 0],
        "tpr_01_percent": found[:, 1],
    }
    row: dict[str, Any] = {}
    for name, values in measured.items():
        row |= zip((name, f"{name}_low", f"{name}_high"), _interval(values), strict=True)
    curve = np.array([_interval(values) for values in found[:, 2:].T])
    return row | {
        "num_targets": int((~np.isnan(measured["auc"])).sum()),
        "num_examples": float((~np.isnan(scores)).sum(axis=1).mean()),
        "false_positive_rates": _CURVE,
        "true_positive_rates": curve[:, 0],
        "true_positive_rates_low": curve[:, 1],
        "true_positive_rates_high": curve[:, 2],
    }


def _membership(context: Context, step: int) -> pd.DataFrame:
    confidences, _, is_member = _answers(context, step)
    on_device = jnp.asarray(confidences), jnp.asarray(is_member)
    rows = []
    for name, attack in _attacks().items():
        scores = [np.asarray(attack(*on_device, target)) for target in context.members]
        row = attack_row(np.stack(scores), is_member)
        rows.append({"step": step, "epoch": context.run.epoch(step), "attack": name} | row)
    return pd.DataFrame(rows)


def _vulnerability(context: Context, step: int) -> pd.DataFrame:
    confidences, correct, is_member = _answers(context, step)
    found = example_vulnerability(jnp.asarray(confidences), jnp.asarray(is_member))
    columns = context.example_columns(step, 0, "train", context.split("train"))
    del columns["member"]
    values = {
        "lira_auc": found.auc,
        "distance": found.distance,
        "confidence_in": found.confidence_in,
        "confidence_out": found.confidence_out,
        **memorized(correct, is_member),
    }
    return pd.DataFrame(columns | values)


def draw(context: Context, table: pd.DataFrame) -> epath.Path:
    """Draws figures/membership.png: the ROC of every attack at the last step, on log axes.

    Args:
      context: of the run.
      table: of the pass `membership`.

    Returns:
      The path.
    """
    from memjax.reporting.style import new_figure, series_style

    figure, axes = new_figure(width=5.5, height=4.5)
    ax = axes[0, 0]
    for place, row in enumerate(table[table["step"] == table["step"].max()].itertuples()):
        look = series_style(place) | {"marker": None}
        rates = row.false_positive_rates
        ax.plot(rates, row.true_positive_rates, label=f"{row.attack}, AUC {row.auc:.2f}", **look)
        band = row.true_positive_rates_low, row.true_positive_rates_high
        ax.fill_between(rates, *band, color=look["color"], alpha=0.12, linewidth=0)
    ax.plot([1e-4, 1], [1e-4, 1], color="0.5", linewidth=0.8, label="chance")
    ax.set(xscale="log", yscale="log", xlim=(1e-4, 1), ylim=(1e-4, 1))
    ax.set(xlabel="false positive rate", ylabel="true positive rate")
    epoch = table["epoch"].max()
    ax.set_title(f"membership inference, epoch {epoch:g}; 95 % intervals over members", fontsize=9)
    ax.legend(fontsize=7)
    return save_figure(context, figure, "membership")


MEMBERSHIP = Pass(
    name="membership",
    summary="membership inference (LiRA, RMIA, loss): ROC, AUC, TPR at 1 % and .1 % FPR",
    columns=MEMBERSHIP_COLUMNS,
    options=("num_examples", "members"),
    compute=_membership,
    check=_check,
    draw=draw,
)
VULNERABILITY = Pass(
    name="vulnerability",
    summary="how well each training example's membership can be told, beside memorization",
    columns=VULNERABILITY_COLUMNS,
    options=("num_examples", "members"),
    compute=_vulnerability,
    check=_check,
)
