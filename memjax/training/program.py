"""The two compiled programs of a run: many steps of training, and an evaluation.

Both take every array as an argument, hold no host value of a step, and are compiled once: the
first step and the number of steps are arguments too. (A `lax.scan` would be compiled again for
each length; the loop here is the same XLA while loop, with its length left open.)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from memjax.analysis.losses import softmax_cross_entropy
from memjax.data.batching import Batches, batch_rows, epoch_order
from memjax.training.members import map_members, shard_members, split_batch
from memjax.training.state import TrainState, member_keys
from memjax.training.step import Batch, Network, make_logits_fn, make_train_step, unit_pixels


class DeviceData(NamedTuple):
    """The training examples on the devices, as stored.

    Attributes:
      images: [n height width channels], uint8 or float32.
      labels: int32 [n], the labels trained on.
    """

    images: jax.Array
    labels: jax.Array


def make_train_program(
    network: Network,
    optimizer: optax.GradientTransformation,
    batches: Batches,
    mesh: Mesh,
    members_per_chunk: int,
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Returns the jitted `train(states, seeds, subsets, data, start, num_steps)`.

    states: TrainState with a leading member axis, donated; seeds: int32 [members];
    subsets: int32 [members subset_size], the rows of `data` that each member trains on;
    start: the step to begin with; num_steps: how many steps.
    It returns the states after them, and int32 [members], the first step whose loss was not
    finite (-1: none).
    """
    train_step = make_train_step(network, optimizer)

    def train_member(state, seed, subset, data, start, num_steps):
        keys = member_keys(seed)

        def body(offset, carry):
            state, order, first_bad = carry
            epoch, position = jnp.divmod(start + offset, batches.steps_per_epoch)
            order = jax.lax.cond(
                (position == 0) & (offset > 0),
                lambda: epoch_order(keys.order, epoch, batches.num_examples),
                lambda: order,
            )
            rows, mask = split_batch(mesh, batch_rows(order, position, batches))
            index = subset[rows]
            batch = Batch(
                data.images[index], data.labels[index], mask if batches.has_padding else None
            )
            step_key = jax.random.fold_in(keys.noise, start + offset)
            state, metrics = train_step(state, batch, step_key)
            is_bad = (first_bad < 0) & ~jnp.isfinite(metrics["loss"])
            return state, order, jnp.where(is_bad, start + offset, first_bad)

        order = epoch_order(keys.order, start // batches.steps_per_epoch, batches.num_examples)
        state, _, first_bad = jax.lax.fori_loop(0, num_steps, body, (state, order, jnp.int32(-1)))
        return state, first_bad

    def train_members(states, seeds, subsets, data, start, num_steps):
        def one(state, seed, subset):
            return train_member(state, seed, subset, data, start, num_steps)

        return map_members(one, members_per_chunk, states, seeds, subsets)

    return jax.jit(shard_members(train_members, mesh, num_mapped=3), donate_argnums=0)


def make_evaluation_program(
    network: Network, mesh: Mesh, batch_size: int
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns the jitted `evaluate(params, images, labels)`.

    params: flax variables with a leading member axis; images: [n height width channels] as
    stored; labels: int32 [n].
    It returns losses: float32 [members n] in nats, and correct: bool [members n], in inference
    mode. `batch_size` examples at a time; it changes memory and speed, not the result.
    """
    logits_fn = make_logits_fn(network)

    def evaluate_member(params, images, labels):
        def evaluate_batch(batch):
            stored, batch_labels = split_batch(mesh, batch)
            logits = logits_fn(params, unit_pixels(stored))
            losses = jax.vmap(softmax_cross_entropy)(logits, batch_labels)
            return losses, jnp.argmax(logits, axis=-1) == batch_labels

        num_examples = labels.shape[0]
        size = min(batch_size, num_examples)
        size = -(-size // mesh.shape["data"]) * mesh.shape["data"]
        count = -(-num_examples // size)
        index = jnp.minimum(jnp.arange(count * size), num_examples - 1).reshape(count, size)
        losses, correct = jax.lax.map(lambda i: evaluate_batch((images[i], labels[i])), index)
        return losses.reshape(-1)[:num_examples], correct.reshape(-1)[:num_examples]

    def evaluate_members(params, images, labels):
        def one(params):
            return evaluate_member(params, images, labels)

        return map_members(one, 1, params)

    return jax.jit(shard_members(evaluate_members, mesh, num_mapped=1))
