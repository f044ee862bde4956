"""Passes `membership` and `vulnerability`: the run's own members attack each other."""

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats
from sklearn.metrics import roc_auc_score

from memjax.errors import InputError
from memjax.passes import MEMBERSHIP, MEMORIZATION, VULNERABILITY
from tests import command_line
from tests.passes import runs

ATTACKS = ["lira", "lira_fixed", "lira_offline", "lira_offline_fixed", "rmia", "rmia_offline",
           "loss"]  # fmt: skip


def probabilities(context, step):
    """Of the labels, by hand: [members n], float64."""
    images, labels = context.run.train.images, context.run.train.labels
    each = [context.run.logits_fn(runs.params_of(context, step, m), images) for m in range(5)]
    softmax = scipy.special.softmax(np.asarray(each, np.float64), axis=-1)
    return softmax[:, np.arange(60), labels]


def test_the_loss_attack_is_a_mean_over_members_with_its_t_interval():
    context = runs.context("mlp")
    step = context.run.steps[-1]
    found = MEMBERSHIP.compute(context, step).set_index("attack")
    assert found.index.tolist() == ATTACKS
    each = [
        roc_auc_score(is_in, p)
        for is_in, p in zip(context.run.is_member, probabilities(context, step), strict=True)
    ]
    row = found.loc["loss"]
    assert row["auc"] == pytest.approx(np.mean(each), abs=1e-6)
    half = scipy.stats.t.ppf(0.975, 4) * scipy.stats.sem(each)
    assert row["auc_high"] - row["auc"] == pytest.approx(half, abs=1e-5)
    assert (row["num_targets"], row["num_examples"]) == (5, 60)
    assert row["true_positive_rates"][-1] == 1
    assert (np.diff(row["true_positive_rates"]) >= 0).all()
    at = np.interp([0.01, 0.001], row["false_positive_rates"], row["true_positive_rates"])
    assert row[["tpr_1_percent", "tpr_01_percent"]].tolist() == pytest.approx(at.tolist())


def test_offline_lira_is_that_of_a_loop_over_targets_and_examples():
    context = runs.context("mlp")
    step, is_member = context.run.steps[-1], context.run.is_member
    confidences = scipy.special.logit(probabilities(context, step))
    expected = []
    for target in range(5):
        scores, errors, degrees = np.full(60, np.nan), 0.0, 0
        for i in range(60):
            out = [confidences[m, i] for m in range(5) if m != target and not is_member[m, i]]
            if out:
                scores[i] = confidences[target, i] - np.mean(out)
                errors += np.var(out) * len(out)
                degrees += len(out) - 1
        known = ~np.isnan(scores)  # the variance of all examples changes no order
        assert errors / degrees > 0
        expected.append(roc_auc_score(is_member[target][known], scores[known]))
    found = MEMBERSHIP.compute(context, step).set_index("attack").loc["lira_offline_fixed"]
    assert found["auc"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert found["num_examples"] < 60


def test_vulnerability_stands_beside_the_memorization_of_its_pass():
    context = runs.context("mlp")
    step = context.run.steps[-1]
    found, memorized = VULNERABILITY.compute(context, step), MEMORIZATION.compute(context, step)
    shared = ["index", "label", "memorization", "standard_error", "num_in", "num_out"]
    pd.testing.assert_frame_equal(found[shared], memorized[shared])
    confidences = scipy.special.logit(probabilities(context, step))
    is_member = context.run.is_member
    for place in (3, 30):
        inside, outside = (confidences[side, place] for side in (is_member[:, place],
                                                                 ~is_member[:, place]))  # fmt: skip
        given = found.loc[place, ["confidence_in", "confidence_out"]].tolist()
        assert given == pytest.approx([inside.mean(), outside.mean()], rel=1e-3)


def test_the_first_examples_and_members_alone_can_be_looked_at():
    context = runs.context("mlp", num_examples=20, members=4)
    found = MEMBERSHIP.compute(context, context.run.steps[-1])
    assert (found["num_examples"] <= 20).all()
    assert (found["num_targets"] <= 4).all()


@pytest.mark.parametrize("each", [MEMBERSHIP, VULNERABILITY])
def test_a_run_without_subsets_is_refused(each):
    with pytest.raises(InputError, match="at least 4 members trained on random subsets"):
        each.check(runs.context("one"))
    with pytest.raises(InputError, match="at least 4 members"):
        each.check(runs.context("mlp", members=2))


def test_the_command_line_makes_tables_and_the_picture(tmp_path):
    workdir = runs.copy_of("mlp", tmp_path / "run")
    flags = [f"--workdir={workdir}", "--passes=membership,vulnerability"]
    finished = command_line.run("memjax.analyze", *flags)
    assert finished.returncode == 0, finished.stderr
    first, second = finished.stdout.strip().splitlines()
    steps = len(runs.opened("mlp").steps)
    assert first.split()[:3] == ["membership", str(7 * steps), "rows"]
    assert first.endswith("figures/membership.png")
    assert second.split()[:3] == ["vulnerability", str(60 * steps), "rows"]
    assert (workdir / "figures" / "membership.png").read_bytes()[:4] == b"\x89PNG"
