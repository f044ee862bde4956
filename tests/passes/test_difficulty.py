"""Pass `difficulty` against a Python loop over checkpoints, members and examples."""

import itertools

import numpy as np
import pandas as pd
import pytest

from memjax.loading import load_run
from memjax.passes import DIFFICULTY, GRADIENTS
from memjax.passes.base import Context, Options
from memjax.passes.difficulty import reads_dynamics
from memjax.passes.runner import run_pass
from tests.passes import runs


@pytest.fixture(scope="module")
def table():
    context = runs.context("mlp")
    return context, DIFFICULTY.compute(context, None)


@pytest.mark.parametrize(("split", "place"), [("train", 0), ("train", 17), ("validation", 5)])
def test_every_column_is_what_a_loop_gives(table, split, place):
    context, found = table
    arrays = getattr(context.run, split)
    image, label = arrays.images[place], int(arrays.labels[place])
    row = found[found["split"] == split].iloc[place]
    steps = context.run.steps
    epochs = [context.run.epoch(step) for step in steps]
    first, for_good, events, never = [], [], [], []
    margins, losses, shares, last = [], [], [], []
    for member in range(5):
        correct, of_member, of_loss = [], [], []
        for step in steps:
            params = runs.params_of(context, step, member)
            logits = np.asarray(runs.one_logit_fn(context, params)(image), float)
            share = np.exp(logits - logits.max())
            share /= share.sum()
            correct.append(bool(logits.argmax() == label))
            margins.append(logits[label] - np.delete(logits, label).max())
            of_loss.append(-np.log(share[label]))
            of_member.append(share[label])
        last.append(int(logits.argmax()))
        if split == "train" and not context.run.is_member[member, place]:
            del margins[-len(steps) :]
            continue  # what is said of learning is of those that were trained on the example
        losses.append(of_loss)
        shares.append(of_member)
        events.append(sum(a and not b for a, b in itertools.pairwise(correct)))
        never.append(not any(correct))
        if any(correct):
            first.append(epochs[correct.index(True)])
        if correct[-1]:
            wrong = [place for place, right in enumerate(correct) if not right]
            for_good.append(epochs[wrong[-1] + 1 if wrong else 0])
    pairs = [last[a] == last[b] for a, b in itertools.combinations(range(5), 2)]
    expected = {
        "probability_correct": np.mean([prediction == label for prediction in last]),
        "first_epoch_correct": np.mean(first) if first else np.nan,
        "epoch_learned_for_good": np.mean(for_good) if for_good else np.nan,
        "forgetting_events": np.mean(events),
        "share_never_learned": np.mean(never),
        "aum": np.mean(margins),
        "mean_loss": np.mean(losses),
        "loss_variance": np.var(losses, axis=1).mean(),
        "confidence": np.mean(shares),
        "variability": np.std(shares, axis=1).mean(),
        "agreement": np.mean(pairs),
    }
    for column, value in expected.items():
        assert row[column] == pytest.approx(value, rel=1e-3, abs=1e-5, nan_ok=True), column


def test_overdispersion_and_its_null_are_of_each_split(table):
    _, found = table
    for _, rows in found.groupby("split"):
        probability = rows["probability_correct"].to_numpy()
        mean = probability.mean()
        ratio = probability.var() / (mean * (1 - mean) / 5)
        assert set(rows["overdispersion"]) == {rows["overdispersion"].iloc[0]}
        assert rows["overdispersion"].iloc[0] == pytest.approx(ratio, rel=0.1)
        assert (rows["null_low"] <= rows["null_high"]).all()
        ranked = rows.sort_values("probability_correct", kind="stable")
        assert ranked["null_low"].is_monotonic_increasing


def test_one_member_has_no_agreement():
    found = DIFFICULTY.compute(runs.context("one"), None)
    for column in ("agreement", "overdispersion", "null_low", "null_high"):
        assert found[column].isna().all()
    assert set(found["probability_correct"]) <= {0.0, 1.0}


def test_recorded_dynamics_give_what_the_checkpoints_of_the_same_epochs_give():
    recorded = runs.context("one")
    steps = tuple(int(step) for step in recorded.run.dynamics["step"].unique())
    saved = runs.context("one", steps=steps)
    assert reads_dynamics(recorded)
    assert not reads_dynamics(saved)
    one, other = (DIFFICULTY.compute(context, None) for context in (recorded, saved))
    assert len(steps) == 4  # an evaluation an epoch, and one before
    assert len(set(recorded.run.steps)) > len(steps)
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-5)
    assert one["first_epoch_correct"].nunique() > 2


def test_an_interrupted_pass_goes_on_after_the_last_checkpoint_that_it_saw(tmp_path, monkeypatch):
    run = load_run(runs.copy_of("mlp", tmp_path / "run"))
    expected = DIFFICULTY.compute(Context(run, Options()), None)
    read, params_of = [], run.member_params

    def failing(step):
        if step == run.steps[3]:
            raise KeyboardInterrupt
        return params_of(step)

    monkeypatch.setattr(run, "member_params", failing)
    with pytest.raises(KeyboardInterrupt):
        run_pass(Context(run, Options(steps=tuple(run.steps))), DIFFICULTY)
    monkeypatch.setattr(run, "member_params", lambda step: read.append(step) or params_of(step))
    context = Context(run, Options(steps=tuple(run.steps)))
    found = run_pass(context, DIFFICULTY)
    assert set(run.steps[:3]) & set(read) <= {run.steps[0]}  # the trace looks at the first one
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-6)
    assert [path.name for path in (run.workdir / "analysis").iterdir()] == ["difficulty.parquet"]


def test_the_table_of_gradients_saves_the_forward_passes(tmp_path, monkeypatch):
    folder = runs.copy_of("mlp", tmp_path / "run")
    context = Context(load_run(folder), Options(seed=1))
    computed = DIFFICULTY.compute(context, None)
    run_pass(context, GRADIENTS)

    def fail(context, params):
        raise AssertionError("computed again")

    again = Context(load_run(folder), Options(seed=1))
    monkeypatch.setattr(Context, "logits", property(lambda context: fail))
    read = DIFFICULTY.compute(again, None)
    exact = read.select_dtypes(exclude="floating").columns
    pd.testing.assert_frame_equal(read[exact], computed[exact])
    others = read.columns.difference(exact)
    np.testing.assert_allclose(read[others], computed[others], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{"num_examples": 5}, {"members": 2}, {"steps": (0,)}])
def test_a_table_of_gradients_of_less_is_not_enough(tmp_path, monkeypatch, options):
    folder = runs.copy_of("mlp", tmp_path / "run")
    run_pass(Context(load_run(folder), Options(**options)), GRADIENTS)
    asked = []
    forward = Context.logits.func

    def counted(context):
        asked.append(context)
        return forward(context)

    monkeypatch.setattr(Context, "logits", property(counted))
    DIFFICULTY.compute(Context(load_run(folder), Options()), None)
    assert asked
