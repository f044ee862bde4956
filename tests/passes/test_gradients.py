"""Pass `gradients`: every column by its definition, one example at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax.passes import GRADIENTS
from tests.passes import runs


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def table(request):
    context = runs.context(request.param)
    return context, GRADIENTS.compute(context, context.run.steps[-1])


def test_rows_are_members_splits_and_examples(table):
    context, found = table
    sizes = found.groupby(["member", "split"]).size()
    assert sizes.to_dict() == {
        (member, split): count
        for member in context.members
        for split, count in (("train", 60), ("validation", 40))
    }
    assert set(found["step"]) == {context.run.steps[-1]}
    assert set(found["epoch"]) == {context.run.config.train.num_epochs}
    of_run = context.run.examples
    for member in context.members:
        rows = found[found["member"] == member].reset_index(drop=True)
        for column in of_run.columns.drop(["label_name", "true_label_name"]):
            assert rows[column].tolist() == of_run[column].tolist()


def test_every_column_is_what_a_loop_over_single_examples_gives(table):
    context, found = table
    member = context.members[-1]
    params = runs.params_of(context, context.run.steps[-1], member)
    rows = found[found["member"] == member].reset_index(drop=True)

    def loss(trained, image, label):
        logits = context.run.logits_fn({**params, "params": trained}, image[None])[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    gradient = jax.jit(jax.grad(loss))
    for split, first in (("train", 0), ("validation", 60)):
        arrays = getattr(context.run, split)
        for place in (0, 7):
            image, label = arrays.images[place], int(arrays.labels[place])
            row = rows.iloc[first + place]
            squares = [
                np.sum(np.square(leaf, dtype=float))
                for leaf in jax.tree.leaves(gradient(params["params"], image, label))
            ]
            assert row["gradient_norm"] == pytest.approx(np.sqrt(sum(squares)), rel=1e-5)
            logits = np.asarray(runs.one_logit_fn(context, params)(image), float)
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            distance = np.linalg.norm(shares - np.eye(len(logits))[label])
            assert row["el2n"] == pytest.approx(distance, rel=1e-4)
            assert row["loss"] == pytest.approx(-np.log(shares[label]), rel=1e-4)
            assert row["margin"] == pytest.approx(
                logits[label] - np.delete(logits, label).max(), abs=1e-4
            )
            assert row["entropy"] == pytest.approx(-np.sum(shares * np.log(shares)), rel=1e-4)
            assert row["prediction"] == logits.argmax()
            assert row["is_correct"] == (logits.argmax() == label)


def test_microbatches_change_nothing_but_rounding():
    whole = runs.context("one")
    step = whole.run.steps[-1]
    cut = runs.context("one", microbatch_size=7)
    np.testing.assert_allclose(
        GRADIENTS.compute(cut, step)["gradient_norm"],
        GRADIENTS.compute(whole, step)["gradient_norm"],
        rtol=1e-5,
    )


def test_num_examples_and_splits_choose_rows():
    context = runs.context("one", num_examples=3, splits=("validation",))
    found = GRADIENTS.compute(context, 0)
    assert found["split"].tolist() == ["validation"] * 3
    assert found["index"].tolist() == context.run.validation.source_index[:3].tolist()
    assert jnp.isfinite(jnp.asarray(found["gradient_norm"])).all()
