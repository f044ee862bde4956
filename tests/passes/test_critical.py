"""Pass `critical`: bounds that are bounds, and radii in the units that were asked for."""

import jax
import numpy as np
import pandas as pd
import pytest

from memjax.analysis.critical import lass
from memjax.errors import InputError
from memjax.keys import tagged
from memjax.passes import CRITICAL
from memjax.passes.critical import radii_in_unit_pixels
from tests.passes import runs

RADII = (0.0005, 0.02, 0.3)


@pytest.fixture(scope="module", params=["one", "cnn"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def table(name):
    context = runs.context(name, radii=RADII, num_examples=8)
    return context, CRITICAL.compute(context, context.run.steps[-1])


def test_lower_is_at_most_upper_and_both_grow_with_the_radius(table):
    _, found = table
    assert (found["critical_lower"] <= found["critical_upper"]).all()
    for bound in ("critical_lower", "critical_upper"):
        by_radius = found.pivot(index=["split", "index"], columns="radius", values=bound)
        assert (by_radius.astype(int).diff(axis=1).iloc[:, 1:] >= 0).all(axis=None)
        assert by_radius[RADII[-1]].mean() > by_radius[RADII[0]].mean()


def test_radii_agree_with_the_bounds_at_every_radius(table):
    _, found = table
    assert (found["certified_radius"] <= found["found_radius"]).all()
    is_near = found["found_radius"] <= found["radius"]
    assert (is_near <= found["critical_lower"]).all()
    assert ((found["certified_radius"] < found["radius"]) >= found["critical_upper"]).all()
    assert (found["certified_radius"] > 0).all()
    assert set(found["unknown_primitive"]) == {""}


def test_a_tiny_box_is_certified_and_a_wide_one_searched_with_success(table):
    _, found = table
    share = found.groupby("radius")[["critical_lower", "critical_upper"]].mean()
    assert share.loc[RADII[0], "critical_upper"] < 0.5
    assert share.loc[RADII[-1], "critical_lower"] > 0.5


def test_random_points_never_contradict_the_upper_bound(table):
    context, found = table
    params = runs.params_of(context, context.run.steps[-1])
    train = found[found["split"] == "train"]
    images = context.run.train.images[:8]
    for radius in RADII[:2]:
        rows = train[train["radius"] == radius]
        for seed in range(5):
            signs = jax.random.rademacher(jax.random.key(seed), images.shape, images.dtype)
            moved = context.run.logits_fn(params, images + radius * signs).argmax(-1)
            changed = np.asarray(moved) != rows["prediction"].to_numpy()
            assert not (changed & ~rows["critical_upper"].to_numpy()).any()


def test_without_certificates_the_searches_find_what_they_found_with_them(table, name):
    context, found = table
    options = {"radii": RADII, "num_examples": 8, "certify": False, "lass": True}
    again = CRITICAL.compute(runs.context(name, **options), context.run.steps[-1])
    np.testing.assert_array_equal(again["found_radius"], found["found_radius"])
    assert (again["critical_lower"] <= found["critical_lower"]).all()
    assert again[["critical_upper", "certified_radius"]].isna().all(axis=None)
    assert found["critical_lass"].isna().all()
    assert again["critical_lass"].mean() > 0.1


def test_lass_alone_is_what_the_function_finds():
    context = runs.context("one", radii=(0.05,), num_examples=8, certify=False, lass=True)
    step = context.run.steps[-1]
    table = CRITICAL.compute(context, step)
    params = runs.params_of(context, step)
    key = tagged(context.key, "critical")
    alone = lass(key, context.run.logits_fn, params, context.examples.images, 0.05)
    np.testing.assert_array_equal(table["critical_lass"].astype(bool), alone.is_critical)


def test_held_out_noise_is_searched_where_inputs_are_noise():
    context = runs.context("noise", radii=(0.05,), num_examples=8, splits=("validation", "noise"))
    table = CRITICAL.compute(context, context.run.steps[-1])
    assert table["split"].value_counts().to_dict() == {"validation": 8, "noise": 8}
    pd.testing.assert_frame_equal(
        *(
            table[table["split"] == split][["index", "label"]].reset_index(drop=True)
            for split in ("validation", "noise")
        )
    )
    with pytest.raises(InputError, match="split noise"):
        CRITICAL.compute(runs.context("one", splits=("noise",)), context.run.steps[-1])


def test_radii_are_converted_from_their_units():
    std = float(np.asarray(runs.opened("one").setup.network.std))
    for units, scale in (("unit", 1), ("pixel", 1 / 255), ("standardized", std)):
        context = runs.context("one", radii=(0.25, 3.0), radius_units=units)
        assert radii_in_unit_pixels(context) == pytest.approx([0.25 * scale, 3 * scale])


def test_a_radius_in_pixels_is_the_same_radius():
    context = runs.context("one", radii=RADII, num_examples=8)
    found = CRITICAL.compute(context, context.run.steps[-1])
    in_pixels = runs.context(
        "one",
        radii=tuple(255 * radius for radius in RADII),
        radius_units="pixel",
        num_examples=8,
    )
    again = CRITICAL.compute(in_pixels, context.run.steps[-1])
    assert again["radius"].to_numpy() == pytest.approx(found["radius"].to_numpy())
    assert set(again["radius_units"]) == {"pixel"}
    assert again["radius_as_given"].to_numpy() == pytest.approx(255 * found["radius"].to_numpy())
    for bound in ("critical_lower", "critical_upper"):
        assert (again[bound] == found[bound]).mean() > 0.99


def test_a_std_for_each_channel_has_no_standardized_radius():
    context = runs.changed("one", radius_units="standardized")
    network = context.run.setup.network._replace(std=np.array([0.2, 0.3]))
    context.run.setup = context.run.setup._replace(network=network)
    with pytest.raises(InputError, match="each channel"):
        CRITICAL.check(context)
