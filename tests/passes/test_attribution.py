"""Pass `attribution`: from the run's own checkpoints and batches, resumable, with its picture."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from memjax.analysis.attribution import example_attribution
from memjax.errors import InputError
from memjax.loading import Run, load_run
from memjax.passes import ATTRIBUTION
from memjax.passes.attribution_picture import draw_attribution
from memjax.passes.base import Context, Options
from memjax.passes.runner import run_pass
from memjax.passes.updates import sgd_updates
from memjax.reporting.style import drawn
from tests.passes import runs


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The pass over two members, of three queries each, in a run folder of its own."""
    folder = runs.copy_of("mlp", tmp_path_factory.mktemp("attribution") / "run")
    context = Context(load_run(folder), Options(queries="random:3", members=2))
    return context, run_pass(context, ATTRIBUTION)


def test_values_are_the_function_s_own(table):
    context, found = table
    run, member = context.run, 1
    asked = np.sort(np.random.default_rng(0).choice(40, 3, replace=False))
    direct = example_attribution(
        run.trained_logits_fn, **sgd_updates(context, member),
        query_images=run.validation.images[asked], query_labels=run.validation.labels[asked],
    )  # fmt: skip
    of_member = found[found["member"] == member]
    members_own = run.train.source_index[run.is_member[member]]
    assert of_member["train_index"].tolist() == 3 * members_own.tolist()
    assert of_member["query"].unique().tolist() == run.validation.source_index[asked].tolist()
    np.testing.assert_allclose(
        of_member["attribution"].to_numpy().reshape(3, 42), direct, rtol=1e-3, atol=1e-7
    )
    assert (of_member["step"] == 9).all()


def test_rank_0_helps_most(table):
    _, found = table
    for _, of_query in found.groupby(["member", "query"]):
        ranked = of_query.sort_values("rank")
        assert ranked["rank"].tolist() == list(range(42))
        assert ranked["attribution"].is_monotonic_increasing


def test_it_says_whether_to_trust_it(table, capsys):
    context, found = table
    assert set(found["trust"]) <= {"predictive", "nonlinear", "chaotic"}
    assert found["lds"].between(-1, 1).all()
    ATTRIBUTION.compute(context, "0000_00000000")
    printed = capsys.readouterr().out
    assert "LDS at 1 % left out" in printed


def test_a_part_that_is_there_is_not_computed_again(table, monkeypatch):
    context, found = table
    computed = []

    def compute(context, part):
        if part == "0001_00000000" and len(computed) < 2:
            computed.append(part)
            raise KeyboardInterrupt
        computed.append(part)
        return found[found["member"] == int(part[:4])]

    counted = dataclasses.replace(ATTRIBUTION, compute=compute)
    with pytest.raises(KeyboardInterrupt):
        run_pass(context, counted, overwrite=True)
    again = run_pass(context, counted)
    assert computed == ["0000_00000000", "0001_00000000", "0001_00000000"]
    assert again["attribution"].tolist() == found["attribution"].tolist()


def test_the_picture_shows_queries_and_examples(table):
    context, found = table
    path = ATTRIBUTION.draw(context, found)
    assert path.exists()
    assert path.read_bytes()[:4] == b"\x89PNG"


def run_of_classes(context, names):
    """Returns the run, its classes called otherwise."""
    run = Run(context.run.workdir)
    dataset = dataclasses.replace(run.setup.dataset, class_names=tuple(names))
    examples = dataclasses.replace(run.setup.examples, class_names=tuple(names))
    run.setup = run.setup._replace(dataset=dataset, examples=examples)
    return run


def test_the_picture_calls_classes_by_their_names(table):
    context, found = table
    run = run_of_classes(context, [f"class {label}" for label in range(10)])
    first = found[found["member"] == 0].iloc[0]
    titles = [ax.get_title() for ax in draw_attribution(run, found, num_queries=1).axes]
    assert f"is class {first.query_label}, said class {first.query_prediction}" in titles[0]
    assert all("class " in title for title in titles)


def test_dollars_in_the_names_of_classes_are_drawn_as_dollars(table):
    context, found = table
    run = run_of_classes(context, [f"$x_$ {label} $5 {{b$" for label in range(10)])
    assert drawn(draw_attribution(run, found, num_queries=1), "png")


def test_a_notebook_asks_a_run(table):
    context, found = table
    query = int(found["query"].iloc[0])
    direct = context.run.attribution(query)
    expected = found[(found["member"] == 0) & (found["query"] == query)]
    np.testing.assert_allclose(direct["attribution"], expected["attribution"], rtol=1e-5)


def test_the_mean_over_members_is_over_those_trained_on_the_example(table):
    context, found = table
    query = int(found["query"].iloc[0])
    mean = context.run.attribution(query, member=None).set_index("train_index")
    each = [context.run.attribution(query, member=i) for i in range(context.run.num_members)]
    together = pd.concat(each).groupby("train_index")["attribution"]
    expected = together.mean().reindex(mean.index)
    np.testing.assert_allclose(mean["attribution"], expected, rtol=1e-6)
    np.testing.assert_array_equal(mean["num_members"], together.size().reindex(mean.index))
    assert mean.sort_values("rank")["attribution"].is_monotonic_increasing
    assert sorted(mean["rank"]) == list(range(len(mean)))


def test_removal_is_predicted_and_confirmed(table):
    context, found = table
    mine = found[found["member"] == 0]
    out = mine["train_index"].unique()[:2]
    removal = context.run.predict_removal(out, queries="random:3", validate=True)
    expected = -mine[mine["train_index"].isin(out)].groupby("query")["attribution"].sum()
    np.testing.assert_allclose(removal["predicted_change"], expected, rtol=1e-4, atol=1e-7)
    assert np.corrcoef(removal["change"], removal["predicted_change"])[0, 1] > 0.9
    with pytest.raises(InputError, match="indices hold 999999"):
        context.run.predict_removal([999999])


def test_misclassified_are_those_that_the_last_network_gets_wrong():
    context = runs.context("one", queries="misclassified")
    [part] = ATTRIBUTION.parts(context)
    found = ATTRIBUTION.compute(context, part)
    wrong = found["query"].unique().tolist()
    logits = context.run.logits_fn(context.run.params(), context.run.validation.images)
    is_wrong = np.argmax(np.asarray(logits), axis=1) != context.run.validation.labels
    assert wrong == context.run.validation.source_index[is_wrong].tolist()
    assert (found["query_prediction"] != found["query_label"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": "random:0"}, "--queries=random:0: COUNT must be from 1 to 40"),
        ({"queries": "random:few"}, "COUNT must be from 1 to 40"),
        ({"queries": "-3"}, "--queries=-3: must be 'misclassified', 'random:COUNT' or positions"),
        ({"queries": "worst"}, "--queries=worst: must be"),
    ],
)
def test_bad_queries_are_one_line(options, message):
    with pytest.raises(InputError, match=message):
        ATTRIBUTION.check_suits(runs.context("one", **options))


def with_config(name, **changes):
    context = runs.changed(name, members=1)
    config = context.run.config
    for section, fields in changes.items():
        changed = dataclasses.replace(getattr(config, section), **fields)
        config = dataclasses.replace(config, **{section: changed})
    context.run.config = config
    return context


def test_runs_that_it_is_not_for_are_one_line():
    with pytest.raises(InputError, match=r"pass attribution: the run has config.regularizer.drop"):
        ATTRIBUTION.check_suits(with_config("mlp", regularizer={"dropout": 0.5}))
    with pytest.raises(InputError, match=r"pass attribution: needs config.train.compute_dtype"):
        ATTRIBUTION.check_suits(with_config("mlp", train={"compute_dtype": "bfloat16"}))
    with pytest.raises(InputError, match=r"the updates run again end .* away from the checkpoint"):
        ATTRIBUTION.compute(with_config("mlp", optimizer={"learning_rate": 0.5}), "0000_00000000")
    with pytest.raises(InputError, match="--measure=accuracy: must be of loss, margin"):
        Options(measure="accuracy")
    context = runs.changed("mlp", members=1)
    context.run.__class__ = type("Run", (Run,), {"steps": property(lambda self: [3, 6])})
    context.steps = [3, 6]
    with pytest.raises(InputError, match="pass attribution: needs the checkpoint of step 0"):
        ATTRIBUTION.check_suits(context)
