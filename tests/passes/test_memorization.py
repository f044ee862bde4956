"""Passes `memorization` and `influence` against counts by hand."""

import numpy as np
import pytest

from memjax.errors import InputError
from memjax.passes import INFLUENCE, MEMORIZATION
from tests.passes import runs


def correct_by_hand(context, split):
    step, arrays = context.run.steps[-1], getattr(context.run, split)
    logits = [
        context.run.logits_fn(runs.params_of(context, step, member), arrays.images)
        for member in range(5)
    ]
    return np.asarray(logits).argmax(-1) == arrays.labels


def test_members_are_where_their_training_was():
    run = runs.opened("mlp")
    assert run.is_member.sum(axis=1).tolist() == [42] * 5
    assert len({row.tobytes() for row in run.is_member}) == 5


def test_memorization_is_a_difference_of_two_shares():
    context = runs.context("mlp")
    correct, is_member = correct_by_hand(context, "train"), context.run.is_member
    found = MEMORIZATION.compute(context, context.run.steps[-1])
    assert found["index"].tolist() == context.run.train.source_index.tolist()
    for place, row in found.iterrows():
        inside = [correct[m, place] for m in range(5) if is_member[m, place]]
        outside = [correct[m, place] for m in range(5) if not is_member[m, place]]
        assert (row["num_in"], row["num_out"]) == (len(inside), len(outside))
        shares = [np.mean(side) if side else np.nan for side in (inside, outside)]
        expected = [*shares, shares[0] - shares[1]]
        given = [row["probability_in"], row["probability_out"], row["memorization"]]
        assert given == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("budget", [2**30, 8 * 4 * 700])
def test_influence_holds_the_strongest_pairs_whatever_the_blocks(monkeypatch, budget):
    monkeypatch.setattr("memjax.memory.memory_budget", lambda device=None: budget)
    context = runs.context("mlp")
    correct, is_member = correct_by_hand(context, "validation"), context.run.is_member
    found = INFLUENCE.compute(context, context.run.steps[-1])
    with np.errstate(invalid="ignore"):
        inside = is_member.T.astype(float) @ correct / is_member.sum(0)[:, None]
        outside = (~is_member).T.astype(float) @ correct / (~is_member).sum(0)[:, None]
    influence = inside - outside
    strongest = np.sort(influence[~np.isnan(influence)])[::-1][:1000]
    np.testing.assert_allclose(found["influence"], strongest, atol=1e-6)
    rows = {index: row for row, index in enumerate(context.run.train.source_index.tolist())}
    columns = {index: c for c, index in enumerate(context.run.validation.source_index.tolist())}
    for _, row in found.iloc[::97].iterrows():
        pair = rows[row["train_index"]], columns[row["validation_index"]]
        assert row["influence"] == pytest.approx(influence[pair], abs=1e-6)


@pytest.mark.parametrize("each", [MEMORIZATION, INFLUENCE])
def test_a_run_without_subsets_is_refused(each):
    with pytest.raises(InputError, match="subset_fraction"):
        each.check(runs.context("one"))
    with pytest.raises(InputError, match="at least 4 members"):
        each.check(runs.context("mlp", members=2))
