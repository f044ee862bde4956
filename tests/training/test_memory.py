"""What a point needs in memory is bounded from its shapes, and not by orders of magnitude."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from memjax.config import default_config, resolve
from memjax.data.sources import load_dataset
from memjax.sweeps.cost import estimate, group_bytes
from memjax.training.memory import peak_bytes
from memjax.training.setup import prepare
from memjax.training.state import init_state
from memjax.training.step import Batch, make_train_step

NETWORKS = {
    "mlp": {"widths": (256, 256)},
    "alexnet": {"width_factor": 0.1, "crop": 0, "pool": 2},
}


def config_of(name, **changes):
    config = default_config()
    config.dataset.num_train = 400
    config.model.name = name
    config.model.update(NETWORKS[name])
    config.optimizer.momentum = 0.9
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return resolve(config)


def compiled_bytes(config):
    """What XLA says that one step of one network needs beyond its arguments."""
    setup = prepare(config)
    network, optimizer = setup.network, setup.optimizer
    state = jax.eval_shape(lambda: init_state(0, network.model, optimizer, setup.image_shape))
    size = config.train.batch_size
    images = jax.ShapeDtypeStruct((size, *setup.image_shape), jnp.float32)
    batch = Batch(images, jax.ShapeDtypeStruct((size,), jnp.int32))
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = jax.jit(make_train_step(network, optimizer)).lower(state, batch, key).compile()
    found = program.memory_analysis()
    return found.temp_size_in_bytes + found.output_size_in_bytes


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch_size", [20, 200])
def test_the_bound_holds_for_the_compiled_step_and_is_within_a_factor_of_four(name, batch_size):
    config = config_of(
        name, **{"train.batch_size": batch_size, "run.evaluation_batch_size": batch_size}
    )
    actual = compiled_bytes(config)
    bound = estimate(config, load_dataset(config.dataset)).working_bytes
    assert actual <= bound <= 4 * actual


def test_values_within_branches_and_loops_are_counted():
    def program(x):
        x = jax.lax.cond(x[0] > 0, lambda: jnp.sin(jnp.concatenate([x, x]))[:1000], lambda: x)
        return jax.lax.fori_loop(0, 3, lambda _, y: jnp.cos(y), x)

    found = peak_bytes(jax.make_jaxpr(program)(jnp.zeros(1000)).jaxpr)
    assert 16_000 <= found <= 24_000


def test_a_program_that_returns_a_constant_is_counted():
    assert peak_bytes(jax.make_jaxpr(lambda x: (jnp.sin(x), 1.0))(jnp.zeros(10)).jaxpr) == 40


def test_a_group_needs_more_the_more_points_and_the_more_members_side_by_side():
    config = config_of("alexnet")
    dataset, devices = load_dataset(config.dataset), jax.local_devices()[:1]
    cost = estimate(config, dataset)

    def needed(num_points, members_per_chunk, num_datasets=1):
        run = dataclasses.replace(config.run, members_per_chunk=members_per_chunk)
        changed = dataclasses.replace(config, run=run)
        return group_bytes(num_points, cost, changed, dataset, num_datasets, devices)

    images = dataset.train.images.nbytes + dataset.validation.images.nbytes
    assert needed(1, 1) == images + cost.bytes + cost.working_bytes
    assert needed(8, 1) == needed(1, 1) + 7 * cost.bytes
    assert needed(8, 4) == needed(8, 1) + 3 * cost.working_bytes
    assert needed(2, 4) == needed(2, 2)
    assert needed(2, 2, num_datasets=5) == needed(2, 2) + images
