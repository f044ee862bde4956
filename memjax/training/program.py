"""The compiled programs of a group: many steps of training, and an evaluation.

They take every array as an argument, hold no host value of a step, and are compiled once: the first
step and the number of steps are arguments too. (A `lax.scan` would be compiled again for each
length; the loop here is the same XLA while loop, with its length left open.) So is how many chunks
of members are still training: those that ended cost nothing, and nothing is compiled again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from memjax.config import with_values
from memjax.data.batching import Batches, batch_rows, epoch_order
from memjax.runtime.mesh import data_devices, replicated, shard_members, split_batch
from memjax.training.members import images_at, member_examples, own_network
from memjax.training.outcomes import Outcomes, score
from memjax.training.setup import Setup, make_network, make_optimizer_of
from memjax.training.state import TrainState, member_keys
from memjax.training.step import (
    Batch,
    Network,
    for_inference,
    make_logits_fn,
    make_train_step,
    unit_pixels,
)


def map_first(
    fn: Callable[..., Any], members_per_chunk: int, num_alive: jax.Array, results: Any, *mapped: Any
) -> Any:
    """Applies `fn` to the first members, chunk by chunk, and leaves the others' results.

    Args:
      fn: (old result, *mapped) of one member -> its new result.
      members_per_chunk: members side by side (vmap); divides the number of members.
      num_alive: int32 scalar, at least 1; the chunk with the last of them is computed whole.
      results: pytree, leaves [members ...], overwritten.
      *mapped: likewise, read.

    Returns:
      The results.

    Example:
      >>> old, x = jnp.zeros(6), jnp.arange(6.0)
      >>> map_first(lambda _, x: 10 * x, 2, jnp.int32(3), old, x).tolist()
      [0.0, 10.0, 20.0, 30.0, 0.0, 0.0]
    """
    size = members_per_chunk
    num_members = jax.tree.leaves((results, mapped))[0].shape[0]
    if num_members == size == 1:
        one = fn(*jax.tree.map(lambda leaf: leaf[0], (results, *mapped)))
        return jax.tree.map(lambda leaf: leaf[None], one)
    if num_members == size:
        return jax.vmap(fn)(results, *mapped)

    def body(chunk: jax.Array, results: Any) -> Any:
        def take(leaf: jax.Array) -> jax.Array:
            if size == 1:
                return jax.lax.dynamic_index_in_dim(leaf, chunk, keepdims=False)
            return jax.lax.dynamic_slice_in_dim(leaf, chunk * size, size)

        def put(leaf: jax.Array, new: jax.Array) -> jax.Array:
            new = new[None] if size == 1 else new
            return jax.lax.dynamic_update_slice_in_dim(leaf, new, chunk * size, 0)

        mapped_fn = fn if size == 1 else jax.vmap(fn)
        new = mapped_fn(*jax.tree.map(take, (results, *mapped)))
        return jax.tree.map(put, results, new)

    return jax.lax.fori_loop(0, (num_alive + size - 1) // size, body, results)


def train_steps(
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    examples_at: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    batches: Batches,
    state: TrainState,
    seed: jax.Array,
    start: jax.Array,
    num_steps: jax.Array,
    outcomes: Outcomes | None = None,
) -> tuple[TrainState, Outcomes | None, jax.Array]:
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
      outcomes: [n], where each step notes its batch before the update; None to leave that out.

    Returns:
      The state and the outcomes after them, and int32, the first step whose loss was not finite
      (-1: none).
    """
    keys = member_keys(seed)

    def body(offset, carry):
        state, outcomes, order, first_bad = carry
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
        if outcomes is not None:
            found, real = score(metrics["logits"], labels), jnp.where(mask, rows, len(order))
            outcomes = jax.tree.map(
                lambda all_rows, new: all_rows.at[real].set(new, mode="drop"), outcomes, found
            )
        is_bad = (first_bad < 0) & ~jnp.isfinite(metrics["loss"])
        return state, outcomes, order, jnp.where(is_bad, start + offset, first_bad)

    no_order = jnp.zeros(batches.num_examples, jnp.int32)
    carry = state, outcomes, no_order, jnp.int32(-1)
    state, outcomes, _, first_bad = jax.lax.fori_loop(0, num_steps, body, carry)
    return state, outcomes, first_bad


def make_train_program(
    setup: Setup, traced: Sequence[str], mesh: Mesh, members_per_chunk: int
) -> Callable[..., tuple[TrainState, Outcomes | None, jax.Array]]:
    """Returns the jitted `train(states, outcomes, is_alive, members, data, start, num_steps, n)`.

    states: TrainState with a leading member axis, donated; outcomes: [members n], donated, or None;
    is_alive: bool [members], the others stay as they are; members: Members; data: Images; start:
    the step to begin with; num_steps: how many; n: how many members of each device's share may be
    alive. It returns states and outcomes after them, and int32 [members], the first step whose loss
    was not finite (-1: none).

    Args:
      setup: of any point of the group.
      traced: fields of the config that are `members.values`.
      mesh: the devices.
      members_per_chunk: members that run side by side on a device.
    """
    batches, moments = setup.batches, (setup.network.mean, setup.network.std)
    classes, is_split = setup.examples.num_classes, setup.images_are_split

    def train_member(old, is_alive, member, data, start, num_steps):
        network, optimizer = setup.network, setup.optimizer
        if traced:
            own = with_values(setup.config, member.values)
            network = make_network(own, classes, *moments)
            optimizer = make_optimizer_of(own, batches)

        def examples_at(rows):
            return member_examples(mesh, is_split, data, member, rows)

        state, outcomes, _ = old
        train_step = make_train_step(own_network(network, member), optimizer)
        new = train_steps(
            train_step, examples_at, batches, state, member.seeds, start, num_steps, outcomes
        )
        if is_alive is None:
            return new
        return jax.tree.map(lambda one, other: jnp.where(is_alive, one, other), new, old)

    def train(states, outcomes, is_alive, members, data, start, num_steps, num_alive):
        nothing = states, outcomes, jnp.full_like(members.seeds, -1)

        def one(old, is_alive, member):
            return train_member(old, is_alive, member, data, start, num_steps)

        is_alive = is_alive if members.seeds.shape[0] > 1 else None
        return map_first(one, members_per_chunk, num_alive, nothing, is_alive, members)

    sharded = shard_members(train, mesh, num_mapped=4)
    # Every process looks for a loss that is not finite.
    return jax.jit(sharded, donate_argnums=(0, 1), out_shardings=(None, None, replicated(mesh)))


def make_evaluation_program(
    network: Network,
    mesh: Mesh,
    num_examples: int,
    batch_size: int,
    members_per_chunk: int,
    of_members: bool,
    is_split: bool = False,
) -> tuple[Callable[..., Outcomes], int, int]:
    """Returns the jitted `evaluate(outcomes, params, members, data, start, num_batches, n)`.

    outcomes: [members rows], donated; params: flax variables with a leading member axis; members:
    Members, or None where all look at the same examples of `data`; start, num_batches: which
    batches; n: how many members of each device's share may be alive. It returns the outcomes
    with those of these batches, in inference mode and the network's compute dtype.

    Args:
      network: as trained.
      mesh: the devices.
      num_examples: of each member.
      batch_size: examples evaluated at a time; memory and speed only.
      members_per_chunk: members that run side by side on a device.
      of_members: whether the members' own training examples are looked at.
      is_split: whether the images are split over the devices; memory and speed only.

    Returns:
      The program, the number of batches, and the rows of outcomes: a few more than examples.
    """
    size = -(-min(batch_size, num_examples) // data_devices(mesh)) * data_devices(mesh)
    num_batches = -(-num_examples // size)

    def evaluate_member(old, params, member, data, start, count):
        own = for_inference(own_network(network, member))
        logits_fn = make_logits_fn(own, network.compute_dtype)

        def body(offset, outcomes):
            first = (start + offset) * size
            rows = jnp.minimum(first + jnp.arange(size, dtype=jnp.int32), num_examples - 1)
            if not of_members:
                if member is not None:
                    rows += member.part.first_validation
                images = images_at(mesh, is_split, data, rows)
                labels = split_batch(mesh, data.labels[rows])
            else:
                images, labels = member_examples(mesh, is_split, data, member, rows)
            found = score(logits_fn(params, unit_pixels(images)), labels)
            return jax.tree.map(
                lambda leaf, new: jax.lax.dynamic_update_slice_in_dim(leaf, new, first, 0),
                outcomes,
                found,
            )

        return jax.lax.fori_loop(0, count, body, old)

    def evaluate(outcomes, params, members, data, start, count, num_alive):
        def one(old, params, member):
            return evaluate_member(old, params, member, data, start, count)

        return map_first(one, members_per_chunk, num_alive, outcomes, params, members)

    program = jax.jit(shard_members(evaluate, mesh, num_mapped=3), donate_argnums=0)
    return program, num_batches, num_batches * size
