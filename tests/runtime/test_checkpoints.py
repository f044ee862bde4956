"""What is restored is what was saved, or it is refused."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st

from memjax import config as config_lib
from memjax.errors import InputError
from memjax.runtime.checkpoints import (
    Checkpoints,
    Damaged,
    checkpoint_steps,
    finite_and_checksums,
)
from memjax.runtime.mesh import make_mesh, over_members


def state_of(seed):
    key = jax.random.key(seed)
    return {"kernel": jax.random.normal(key, (4, 300, 50)), "count": jnp.arange(4, dtype=jnp.int32)}


def row_of(state):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state)


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
    state, metadata = checkpoints.restore(5, row_of(state_of(0)))
    assert metadata["epoch"] == 1.0
    np.testing.assert_array_equal(state["kernel"], state_of(5)["kernel"])
    assert not np.array_equal(state["kernel"], state_of(0)["kernel"])
    checkpoints.check(5, metadata["checksum"], state)
    with pytest.raises(Damaged, match="checksum differs"):
        checkpoints.check(5, metadata["checksum"], state_of(0))


def test_a_step_before_the_newest_is_saved_too(saved):
    checkpoints, path = saved
    checkpoints.save(3, state_of(3), {})
    checkpoints.wait()
    assert Checkpoints(path, read_only=True).steps() == [0, 3, 5]


def damage_by_truncation(path):
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def damage_by_loss(path):
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.unlink()


def damage_by_a_bit(path):
    largest = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 4
    largest.write_bytes(bytes(data))


def damage_of_the_metadata(path):
    (path / "metadata" / "metadata").write_text('{"epoch": 2.0}')


@pytest.mark.parametrize(
    "damage", [damage_by_truncation, damage_by_loss, damage_by_a_bit, damage_of_the_metadata]
)
def test_a_damaged_checkpoint_is_told_from_others_and_set_aside_whole(saved, damage):
    checkpoints, path = saved
    damage(path / "checkpoints" / "5")

    def read():
        state, metadata = checkpoints.restore(5, row_of(state_of(0)))
        checkpoints.check(5, metadata["checksum"], state)

    with pytest.raises(Damaged, match="5: damaged"):
        read()
    files = sorted(p.name for p in (path / "checkpoints" / "5").rglob("*"))
    aside = checkpoints.set_aside(5)
    assert aside.name == "5.damaged-1"
    assert sorted(p.name for p in pathlib.Path(aside).rglob("*")) == files
    assert checkpoints.steps() == [0]
    checkpoints.save(5, state_of(5), {})
    checkpoints.wait()
    assert checkpoints.steps() == [0, 5]
    assert Checkpoints(path, read_only=True).steps() == [0, 5]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(5, "Input/output error"),
        PermissionError(13, "Permission denied"),
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_fails_outside_of_a_checkpoint_is_no_damage(saved, monkeypatch, error):
    checkpoints, path = saved

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints._manager, "restore", fail)
    with pytest.raises(InputError, match="nothing was changed") as caught:
        checkpoints.restore(5, row_of(state_of(0)))
    assert not isinstance(caught.value, Damaged)
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == ["0", "5"]


def test_another_structure_is_no_damage(saved):
    checkpoints, _ = saved
    other = row_of(state_of(0)) | {"bias": jax.ShapeDtypeStruct((3,), jnp.float32)}
    with pytest.raises(InputError, match="of another network or optimiser") as caught:
        checkpoints.restore(5, other)
    assert not isinstance(caught.value, Damaged)


def test_an_unknown_step_lists_the_known_ones(saved):
    checkpoints, _ = saved
    with pytest.raises(InputError, match="has: 0, 5"):
        checkpoints.restore(3, row_of(state_of(0)))


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
    state = state_of(0)
    expected = np.array(state["kernel"])
    checkpoints.save(0, state, {})
    for _ in range(3):
        state = step(state)
    checkpoints.wait()
    restored, _ = checkpoints.restore(0, row_of(state_of(0)))
    np.testing.assert_array_equal(restored["kernel"], expected)
    checkpoints.close()


def test_checksums_see_one_bit_and_a_swap_and_no_sharding():
    state = state_of(0)
    finite, checksums = finite_and_checksums(state)
    assert finite.all()
    sharded = jax.device_put(state, over_members(make_mesh(num_members=4)))
    np.testing.assert_array_equal(finite_and_checksums(sharded)[1], checksums)
    kernel = state["kernel"]
    nudged = state | {"kernel": kernel.at[0, 0, 0].add(1e-6)}
    swapped = state | {"kernel": kernel.at[0, 0].set(kernel[0, 0, ::-1])}
    broken = state | {"kernel": kernel.at[3, 2, 1].set(jnp.inf)}
    for changed, row in ((nudged, 0), (swapped, 0), (broken, 3)):
        is_same = np.asarray(finite_and_checksums(changed)[1] == checksums)
        assert is_same.tolist() == [place != row for place in range(4)]
    assert finite_and_checksums(broken)[0].tolist() == [True, True, True, False]
