"""Every pass on four devices: the same numbers, and all devices at work."""

import jax
import numpy as np
import pandas as pd
import pytest

from memjax.analysis import microbatch
from memjax.passes import (
    PASSES,
    base,
    gradients,
    inputs,
    jacobians,
    learning,
    localization,
    sensitivity,
)
from memjax.passes.base import Context, Options
from tests.passes import runs

pytestmark = pytest.mark.campaign

SMALL = {
    "radii": (0.02,),
    "num_probes": 4,
    "num_class_probes": 1,
    "ntk_examples": 8,
    "spectrum_examples": 8,
    "unit_examples": 4,
    "freeze_statistics": True,
}
# Attribution shares out training examples, not images: tests/analysis/test_attribution.py has it.
NAMES = [name for name in PASSES if name != "attribution"]
NEED_SUBSETS = ("memorization", "influence", "membership", "vulnerability")
OF_CNN = [name for name in NAMES if name not in NEED_SUBSETS]


def computed(context, name):
    step = context.run.steps[-1]
    each = PASSES[name]
    return each.compute(context, step if each.per_checkpoint else each.parts(context)[0])


def assert_equal_tables(one, other):
    assert one.columns.tolist() == other.columns.tolist()
    assert len(one) == len(other)
    for column in one:
        values, others = one[column], other[column]
        if values.dtype == object and isinstance(values.iloc[0], np.ndarray):
            values, others = np.stack(values), np.stack(others)
        elif not pd.api.types.is_float_dtype(values):
            assert values.tolist() == others.tolist(), column
            continue
        scale = np.nanmax(np.abs(np.asarray(values, float)), initial=1e-30)
        np.testing.assert_allclose(values, others, rtol=2e-3, atol=1e-4 * scale, err_msg=column)


def spy_on_devices(monkeypatch):
    """Returns a list that gets, for everything shared out, how many devices have a share."""
    used = []

    def note(array):
        used.append(len({str(shard.index) for shard in array.addressable_shards}))

    def spied_over_devices(fn, mesh):
        compiled = microbatch.over_devices(fn, mesh)

        def call(*arguments):
            results = compiled(*arguments)
            jax.tree.map(note, results)
            return results

        return call

    def spied_on_devices(context, images):
        images = on_devices(context, images)
        note(images)
        return images

    def spied_loss_sensitivity(*arguments, mesh, **others):
        used.append(mesh.size)
        return loss_sensitivity(*arguments, mesh=mesh, **others)

    on_devices = base.Context.on_devices
    loss_sensitivity = sensitivity.loss_sensitivity
    for module in (base, gradients, inputs, jacobians, learning, localization):
        monkeypatch.setattr(module, "over_devices", spied_over_devices)
    monkeypatch.setattr(base.Context, "on_devices", spied_on_devices)
    monkeypatch.setattr(sensitivity, "loss_sensitivity", spied_loss_sensitivity)
    return used


@pytest.mark.parametrize(
    ("run", "name"), [("mlp", name) for name in NAMES] + [("cnn", name) for name in OF_CNN]
)
def test_four_devices_equal_one_and_all_are_used(monkeypatch, run, name):
    # Seven examples have to be filled up to eight; results come back split only if none were.
    count = 7 if name in ("critical", "sharpness") else 8
    options = Options(num_examples=count, members=0 if run == "cnn" else 4, **SMALL)
    one, four = (Context(runs.opened(run), options, devices) for devices in (1, 4))
    with monkeypatch.context() as patched:
        used = spy_on_devices(patched)
        result = computed(four, name)
    # Filters are weights as they are; the difficulty of whole members stands in their dynamics.
    computes = name != "filters" and (run, name) != ("cnn", "difficulty")
    assert max(used, default=1) == (4 if computes else 1)
    assert_equal_tables(computed(one, name), result)
