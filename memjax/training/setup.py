"""From a config to everything a run needs: data, network, optimiser, mesh, sizes."""

import zlib
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
from memjax.runtime.mesh import data_devices, make_mesh, over_members
from memjax.training.members import map_members, shard_members
from memjax.training.optimizers import make_optimizer
from memjax.training.regularizers import Regularizers
from memjax.training.state import TrainState, init_state, member_subset
from memjax.training.step import Network


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
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self.examples.images.shape[1:]

    @property
    def num_params(self) -> int:
        """Trained parameters of one member."""
        one = jax.eval_shape(lambda: _init_one(self, 0))
        return sum(leaf.size for leaf in jax.tree.leaves(one.params["params"]))


def prepare(config: Config) -> Setup:
    """Loads, corrupts and builds what the config says.

    Raises:
      InputError: for whatever can only be checked once the data are there.
    """
    dataset = load_dataset(config.dataset)
    examples = corrupt_examples(config.corruption, dataset)
    num_examples = len(examples.labels)
    subset_size = max(1, round(config.ensemble.subset_fraction * num_examples))
    if config.train.batch_size > subset_size:
        raise InputError(
            f"config.train.batch_size={config.train.batch_size}: must be at most {subset_size}, "
            "the number of training examples"
        )
    mean, std = moments(dataset.train.images, config.dataset.standardize)
    strengths = config.regularizer
    regularizers = Regularizers(
        dropout=strengths.dropout,
        input_dropout=strengths.input_dropout,
        input_noise=strengths.input_noise,
        hidden_noise=strengths.hidden_noise,
    )
    model = build_model(
        config.model.name, examples.num_classes, regularizers, **config.model.fields
    )
    dtype = jnp.dtype(config.train.compute_dtype)
    mesh = make_mesh(config.ensemble.size, config.run.num_devices, config.run.member_devices)
    batches = make_batches(subset_size, config.train.batch_size, data_devices(mesh))
    optimizer = make_optimizer(
        config.optimizer, strengths.weight_decay, batches.steps_per_epoch, config.train.num_epochs
    )
    network = Network(model, mean, std, regularizers, dtype)
    setup = Setup(config, dataset, examples, network, optimizer, batches, mesh, 1)
    return setup._replace(
        members_per_chunk=config.run.members_per_chunk or _members_per_chunk(setup)
    )


def _members_per_chunk(setup: Setup) -> int:
    """A CPU trains wide members one after the other and narrow ones side by side."""
    if setup.mesh.devices.flat[0].platform != "cpu":
        return setup.config.ensemble.size
    return max(1, min(setup.config.ensemble.size, 50_000 // setup.num_params))


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
    """Returns 8 hex digits that differ when a pixel or a label does, corrupted or not."""
    checksum = 0
    validation = setup.dataset.validation
    for part in (
        setup.examples.images,
        setup.examples.labels,
        validation.images,
        validation.labels,
    ):
        checksum = zlib.crc32(np.ascontiguousarray(part).data, checksum)
    return f"{checksum:08x}"
