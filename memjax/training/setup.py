"""From a config to everything a run needs: data, network, optimiser, mesh, sizes."""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from memjax.config import Config
from memjax.data.batching import Batches, make_batches
from memjax.data.examples import Examples, corrupt_examples
from memjax.data.sources import Dataset, load_dataset, moments
from memjax.errors import InputError
from memjax.models.registry import build_model
from memjax.runtime.mesh import data_devices, make_mesh, over_members, splits_images
from memjax.training.members import map_members, shard_members
from memjax.training.optimizers import make_optimizer
from memjax.training.regularizers import Regularizers
from memjax.training.state import TrainState, init_state, member_subset
from memjax.training.step import Adversarial, Network


class Setup(NamedTuple):
    """A run, ready to be trained or analysed.

    Attributes:
      config: checked.
      dataset: as loaded, before corruption.
      examples: the training examples, corrupted.
      network: the model and its moments.
      optimizer: an optax gradient transformation.
      batches: the cut of an epoch.
      mesh: the devices.
      members_per_chunk: members that run side by side on a device.
    """

    config: Config
    dataset: Dataset
    examples: Examples
    network: Network
    optimizer: optax.GradientTransformation
    batches: Batches
    mesh: Mesh
    members_per_chunk: int

    @property
    def num_steps(self) -> int:
        """Steps of the whole run, unless it stops early."""
        return self.batches.steps_per_epoch * self.config.train.num_epochs

    @property
    def seeds(self) -> jax.Array:
        """int32 [members]: member m has the seed of the run plus m."""
        return self.config.seed + jnp.arange(self.config.ensemble.size, dtype=jnp.int32)

    @property
    def images_are_split(self) -> bool:
        """Whether the images are split over the devices that share a batch."""
        run, num_bytes = self.config.run, self.examples.images.nbytes
        return splits_images(self.mesh, num_bytes, run.data_placement, run.data_memory_share)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels), or (features,)."""
        return self.examples.images.shape[1:]

    @property
    def num_params(self) -> int:
        """Trained parameters of one member."""
        one = jax.eval_shape(lambda: _init_one(self, 0))
        return sum(leaf.size for leaf in jax.tree.leaves(one.params["params"]))


def prepare(
    config: Config, dataset: Dataset | None = None, devices: Sequence[jax.Device] | None = None
) -> Setup:
    """Loads, corrupts and builds what the config says.

    Args:
      config: checked.
      dataset: what `load_dataset(config.dataset)` gives, if it is at hand.
      devices: to choose from; None: those of all processes of the run.

    Raises:
      InputError: for whatever can only be checked once the data are there.
    """
    if dataset is None:
        dataset = load_dataset(config.dataset)
    examples = corrupt_examples(config.corruption, dataset)
    subset_size = member_size(config, len(examples.labels))
    mean, std = moments(dataset.train.images, config.dataset.standardize)
    network = make_network(config, examples.num_classes, mean, std)
    mesh = make_mesh(
        config.ensemble.size, config.run.num_devices, config.run.member_devices, devices
    )
    batches = make_batches(subset_size, config.train.batch_size, data_devices(mesh))
    optimizer = make_optimizer_of(config, batches)
    setup = Setup(config, dataset, examples, network, optimizer, batches, mesh, 1)
    size, platform = config.ensemble.size, mesh.devices.flat[0].platform
    chunk = config.run.members_per_chunk or members_per_chunk(setup.num_params, size, platform)
    return setup._replace(members_per_chunk=chunk)


def member_size(config: Config, num_examples: int) -> int:
    """Returns how many of the examples a member trains on.

    Raises:
      InputError: if they are fewer than a batch.
    """
    size = max(1, round(config.ensemble.subset_fraction * num_examples))
    if config.train.batch_size > size:
        raise InputError(
            f"config.train.batch_size={config.train.batch_size}: must be at most {size}, "
            "the number of training examples"
        )
    return size


def make_network(config: Config, num_classes: int, mean: Any, std: Any) -> Network:
    """Returns the network of a config; its regularisers' strengths may be traced scalars."""
    strengths = config.regularizer
    regularizers = Regularizers(
        dropout=strengths.dropout,
        input_dropout=strengths.input_dropout,
        input_noise=strengths.input_noise,
        hidden_noise=strengths.hidden_noise,
    )
    adversarial = Adversarial(
        strengths.adversarial_weight, strengths.adversarial_radius, strengths.adversarial_steps
    )
    model = build_model(config.model.name, num_classes, regularizers, **config.model.fields)
    dtype = jnp.dtype(config.train.compute_dtype)
    return Network(model, mean, std, regularizers, dtype, adversarial)


def make_optimizer_of(config: Config, batches: Batches) -> optax.GradientTransformation:
    """Returns the optimiser of a config; learning rate and decay may be traced scalars."""
    return make_optimizer(
        config.optimizer,
        config.regularizer.weight_decay,
        batches.steps_per_epoch,
        config.train.num_epochs,
    )


def members_per_chunk(num_params: int, num_members: int, platform: str) -> int:
    """Returns how many members run side by side on a device.

    A CPU trains wide members one after the other and narrow ones side by side; other devices
    train all at once. benchmarks/sweeps.py measures it.
    """
    if platform != "cpu":
        return num_members
    return max(1, min(num_members, 50_000 // num_params))


def _init_one(setup: Setup, seed: Any) -> TrainState:
    return init_state(seed, setup.network.model, setup.optimizer, setup.image_shape)


def init_states(setup: Setup) -> TrainState:
    """Returns every member before training, each leaf [members ...], on its devices."""

    def init_members(seeds: jax.Array) -> TrainState:
        return map_members(lambda seed: _init_one(setup, seed), 1, seeds)

    init = shard_members(init_members, setup.mesh, num_mapped=1)
    return jax.jit(init, out_shardings=over_members(setup.mesh))(setup.seeds)


def abstract_states(setup: Setup) -> TrainState:
    """Returns shapes, types and shardings of `init_states`, without computing anything."""

    def init_members(seeds: jax.Array) -> TrainState:
        return map_members(lambda seed: _init_one(setup, seed), 1, seeds)

    shapes = jax.eval_shape(init_members, setup.seeds)
    sharding = over_members(setup.mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )


def member_subsets(setup: Setup) -> jax.Array:
    """Returns int32 [members subset_size]: the rows that each member trains on, ascending."""
    num_examples = len(setup.examples.labels)
    size = setup.batches.num_examples
    return jnp.stack([member_subset(seed, num_examples, size) for seed in setup.seeds])


def data_fingerprint(setup: Setup) -> str:
    """Returns 8 hex digits that differ when a pixel, a label or a true label does."""
    checksum = 0
    train, validation = setup.dataset.train, setup.dataset.validation
    parts = [setup.examples.images, setup.examples.labels, validation.images, validation.labels]
    # Known truth decides what counts as corrupted.
    parts += [s.true_labels for s in (train, validation) if (s.labels != s.true_labels).any()]
    for part in parts:
        checksum = zlib.crc32(np.ascontiguousarray(part).data, checksum)
    return f"{checksum:08x}"
