"""Sweep files: what is yielded is checked, points are grouped, and shares are disjoint."""

import pathlib

import pytest
from hypothesis import given, strategies as st

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
        (
            "return [Point('a', {'x': 8}, {}), Point('b', {'x': 'auto'}, {})]",
            "point 'b': factor x='auto' is text, that of point 'a' is 8; must be text, or a number",
        ),
        (
            "return [Point('a', {'x': 8}, {}), Point('b', {'x': True}, {})]",
            "factor x=True is a boolean",
        ),
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


def points_of(*changes):
    made = []
    for number, each in enumerate(changes):
        config = default_config()
        config.update_from_flattened_dict(each)
        made.append(Point(f"p{number}", {}, config))
    return tuple(made)


def test_a_field_that_has_an_effect_at_one_point_may_be_set_at_all():
    weights = [{"regularizer.adversarial_weight": w} for w in (0.0, 0.5)]
    radius = {"regularizer.adversarial_radius": 0.1, "regularizer.adversarial_steps": 3}
    assert len(check_points(points_of(*(w | radius for w in weights)), "f")) == 2
    kinds = [{"corruption.kind": kind} for kind in ("none", "random_labels")]
    assert len(check_points(points_of(*(k | {"corruption.seed": 4} for k in kinds)), "f")) == 2


def test_a_field_that_has_an_effect_at_no_point_is_refused():
    radius = {"regularizer.adversarial_radius": 0.1}
    with pytest.raises(InputError) as error:
        check_points(points_of({}, radius, radius | {"seed": 1}), "mine.py")
    assert str(error.value) == (
        "--sweep=mine.py: point 'p1': config.regularizer.adversarial_radius=0.1: has an effect "
        "only with adversarial training; here config.regularizer.adversarial_weight=0.0; so at "
        "every point where it is set"
    )


def ensembles(*seeds, size=5, **more):
    return points_of(*({"ensemble.size": size, "seed": seed, **more} for seed in seeds))


@pytest.mark.parametrize("seeds", [(0, 1), (0, 4), (4, 0), (0, 5, 9), (10, 0, 12)])
def test_ensembles_that_share_members_are_refused(seeds):
    with pytest.raises(InputError, match=r"share members.*let the seeds differ by 5"):
        check_points(ensembles(*seeds), "f")


def test_noise_of_another_seed_does_not_make_other_members():
    noisy = {"corruption.kind": "random_labels", "ensemble.size": 5}
    points = points_of(*(noisy | {"seed": seed, "corruption.seed": seed} for seed in (0, 1)))
    with pytest.raises(InputError, match=r"points 'p0' and 'p1'"):
        check_points(points, "f")


def test_ensembles_apart_are_accepted_and_other_networks_may_have_the_same_seeds():
    assert len(check_points(ensembles(0, 5, 10), "f")) == 3
    assert len(check_points(ensembles(0, 1, 2, size=1), "f")) == 3
    widths = [{"ensemble.size": 5, "seed": s, "train.batch_size": 10 + s} for s in (0, 1)]
    assert len(check_points(points_of(*widths), "f")) == 2
    levels = [
        {"ensemble.size": 5, "corruption.kind": "random_labels", "corruption.fraction": level}
        for level in (0.0, 0.5)
    ]
    assert len(check_points(points_of(*levels), "f")) == 2


@pytest.mark.parametrize("name", ["capacity.py", "configs/sweeps/capacity.py"])
def test_a_bare_name_means_the_shipped_sweep(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_sweep(f"{name}:quick", SHIPPED).points


@pytest.mark.parametrize("name", ["sweeps/capacity.py", "./capacity.py", "/no/where/capacity.py"])
def test_another_path_that_does_not_exist_is_refused(name):
    with pytest.raises(InputError, match=f"--sweep={name}: no such sweep file"):
        load_sweep(name, SHIPPED)


def test_a_path_in_a_sweep_file_may_begin_at_its_folder(tmp_path):
    (tmp_path / "own.npz").write_text("")
    body = "return [Point('a', {}, {'dataset': {'source': 'npz', 'path': 'own.npz'}})]"
    (config,) = load_sweep(sweep_file(tmp_path, body), SHIPPED).configs
    assert config.dataset.path == str(tmp_path / "own.npz")


def test_check_points_accepts_what_is_sound():
    assert len(check_points((Point("a", {"x": 1}, default_config()),), "f")) == 1
