"""Passes `rewinding` and `localization` on a run's checkpoints, beside networks made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.analysis.localization import network_layers, units_to_forget
from memjax.errors import InputError
from memjax.passes import LOCALIZATION, REWINDING
from tests import command_line
from tests.passes import runs


def predictions(context, params, arrays):
    return np.asarray(context.run.logits_fn(params, arrays.images)).argmax(axis=-1)


def test_rewinding_is_the_accuracy_of_a_network_of_two_checkpoints():
    context, member = runs.context("mlp"), 3
    steps = context.run.steps
    assert REWINDING.parts(context) == [f"{step:012d}" for step in steps]
    found = REWINDING.compute(context, f"{steps[2]:012d}").query("member == 3")
    now, then = (runs.params_of(context, step, member) for step in (steps[-1], steps[2]))
    train, own = context.run.train, context.run.is_member[member]
    groups = {
        "corrupted": train.at(own & train.is_corrupted),
        "clean": train.at(own & ~train.is_corrupted),
        "validation": context.run.validation,
    }
    for name in ("Dense_0", "Dense_1"):
        mixed = {"params": now["params"] | {name: then["params"][name]}}
        for group, arrays in groups.items():
            is_row = (found["layer_name"] == name) & (found["group"] == group)
            [row] = found[is_row].to_dict("records")
            is_right = predictions(context, mixed, arrays) == arrays.labels
            assert row["accuracy"] == pytest.approx(is_right.mean())
            assert row["num_examples"] == len(arrays.labels)
    last = REWINDING.compute(context, f"{steps[-1]:012d}").query("member == 3")
    assert last.groupby("group")["accuracy"].nunique().eq(1).all()  # rewound to itself


def test_units_are_those_of_the_function():
    context = runs.context("one")
    step, train = context.run.steps[-1], context.run.train
    found = LOCALIZATION.compute(context, step)
    assert found["is_corrupted"].tolist().count(True) == 30
    is_asked = np.isin(train.source_index, found["index"])
    asked, others = train.at(is_asked), train.at(~is_asked)
    params = runs.params_of(context, step)
    direct = units_to_forget(
        context.run.logits_fn, params, asked.images, jnp.asarray(asked.labels),
        others.images, jnp.asarray(others.labels),
    )  # fmt: skip
    assert direct.num_units.tolist() == found["num_units"].tolist()
    assert len(set(direct.num_units.tolist())) > 2
    np.testing.assert_array_equal(np.stack(found["units_by_layer"]), direct.by_layer)
    np.testing.assert_allclose(found["others_accuracy"], direct.others_accuracy, rtol=1e-6)
    before = (predictions(context, params, others) == others.labels).mean()
    assert found["others_accuracy_before"].tolist() == pytest.approx([before] * len(found))


def test_units_of_a_cnn_are_channels_after_their_batch_norm():
    context = runs.context("cnn")
    params, train = runs.params_of(context, context.run.steps[-1]), context.run.train
    right = np.flatnonzero(predictions(context, params, train) == train.labels)[:3]
    examples, others = train.at(right), train.at(slice(50, 54))
    hidden = network_layers(context.run.logits_fn, params, train.images)[:-1]
    direct = units_to_forget(
        context.run.logits_fn, params, examples.images, jnp.asarray(examples.labels),
        others.images, jnp.asarray(others.labels),
    )  # fmt: skip
    assert np.isfinite(direct.num_units).all()
    for place in range(3):
        order = [unit for unit in direct.units[place].tolist() if unit >= 0]
        for count in (len(order) - 1, len(order)):
            zeroed = without_channels(params, order[:count], [each.num_units for each in hidden])
            [answer] = predictions(context, zeroed, examples.at(slice(place, place + 1)))
            assert (answer == examples.labels[place]) == (count < len(order))
        still_right = predictions(context, zeroed, others) == others.labels
        assert direct.others_accuracy[place] == pytest.approx(still_right.mean())


def without_channels(params, units, widths):
    """The params with scale and offset of the BatchNorm of these channels at 0."""
    starts = np.cumsum([0, *widths])
    layers = {k: {n: np.array(v) for n, v in each.items()} for k, each in params["params"].items()}
    for unit in units:
        layer = np.searchsorted(starts, unit, side="right") - 1
        for leaf in ("scale", "bias"):
            layers[f"BatchNorm_{layer}"][leaf][unit - starts[layer]] = 0
    return params | {"params": jax.tree.map(jnp.asarray, layers)}


def test_others_are_clean_examples_that_nobody_asks_about(monkeypatch):
    context, seen = runs.context("mlp", unit_examples=5), []

    def units(context):
        def forget(given, images, labels):
            seen.append((given, images))
            raise KeyboardInterrupt

        return forget

    monkeypatch.setattr("memjax.passes.localization._units", units)
    with pytest.raises(KeyboardInterrupt):
        LOCALIZATION.compute(context, context.run.steps[-1])
    [((_, others, _), images)] = seen
    train = context.run.train
    flat = np.asarray(train.images).reshape(60, -1)
    rows = [
        {int(np.flatnonzero((flat == each).all(axis=1))[0]) for each in np.reshape(x, (len(x), -1))}
        for x in (np.asarray(images), np.asarray(others))
    ]
    assert len(rows[0]) == 10
    assert not rows[0] & rows[1]
    assert not train.is_corrupted[list(rows[1])].any()
    assert context.run.is_member[0][list(rows[0] | rows[1])].all()


def test_runs_that_they_are_not_for_are_one_line():
    context = runs.changed("one", steps=(0,))
    with pytest.raises(InputError, match="pass rewinding: needs a checkpoint before step 0"):
        REWINDING.check_suits(context)
    context = runs.changed("one")
    corrupted = np.ones(60, bool)
    context.run.train = context.run.train._replace(is_corrupted=corrupted)
    with pytest.raises(
        InputError, match="pass localization: all training examples of member 0 are corrupted"
    ):
        LOCALIZATION.check_suits(context)
    context = runs.changed("one")
    context.run.logits_fn = lambda params, images: (
        images.reshape(len(images), -1)[:, :8] @ params["params"]["Dense_1"]["kernel"]
    )
    with pytest.raises(InputError, match=r"pass localization: units .* it has no hidden layer"):
        LOCALIZATION.check_suits(context)
    with pytest.raises(InputError, match="--unit_examples=0: must be at least 1"):
        runs.changed("one", unit_examples=0)


def test_the_command_line_makes_tables_and_pictures(tmp_path):
    workdir = runs.copy_of("one", tmp_path / "run")
    flags = [f"--workdir={workdir}", "--passes=rewinding,localization"]
    finished = command_line.run("memjax.analyze", *flags)
    assert finished.returncode == 0, finished.stderr
    first, second = finished.stdout.strip().splitlines()
    steps = len(runs.opened("one").steps)
    assert first.split()[:3] == ["rewinding", str(steps * 2 * 3), "rows"]
    assert second.split()[:3] == ["localization", str(steps * 45), "rows"]
    for name in ("rewinding", "localization"):
        assert (workdir / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
