"""Each example is seen exactly once an epoch, in an order that only (key, epoch) decide."""

import jax
import numpy as np
from hypothesis import given, settings, strategies as st

from memjax.data.batching import batch_rows, epoch_order, make_batches


def all_batches(order, batches):
    positions = np.arange(batches.steps_per_epoch)
    rows, mask = jax.jit(jax.vmap(lambda position: batch_rows(order, position, batches)))(positions)
    return np.asarray(rows), np.asarray(mask)


@settings(max_examples=8)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4))
def test_every_example_is_seen_once_an_epoch(num_examples, batch_size, num_devices):
    batch_size = min(batch_size, num_examples)
    batches = make_batches(num_examples, batch_size, num_devices)
    assert batches.padded_size % num_devices == 0
    order = epoch_order(jax.random.key(0), 3, num_examples)
    rows, mask = all_batches(order, batches)
    assert rows.shape == (batches.steps_per_epoch, batches.padded_size)
    assert mask.any(axis=1).all()
    assert batches.has_padding or mask.all()
    assert sorted(rows[mask].tolist()) == list(range(num_examples))


@settings(max_examples=8)
@given(st.integers(2, 50), st.integers(1, 50), st.integers(2, 4))
def test_the_device_count_changes_no_batch(num_examples, batch_size, num_devices):
    batch_size = min(batch_size, num_examples)
    order = epoch_order(jax.random.key(1), 0, num_examples)
    one = make_batches(num_examples, batch_size, 1)
    many = make_batches(num_examples, batch_size, num_devices)
    rows, mask = all_batches(order, one)
    padded_rows, padded_mask = all_batches(order, many)
    for step in range(one.steps_per_epoch):
        assert rows[step][mask[step]].tolist() == padded_rows[step][padded_mask[step]].tolist()


def test_epochs_and_keys_have_their_own_orders():
    orders = [
        epoch_order(jax.random.key(key), epoch, 100).tolist() for key in (0, 1) for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4
