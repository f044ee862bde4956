"""Every figure is drawn from its table alone."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from memjax.errors import InputError
from memjax.experiments.context import Context
from memjax.experiments.registry import EXPERIMENTS, load_table, redraw, save_table
from memjax.reporting.measurement import NotMeasurable
from tests.experiments.made_up import table_of

CONTEXT = Context("smoke", "digits, MLP of 2 layers of 64 units", ("64 of 4096 hidden units",))


def _saved(folder, name, **truth):
    table = table_of(name, np.random.default_rng(0), **truth)
    path = folder / f"{name}.parquet"
    save_table(path, EXPERIMENTS[name], table, CONTEXT)
    return path, table


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_figure_is_redrawn_from_its_table_alone(name, tmp_path):
    png, svg = redraw(_saved(tmp_path, name)[0])
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_bytes().rstrip().endswith(b"</svg>")


@pytest.mark.parametrize("name", ["figure02", "figure05", "figure09"])
def test_same_table_gives_the_same_files(name, tmp_path):
    path, _ = _saved(tmp_path, name)
    first = [file.read_bytes() for file in redraw(path)]
    assert [file.read_bytes() for file in redraw(path)] == first


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_caption_and_alt_text_say_set_up_and_numbers(name, tmp_path):
    experiment, table, context = load_table(_saved(tmp_path, name)[0])
    caption, alt_text = experiment.caption(table, context), experiment.alt_text(table, context)
    assert context == CONTEXT
    assert CONTEXT.setup in caption
    assert re.search("seeds? \\(0|40 runs", caption)
    assert re.search(r"\d", alt_text) or name == "figure11"
    assert "nan" not in caption + alt_text


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_axes_are_labelled(name):
    experiment = EXPERIMENTS[name]
    figure = experiment.draw(table_of(name, np.random.default_rng(0)), CONTEXT)
    axes = [ax for ax in figure.axes if ax.axison]
    assert all(ax.get_ylabel() for ax in axes)
    assert all(ax.get_xlabel() or ax.get_label() == "<colorbar>" for ax in axes)
    assert axes or name == "figure02"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_one_seed_can_be_drawn(name):
    truth = {} if name in ("figure01", "figure02") else {"seeds": 1}
    figure = EXPERIMENTS[name].draw(table_of(name, np.random.default_rng(0), **truth), CONTEXT)
    figure.draw_without_rendering()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_columns_are_described_in_the_file(name, tmp_path):
    path, table = _saved(tmp_path, name)
    schema = pq.read_schema(path)
    assert set(schema.names) == set(EXPERIMENTS[name].COLUMNS) == set(table.columns)
    assert all(field.metadata[b"description"] for field in schema)
    assert json.loads(schema.metadata[b"memjax"])["experiment"] == name


def test_table_with_a_missing_or_unknown_column_is_refused(tmp_path):
    experiment = EXPERIMENTS["figure03"]
    table = table_of("figure03", np.random.default_rng(0))
    with pytest.raises(InputError, match=r"missing: \['gini'\]"):
        save_table(tmp_path / "a.parquet", experiment, table.drop(columns="gini"), CONTEXT)
    with pytest.raises(InputError, match=r"unknown: \['loss'\]"):
        save_table(tmp_path / "a.parquet", experiment, table.assign(loss=0.0), CONTEXT)
    with pytest.raises(InputError, match="0 rows"):
        save_table(tmp_path / "a.parquet", experiment, table.iloc[:0], CONTEXT)


def test_missing_data_is_said_not_drawn_around():
    table = table_of("figure03", np.random.default_rng(0))
    with pytest.raises(NotMeasurable, match="data=randX"):
        EXPERIMENTS["figure03"].draw(table[table["data"] == "real"], CONTEXT)


def test_censored_runs_are_hollow():
    table = table_of("figure06", np.random.default_rng(0), epochs_run=60)
    figure = EXPERIMENTS["figure06"].draw(table, CONTEXT)
    hollow = [
        len(line.get_xdata())
        for ax in figure.axes
        for line in ax.get_lines()
        if line.get_markerfacecolor() == "white"
    ]
    assert sum(hollow) == table["epochs_to_fit"].isna().sum() > 0
