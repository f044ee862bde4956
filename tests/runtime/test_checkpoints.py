"""What is restored is what was saved, or it is refused."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memjax import config as config_lib
from memjax.errors import InputError
from memjax.runtime.checkpoints import Checkpoints, checkpoint_steps, finite_and_checksum
from memjax.runtime.mesh import make_mesh, over_members


def state_of(seed):
    key = jax.random.key(seed)
    return {"kernel": jax.random.normal(key, (4, 300, 50)), "count": jnp.arange(4, dtype=jnp.int32)}


def abstract(state, sharding=None):
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state
    )


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (0, 5):
        checkpoints.save(step, state_of(step), {"epoch": step / 5})
    checkpoints.wait()
    yield checkpoints, tmp_path
    checkpoints.close()


@given(st.integers(0, 7), st.integers(1, 9), st.integers(1, 30), st.booleans())
def test_first_and_last_steps_are_always_saved(every, per_epoch, epochs, dense):
    config = config_lib.Checkpoint(powers_of_two=dense, every_epochs=every)
    steps = checkpoint_steps(config, per_epoch, epochs)
    assert steps[0] == 0
    assert steps[-1] == per_epoch * epochs
    assert steps == sorted(set(steps))
    if every:
        assert set(range(0, steps[-1] + 1, every * per_epoch)) <= set(steps)


def test_restored_parameters_are_the_saved_ones_and_not_others(saved):
    checkpoints, _ = saved
    newest = checkpoints.restore_newest(abstract(state_of(0)))
    assert newest.step == 5
    assert newest.metadata["epoch"] == 1.0
    np.testing.assert_array_equal(newest.state["kernel"], state_of(5)["kernel"])
    assert not np.array_equal(newest.state["kernel"], state_of(0)["kernel"])


def test_restore_puts_the_state_on_the_mesh_of_this_process(saved):
    checkpoints, _ = saved
    sharding = over_members(make_mesh(num_members=4))
    restored = checkpoints.restore(0, abstract(state_of(0), sharding))
    assert restored.state["kernel"].sharding == sharding
    np.testing.assert_array_equal(restored.state["kernel"], state_of(0)["kernel"])


def damage_by_truncation(path):
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def damage_by_loss(path):
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.unlink()


@pytest.mark.parametrize("damage", [damage_by_truncation, damage_by_loss])
def test_a_damaged_newest_checkpoint_is_skipped_with_a_warning(saved, damage, caplog):
    checkpoints, path = saved
    damage(path / "checkpoints" / "5")
    with caplog.at_level(logging.WARNING):
        newest = checkpoints.restore_newest(abstract(state_of(0)))
    assert newest.step == 0
    assert "damaged" in caplog.text
    np.testing.assert_array_equal(newest.state["kernel"], state_of(0)["kernel"])
    assert checkpoints.steps() == [0]


def test_an_unknown_step_lists_the_known_ones(saved):
    checkpoints, _ = saved
    with pytest.raises(InputError, match="has: 0, 5"):
        checkpoints.restore(3, abstract(state_of(0)))


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    state = state_of(0)
    expected = np.array(state["kernel"])
    checkpoints.save(0, state, {})
    for _ in range(3):
        state = step(state)
    checkpoints.wait()
    restored = checkpoints.restore(0, abstract(state_of(0)))
    np.testing.assert_array_equal(restored.state["kernel"], expected)
    checkpoints.close()


def test_checksum_sees_one_bit_and_a_swap_and_no_sharding():
    state = state_of(0)
    finite, checksum = finite_and_checksum(state)
    assert finite
    sharded = jax.device_put(state, over_members(make_mesh(num_members=4)))
    assert finite_and_checksum(sharded)[1] == checksum
    nudged = state | {"kernel": state["kernel"].at[0, 0, 0].add(1e-6)}
    swapped = state | {"kernel": state["kernel"].at[0, 0].set(state["kernel"][0, 0, ::-1])}
    broken = state | {"kernel": state["kernel"].at[3, 2, 1].set(jnp.inf)}
    assert finite_and_checksum(nudged)[1] != checksum
    assert finite_and_checksum(swapped)[1] != checksum
    assert not finite_and_checksum(broken)[0]
