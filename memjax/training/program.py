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
from memjax.runtime.mesh import data_devices, replicated, take_rows
from memjax.training.members import map_members, shard_members, split_batch
from memjax.training.state import TrainState, member_keys
from memjax.training.step import (
    Batch,
    Network,
    for_inference,
    make_logits_fn,
    make_train_step,
    unit_pixels,
)


class DeviceData(NamedTuple):
    """The training examples on the devices, as stored.

    Attributes:
      images: [n height width channels], uint8 or float32; whole on every device, or split over
        `data` and filled up (see `memjax.runtime.mesh.place_images`).
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
    images_are_split: bool = False,
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Returns the jitted `train(states, seeds, subsets, data, start, num_steps)`.

    states: TrainState with a leading member axis, donated; seeds: int32 [members];
    subsets: int32 [members subset_size], the rows of `data` that each member trains on;
    start: the step to begin with; num_steps: how many steps. `images_are_split` says that the
    images of `data` are split over the devices; that changes memory and speed only.
    It returns the states after them, and int32 [members], the first step whose loss was not
    finite (-1: none).
    """
    train_step = make_train_step(network, optimizer)

    def train_member(state, seed, subset, data, start, num_steps):
        def examples_at(rows):
            if images_are_split:
                images = take_rows(mesh, data.images, subset[rows])
                return images, split_batch(mesh, data.labels[subset[rows]])
            index = subset[split_batch(mesh, rows)]
            return data.images[index], data.labels[index]

        return train_steps(train_step, examples_at, batches, state, seed, start, num_steps)

    def train_members(states, seeds, subsets, data, start, num_steps):
        def one(state, seed, subset):
            return train_member(state, seed, subset, data, start, num_steps)

        return map_members(one, members_per_chunk, states, seeds, subsets)

    sharded = shard_members(train_members, mesh, num_mapped=3)
    # Every process looks for a loss that is not finite.
    return jax.jit(sharded, donate_argnums=0, out_shardings=(None, replicated(mesh)))


def train_steps(
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    examples_at: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    batches: Batches,
    state: TrainState,
    seed: jax.Array,
    start: jax.Array,
    num_steps: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """Trains one member for a number of steps.

    Args:
      train_step: from `make_train_step`.
      examples_at: from int32 [batch], positions among the member's examples, to their
        (images [batch ...], labels [batch]).
      batches: the cut of an epoch.
      state: TrainState of the member.
      seed: its seed, which fixes the order of the examples and the noise of every step.
      start: the step to begin with.
      num_steps: how many.

    Returns:
      The state after them, and int32, the first step whose loss was not finite (-1: none).
    """
    keys = member_keys(seed)

    def body(offset, carry):
        state, order, first_bad = carry
        epoch, position = jnp.divmod(start + offset, batches.steps_per_epoch)
        order = jax.lax.cond(
            (position == 0) | (offset == 0),
            lambda: epoch_order(keys.order, epoch, batches.num_examples),
            lambda: order,
        )
        rows, mask = batch_rows(order, position, batches)
        images, labels = examples_at(rows)
        batch = Batch(images, labels, mask if batches.has_padding else None)
        step_key = jax.random.fold_in(keys.noise, start + offset)
        state, metrics = train_step(state, batch, step_key)
        is_bad = (first_bad < 0) & ~jnp.isfinite(metrics["loss"])
        return state, order, jnp.where(is_bad, start + offset, first_bad)

    no_order = jnp.zeros(batches.num_examples, jnp.int32)
    carry = state, no_order, jnp.int32(-1)
    state, _, first_bad = jax.lax.fori_loop(0, num_steps, body, carry)
    return state, first_bad


def make_evaluation_program(
    network: Network,
    mesh: Mesh,
    batch_size: int,
    members_per_chunk: int,
    images_are_split: bool = False,
) -> Callable[..., dict[str, jax.Array]]:
    """Returns the jitted `evaluate(params, subsets, data, is_corrupted)`.

    params: flax variables with a leading member axis; subsets: int32 [members subset_size], the
    rows of `data` that count for each member; data: DeviceData; is_corrupted: bool [n].
    It returns float32 [members]: loss (mean, in nats), accuracy, clean_accuracy and
    corrupted_accuracy (nan where there are no such examples), all in inference mode. `batch_size`
    examples are evaluated at a time, and `images_are_split` is as in `make_train_program`; both
    change memory and speed only.
    """
    logits_fn = make_logits_fn(for_inference(network))

    def evaluate_batch(params, data, index):
        if images_are_split:
            images = take_rows(mesh, data.images, index)
        else:
            images = split_batch(mesh, data.images[index])
        labels = split_batch(mesh, data.labels[index])
        logits = logits_fn(params, unit_pixels(images))
        losses = jax.vmap(softmax_cross_entropy)(logits, labels)
        return losses, jnp.argmax(logits, axis=-1) == labels

    def evaluate_member(params, subset, data, is_corrupted):
        num_examples = data.labels.shape[0]
        size = -(-min(batch_size, num_examples) // data_devices(mesh)) * data_devices(mesh)
        num_batches = -(-num_examples // size)
        rows = jnp.minimum(jnp.arange(num_batches * size), num_examples - 1)
        losses, correct = jax.lax.map(
            lambda index: evaluate_batch(params, data, index),
            rows.reshape(num_batches, size),
        )
        losses = losses.reshape(-1)[subset]
        correct = correct.reshape(-1)[subset]
        is_corrupted = is_corrupted[subset]
        return {
            "loss": jnp.mean(losses),
            "accuracy": jnp.mean(correct),
            "clean_accuracy": jnp.mean(correct, where=~is_corrupted),
            "corrupted_accuracy": jnp.mean(correct, where=is_corrupted),
        }

    def evaluate_members(params, subsets, data, is_corrupted):
        def one(params, subset):
            return evaluate_member(params, subset, data, is_corrupted)

        return map_members(one, members_per_chunk, params, subsets)

    sharded = shard_members(evaluate_members, mesh, num_mapped=2)
    return jax.jit(sharded, out_shardings=replicated(mesh))
