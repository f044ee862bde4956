"""What is done is kept, what was interrupted goes on, what is another's is refused."""

import dataclasses

import pandas as pd
import pyarrow.parquet as pq
import pytest

from memjax.errors import InputError
from memjax.loading import load_run
from memjax.passes import CRITICAL, DIFFICULTY, GRADIENTS, PASSES
from memjax.passes.base import Context, Options
from memjax.passes.runner import run_pass, table_path
from memjax.runtime.tables import read_metadata, write_table
from tests.passes import runs


class Interrupted(Exception):
    pass


def counting(analysis_pass, stop_before=None):
    """Returns the pass, and the list of the steps that it computes; it fails before one step."""
    computed = []

    def compute(context, step):
        if step == stop_before:
            raise Interrupted
        computed.append(step)
        return analysis_pass.compute(context, step)

    return dataclasses.replace(analysis_pass, compute=compute), computed


@pytest.fixture
def run(tmp_path):
    return load_run(runs.copy_of("one", tmp_path / "run"))


def test_an_interrupted_pass_goes_on_where_it_was(run, tmp_path):
    context = Context(run, Options(num_examples=5))
    steps = run.steps
    failing, before = counting(GRADIENTS, stop_before=steps[3])
    with pytest.raises(Interrupted):
        run_pass(context, failing)
    assert before == steps[:3]
    assert not table_path(context, GRADIENTS).exists()
    again, after = counting(GRADIENTS)
    progress = []
    table = run_pass(context, again, on_step=lambda done, total: progress.append((done, total)))
    assert after == steps[3:]
    assert progress[-1] == (len(steps), len(steps))
    undisturbed = load_run(runs.copy_of("one", tmp_path / "undisturbed"))
    expected = run_pass(Context(undisturbed, Options(num_examples=5)), GRADIENTS)
    pd.testing.assert_frame_equal(table, expected)
    assert [p.name for p in (run.workdir / "analysis").iterdir()] == ["gradients.parquet"]


def test_an_option_that_an_older_table_does_not_name_is_at_its_default(run):
    context = Context(run, Options(num_examples=5))
    table = run_pass(context, GRADIENTS)
    path = table_path(context, GRADIENTS)
    known = read_metadata(pq.read_schema(path))["identity"]
    older = {name: value for name, value in known.items() if name != "--splits"}
    assert older != known
    write_table(path, table, GRADIENTS.columns, {"identity": older})
    again, computed = counting(GRADIENTS)
    run_pass(context, again)
    assert computed == []
    with pytest.raises(InputError, match="--splits is "):
        run_pass(Context(run, Options(num_examples=5, splits=("train",))), GRADIENTS)


def test_what_is_done_is_not_done_again(run):
    context = Context(run, Options(steps=(3, 0), num_examples=5))
    first, computed = counting(GRADIENTS)
    table = run_pass(context, first)
    assert computed == [0, 3]
    second, computed = counting(GRADIENTS)
    pd.testing.assert_frame_equal(run_pass(context, second), table)
    assert computed == []
    more, computed = counting(GRADIENTS)
    table = run_pass(Context(run, Options(steps=(3, 9), num_examples=5)), more)
    assert computed == [9]
    assert table["step"].drop_duplicates().tolist() == [0, 3, 9]
    anew, computed = counting(GRADIENTS)
    run_pass(context, anew, overwrite=True)
    assert computed == [0, 3]


def test_a_table_of_other_options_is_refused(run):
    run_pass(Context(run, Options(steps=(0,), num_examples=5)), GRADIENTS)
    with pytest.raises(InputError, match="--num_examples is 5 there, 6 here"):
        run_pass(Context(run, Options(steps=(0,), num_examples=6)), GRADIENTS)
    # What changes no value of a pass does not count.
    seed = Options(steps=(0,), num_examples=5, seed=1, microbatch_size=2)
    run_pass(Context(run, seed), GRADIENTS)


def test_a_table_of_another_config_is_refused(run):
    context = Context(run, Options(steps=(0,), num_examples=5))
    table = run_pass(context, GRADIENTS)
    identity = table.attrs["metadata"]["identity"] | {"train.batch_size": 21}
    path = table_path(context, GRADIENTS)
    write_table(path, table, GRADIENTS.columns, {"identity": identity})
    with pytest.raises(InputError, match="batch_size is 21 there, 20 here"):
        run_pass(context, GRADIENTS)


def test_all_checkpoints_are_others_once_the_run_went_on(run):
    run_pass(Context(run, Options(steps=(0, 3))), DIFFICULTY)
    with pytest.raises(InputError, match="--steps"):
        run_pass(Context(run, Options()), DIFFICULTY)


@pytest.mark.parametrize("name", list(PASSES))
def test_every_column_says_what_it_means(tmp_path, name):
    of_subsets = ("memorization", "influence", "membership", "vulnerability")
    kind = "mlp" if name in of_subsets else "one"
    run = load_run(runs.copy_of(kind, tmp_path / "run"))
    options = Options(steps=(9,), num_examples=4, num_probes=1, num_class_probes=1, ntk_examples=2)
    context = Context(run, options)
    table = run_pass(context, PASSES[name])
    schema = pq.read_schema(run.workdir / "analysis" / f"{name}.parquet")
    meanings = {field.name: field.metadata[b"description"].decode() for field in schema}
    assert meanings == dict(PASSES[name].columns)
    assert list(meanings) == table.columns.tolist()
    assert all(meanings.values())
    assert run.table(name).attrs["columns"] == meanings
    assert run.tables == [name]


def test_a_checked_pass_computes_nothing_where_it_does_not_suit(run):
    with pytest.raises(InputError, match="subset_fraction"):
        run_pass(Context(run, Options()), PASSES["memorization"])
    assert not (run.workdir / "analysis").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radii": ()}, "--radii="),
        ({"radii": (-0.1,)}, "--radii=-0.1: must be numbers of at least 0"),
        ({"radii": (float("nan"),)}, "--radii=nan"),
        ({"radii": (float("inf"),)}, "--radii=inf"),
        ({"radius_units": "pixels"}, "--radius_units=pixels: must be of unit, pixel"),
        ({"splits": ("test",)}, "--splits=test: must be of train, validation"),
        ({"splits": ()}, "--splits="),
        ({"num_probes": 0}, "--num_probes=0: must be at least 1"),
        ({"num_examples": -1}, "--num_examples=-1: must be at least 0"),
        ({"norm_order": 3.0}, "--norm_order=3.0: must be of 1, 2, inf"),
        ({"members": 2}, "--members=2: the run has 1"),
        ({"steps": (5,)}, "--steps=5: no such checkpoint; there are: 0, 1, 2, 3, 6, 9"),
    ],
)
def test_options_out_of_range_are_named(options, words):
    with pytest.raises(InputError, match="^" + words):
        Context(runs.opened("one"), Options(**options))


def test_more_devices_than_there_are():
    with pytest.raises(InputError, match="--num_devices=5"):
        Context(runs.opened("one"), Options(), num_devices=5)


def test_the_seed_belongs_to_the_searches():
    assert "seed" in CRITICAL.options
    assert "seed" not in GRADIENTS.options
