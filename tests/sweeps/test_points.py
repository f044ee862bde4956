"""Sweep files: what is yielded is checked, points are grouped, and shares are disjoint."""

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memjax import command_line
from memjax.config import default_config, resolve
from memjax.data.sources import load_dataset
from memjax.errors import InputError
from memjax.sweeps.grouping import Group, bounded, group_points, share
from memjax.sweeps.points import Point, check_points, load_sweep, sweep_names

SHIPPED = command_line.config_folder() / "sweeps"


def sweep_file(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(
        "from memjax.config import default_config\nfrom memjax.sweeps.points import Point\n"
        f"def get_points(variant=''):\n    {body}\n"
    )
    return str(path)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return iter(())", "no points"),
        ("return [Point('a', {}, default_config())] * 2", "two of this name"),
        ("return [Point('a/b', {}, default_config())]", "letters, digits"),
        ("return [Point('a', {}, {'train': {'batch': 3}})]", "config.train.batch: unknown field"),
        ("return [Point('a', {}, {'seed': -1})]", "config.seed=-1"),
        ("return [Point('a', {'x': None}, {})]", "factor x=None"),
        ("return [Point('a', {'x': 1}, {}), Point('b', {'y': 1}, {})]", "must be the same"),
        ("return [1]", "yields int"),
        ("return 1 / 0", "ZeroDivisionError"),
        ("default_config().train.batchsize = 3", "get_points failed"),
    ],
)
def test_a_bad_sweep_is_one_clear_line(tmp_path, body, words):
    with pytest.raises(InputError) as raised:
        load_sweep(sweep_file(tmp_path, body), SHIPPED)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unknown_sweep_file_names_the_nearest():
    with pytest.raises(InputError, match=r"did you mean configs/sweeps/capacity\.py"):
        load_sweep("configs/sweeps/capacitiy.py", SHIPPED)


@pytest.mark.parametrize("name", sweep_names(SHIPPED))
@pytest.mark.parametrize("variant", ["", ":quick"])
def test_every_shipped_sweep_is_sound(name, variant):
    sweep = load_sweep(name + variant, pathlib.Path(SHIPPED))
    assert len(sweep.points) >= 4
    assert "seed" in sweep.points[0].factors


def configs(*changes):
    made = []
    for each in changes:
        config = default_config()
        config.dataset.num_train = 100
        config.train.batch_size = 10
        config.update_from_flattened_dict(each)
        made.append(resolve(config))
    return made


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ({}, {"seed": 3}, True),
        ({"corruption.kind": "random_inputs"}, {"corruption.kind": "random_labels"}, True),
        ({"corruption.kind": "random_labels", "corruption.fraction": 0.2}, {}, True),
        ({"optimizer.learning_rate": 0.5}, {}, True),
        ({"regularizer.dropout": 0.5}, {"regularizer.dropout": 0.1}, True),
        ({"regularizer.dropout": 0.5}, {}, False),
        ({"corruption.kind": "removed", "corruption.fraction": 0.5}, {}, False),
        ({"corruption.kind": "shuffled_pixels"}, {}, False),
        ({"train.batch_size": 20}, {}, False),
        ({"optimizer.momentum": 0.9}, {}, False),
    ],
)
def test_what_trains_together(one, other, together):
    both = configs(one, other)
    groups = group_points(both, [load_dataset(both[0].dataset)] * 2)
    assert len(groups) == (1 if together else 2)


@given(
    st.lists(st.lists(st.floats(1.0, 100.0), min_size=1, max_size=6), min_size=1, max_size=5),
    st.data(),
)
def test_shares_are_disjoint_complete_and_balanced(costs_by_group, data):
    costs, groups = [], []
    for each in costs_by_group:
        groups.append(Group(tuple(range(len(costs), len(costs) + len(each))), ()))
        costs += each
    count = data.draw(st.integers(1, len(costs)))
    shares = [share(groups, costs, index, count) for index in range(count)]
    points = [point for part in shares for group in part for point in group.points]
    assert sorted(points) == list(range(len(costs)))
    for part in shares:
        cost = sum(costs[point] for group in part for point in group.points)
        assert cost <= sum(costs) / count + max(costs) + 1e-6


def test_more_tasks_than_points_are_refused():
    with pytest.raises(InputError, match="--num_tasks=3"):
        share([Group((0, 1), ())], [1.0, 1.0], 0, 3)


def test_a_group_is_cut_to_the_memory_in_even_parts():
    group = Group(tuple(range(10)), ())
    parts = bounded(group, lambda num_points: 1.0 + num_points, budget=5.5)
    assert [len(part.points) for part in parts] == [4, 4, 2]
    assert bounded(group, lambda num_points: 1.0 + num_points, budget=11.0) == [group]
    alone = bounded(group, lambda num_points: 1.0 + num_points, budget=1.5)
    assert [part.points for part in alone] == [(point,) for point in range(10)]


def test_check_points_accepts_what_is_sound():
    assert len(check_points((Point("a", {"x": 1}, default_config()),), "f")) == 1
