"""Each example is seen exactly once an epoch, in an order that only (key, epoch) decide."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from memjax.data.batching import batch_rows, epoch_order, make_batches


@settings(max_examples=8)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4))
def test_every_example_is_seen_once_an_epoch(num_examples, batch_size, num_devices):
    batch_size = min(batch_size, num_examples)
    batches = make_batches(num_examples, batch_size, num_devices)
    assert batches.padded_size % num_devices == 0
    order = epoch_order(jax.random.key(0), 3, num_examples)
    seen = []
    for position in range(batches.steps_per_epoch):
        rows, mask = batch_rows(order, position, batches)
        assert rows.shape == (batches.padded_size,)
        assert mask.sum() >= 1
        assert batches.has_padding or mask.all()
        seen += np.asarray(rows)[np.asarray(mask)].tolist()
    assert sorted(seen) == list(range(num_examples))


@settings(max_examples=8)
@given(st.integers(2, 50), st.integers(1, 50), st.integers(2, 4))
def test_the_device_count_changes_no_batch(num_examples, batch_size, num_devices):
    batch_size = min(batch_size, num_examples)
    order = epoch_order(jax.random.key(1), 0, num_examples)
    one = make_batches(num_examples, batch_size, 1)
    many = make_batches(num_examples, batch_size, num_devices)
    for position in range(one.steps_per_epoch):
        rows_one, mask_one = batch_rows(order, position, one)
        rows_many, mask_many = batch_rows(order, position, many)
        assert rows_one[mask_one].tolist() == rows_many[mask_many].tolist()


def test_epochs_and_keys_have_their_own_orders():
    orders = [
        epoch_order(jax.random.key(key), epoch, 100).tolist() for key in (0, 1) for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4
