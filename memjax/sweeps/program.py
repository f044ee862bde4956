"""The programs of a group: as those of one run, but data and strengths differ member by member.

The images are on the device once. A member has its own rows, labels and masks; its Gaussian inputs
are drawn where they are used, from key and index. Members that are still training stand in front,
and how many chunks of them there are is an argument: what converged costs nothing, and nothing is
compiled again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from memjax.analysis.losses import softmax_cross_entropy
from memjax.config import Config
from memjax.data.batching import Batches
from memjax.data.corruption import gaussian_image
from memjax.sweeps.grouping import with_values
from memjax.training.members import shard_members
from memjax.training.program import train_steps
from memjax.training.setup import make_network, make_optimizer_of
from memjax.training.state import TrainState
from memjax.training.step import make_logits_fn, make_train_step, unit_pixels


class Members(NamedTuple):
    """What differs from member to member; each leaf has a leading member axis.

    Attributes:
      seeds: int32 [members].
      rows: int32 [members n], the member's examples among the shared images.
      labels: int32 [members n], trained on.
      is_corrupted: bool [members n].
      is_noise: bool [members n], where the input is Gaussian; None if no member has such.
      noise_seeds: int32 [members], of the corruption.
      values: traced fields of the config, float32 [members] each.
    """

    seeds: Any
    rows: Any
    labels: Any
    is_corrupted: Any
    is_noise: Any | None
    noise_seeds: Any
    values: dict[str, Any]


class SharedImages(NamedTuple):
    """What all members draw their examples from.

    Attributes:
      images: [n height width channels], as stored.
      noise_mean: float32 scalar, of the Gaussian inputs.
      noise_std: float32 scalar.
    """

    images: jax.Array
    noise_mean: jax.Array
    noise_std: jax.Array


class GroupPrograms(NamedTuple):
    """Both jitted; `num_alive` members of every device's share are worked on.

    Attributes:
      train: (states, members, shared, start, num_steps, num_alive) -> (states, first_bad), states
        donated.
      evaluate: (params, members, shared, num_alive) -> float32 [members] each.
      validate: (params, data, num_alive) -> likewise, on images and labels that all share.
    """

    train: Callable[..., tuple[TrainState, jax.Array]]
    evaluate: Callable[..., dict[str, jax.Array]]
    validate: Callable[..., dict[str, jax.Array]]


def member_images(shared: SharedImages, member: Members, place: jax.Array) -> jax.Array:
    """Returns the images at some positions among a member's examples.

    Args:
      shared: images and moments.
      member: one member, without the leading axis.
      place: int32 [batch].

    Returns:
      [batch height width channels], as stored; float32 if some member has Gaussian inputs.
    """
    index = member.rows[place]
    images = shared.images[index]
    if member.is_noise is None:
        return images
    images, is_noise = unit_pixels(images), member.is_noise[place]

    def with_noise() -> jax.Array:
        key = jax.random.key(member.noise_seeds)

        def draw(position: jax.Array) -> jax.Array:
            mean, std = shared.noise_mean, shared.noise_std
            return gaussian_image(key, position, images.shape[1:], mean, std)

        return jax.vmap(jnp.where)(is_noise, jax.vmap(draw)(index), images)

    return jax.lax.cond(jnp.any(is_noise), with_noise, lambda: images)


def map_first(
    fn: Callable[..., Any], members_per_chunk: int, num_alive: jax.Array, results: Any, *mapped: Any
) -> Any:
    """Applies `fn` to the first members, chunk by chunk, and leaves the others' results.

    Args:
      fn: (old result, *mapped) of one member -> its new result.
      members_per_chunk: members side by side (vmap); divides the number of members.
      num_alive: int32 scalar; the chunk with the last of them is computed whole.
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


def make_group_programs(
    config: Config,
    num_classes: int,
    moments: tuple[Any, Any],
    batches: Batches,
    mesh: Mesh,
    members_per_chunk: int,
) -> GroupPrograms:
    """Returns the programs of a group.

    Args:
      config: of any of its points.
      num_classes: of the labels.
      moments: mean and std of the pixels, as in `memjax.training.step.Network`.
      batches: the cut of an epoch.
      mesh: devices, all along `member`.
      members_per_chunk: members that run side by side on a device.
    """
    logits_fn = make_logits_fn(make_network(config, num_classes, *moments))
    batch_size = config.run.evaluation_batch_size

    def train_member(old, member, shared, start, num_steps):
        own = with_values(config, member.values)
        network = make_network(own, num_classes, *moments)
        train_step = make_train_step(network, make_optimizer_of(own, batches))

        def examples_at(place):
            return member_images(shared, member, place), member.labels[place]

        state, _ = old
        return train_steps(train_step, examples_at, batches, state, member.seeds, start, num_steps)

    def train(states, members, shared, start, num_steps, num_alive):
        results = states, jnp.full_like(members.seeds, -1)

        def one(old, member):
            return train_member(old, member, shared, start, num_steps)

        return map_first(one, members_per_chunk, num_alive, results, members)

    def evaluate(params, members, shared, num_alive):
        def one(_, params, member):
            def examples_at(place):
                return member_images(shared, member, place), member.labels[place]

            losses, correct = _outcomes(
                logits_fn, params, examples_at, len(member.labels), batch_size
            )
            return {
                "loss": jnp.mean(losses),
                "accuracy": jnp.mean(correct),
                "clean_accuracy": jnp.mean(correct, where=~member.is_corrupted),
                "corrupted_accuracy": jnp.mean(correct, where=member.is_corrupted),
            }

        names = "loss", "accuracy", "clean_accuracy", "corrupted_accuracy"
        nothing = {name: jnp.full(members.seeds.shape, jnp.nan) for name in names}
        return map_first(one, members_per_chunk, num_alive, nothing, params, members)

    def validate(params, data, num_alive):
        def one(_, params):
            def examples_at(place):
                return data.images[place], data.labels[place]

            losses, correct = _outcomes(
                logits_fn, params, examples_at, len(data.labels), batch_size
            )
            return {"loss": jnp.mean(losses), "accuracy": jnp.mean(correct)}

        num_members = jax.tree.leaves(params)[0].shape[0]
        nothing = {name: jnp.full(num_members, jnp.nan) for name in ("loss", "accuracy")}
        return map_first(one, members_per_chunk, num_alive, nothing, params)

    return GroupPrograms(
        jax.jit(shard_members(train, mesh, num_mapped=2), donate_argnums=0),
        jax.jit(shard_members(evaluate, mesh, num_mapped=2)),
        jax.jit(shard_members(validate, mesh, num_mapped=1)),
    )


def _outcomes(
    logits_fn: Callable[..., jax.Array],
    params: Any,
    examples_at: Callable[[jax.Array], tuple[jax.Array, jax.Array]],
    num_examples: int,
    batch_size: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns each example's loss and whether it is right, `batch_size` at a time."""
    size = min(batch_size, num_examples)
    num_batches = -(-num_examples // size)
    place = jnp.minimum(jnp.arange(num_batches * size), num_examples - 1)

    def one_batch(place: jax.Array) -> tuple[jax.Array, jax.Array]:
        images, labels = examples_at(place)
        logits = logits_fn(params, unit_pixels(images))
        return jax.vmap(softmax_cross_entropy)(logits, labels), jnp.argmax(logits, -1) == labels

    losses, correct = jax.lax.map(one_batch, place.reshape(num_batches, size))
    return losses.reshape(-1)[:num_examples], correct.reshape(-1)[:num_examples]
