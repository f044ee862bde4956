"""From a config to everything a run needs: data, network, optimiser, mesh, sizes."""

import functools
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import memjax.config as configuration
from memjax.config import LARGEST, Config
from memjax.data.augmentation import check_images
from memjax.data.batching import Batches, make_batches
from memjax.data.examples import Examples, corrupt_examples
from memjax.data.sources import Dataset, Split, load_dataset, moments
from memjax.errors import InputError
from memjax.located import located
from memjax.models.adapters import adapted
from memjax.models.checks import check_model
from memjax.models.registry import build_model, is_own
from memjax.models.regularizers import Regularizers
from memjax.runtime.mesh import (
    data_devices,
    make_mesh,
    over_members,
    shard_members,
    splits_images,
)
from memjax.training.optimizers import make_optimizer
from memjax.training.outcomes import Outcomes, no_outcomes
from memjax.training.state import TrainState, balanced_subsets, init_state, member_subset
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
    """

    config: Config
    dataset: Dataset
    examples: Examples
    network: Network
    optimizer: optax.GradientTransformation
    batches: Batches
    mesh: Mesh

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
        params = abstract_state(self).params["params"]
        return sum(leaf.size for leaf in jax.tree.leaves(params))


def prepare(
    config: Config,
    dataset: Dataset | None = None,
    devices: Sequence[jax.Device] | None = None,
    with_images: bool = True,
) -> Setup:
    """Loads, corrupts and builds what the config says.

    Args:
      config: checked.
      dataset: what `load_dataset(config.dataset)` gives, if it is at hand.
      devices: to choose from; None: those of all processes of the run.
      with_images: False leaves the corrupted images out, as in `corrupt_examples`.

    Raises:
      InputError: for whatever can only be checked once the data are there.
    """
    config = located(config)
    if dataset is None:
        dataset = load_dataset(config.dataset)
    examples = corrupt_examples(config.corruption, dataset, with_images)
    augmentation = config.augmentation
    check_images(
        dataset.train.images.shape[1:], augmentation.crop, augmentation.flip, augmentation.cutout
    )
    subset_size = member_size(config, len(examples.labels))
    mean, std = _moments(dataset.train, config.dataset.standardize)
    network = make_network(config, examples.num_classes, mean, std)
    mesh = make_mesh(
        config.ensemble.size, config.run.num_devices, config.run.member_devices, devices
    )
    batches = make_batches(subset_size, config.train.batch_size, data_devices(mesh))
    if is_own(config.model.name):
        image_shape = examples.images.shape[1:]
        check_model(
            adapted(network.model), config.model.name, examples.num_classes, image_shape,
            batches.padded_size, subset_size, batches.has_padding,
        )  # fmt: skip
    most = LARGEST // batches.steps_per_epoch
    if config.train.num_epochs > most:
        raise InputError(
            f"config.train.num_epochs={config.train.num_epochs}: must be at most {most}: the last "
            "step is an int32"
        )
    if config.train.logs_per_epoch > batches.steps_per_epoch:
        raise InputError(
            f"config.train.logs_per_epoch={config.train.logs_per_epoch}: must be at most "
            f"{batches.steps_per_epoch}, the steps of an epoch"
        )
    optimizer = make_optimizer_of(config, batches)
    return Setup(config, dataset, examples, network, optimizer, batches, mesh)


@functools.lru_cache(maxsize=2)
def _moments(train: Split, kind: str) -> tuple[np.ndarray, np.ndarray]:
    return moments(train.images, kind)  # of all points of a sweep alike


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
    return Network(
        model,
        mean,
        std,
        regularizers,
        dtype,
        adversarial,
        config.augmentation,
        config.train.label_smoothing,
    )


def make_optimizer_of(config: Config, batches: Batches) -> optax.GradientTransformation:
    """Returns the optimiser of a config; learning rate and decay may be traced scalars."""
    return make_optimizer(
        config.optimizer,
        config.regularizer.weight_decay,
        batches.steps_per_epoch,
        config.train.num_epochs,
    )


def _init_one(setup: Setup, seed: Any) -> TrainState:
    return init_state(seed, setup.network.model, setup.optimizer, setup.image_shape)


def init_states(setup: Setup) -> TrainState:
    """Returns every member before training, each leaf [members ...], on its devices."""

    def init_members(seeds: jax.Array) -> TrainState:
        return jax.lax.map(lambda seed: _init_one(setup, seed), seeds)

    init = shard_members(init_members, setup.mesh, num_mapped=1)
    return jax.jit(init, out_shardings=over_members(setup.mesh))(setup.seeds)


class Saved(NamedTuple):
    """What is saved of a member.

    Attributes:
      state: its network.
      outcomes: of the epoch's examples so far, with running training metrics; else None.
    """

    state: TrainState
    outcomes: Outcomes | None


def abstract_saved(setup: Setup) -> Saved:
    """Returns shapes and types of what is saved of one member."""
    outcomes = None
    if setup.config.train.train_metrics == "running":
        rows = no_outcomes(1, setup.batches.num_examples)
        outcomes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)
    return Saved(abstract_state(setup), outcomes)


def abstract_state(setup: Setup) -> TrainState:
    """Returns shapes and types of one member's state, without computing anything."""
    return jax.eval_shape(lambda: _init_one(setup, 0))


def member_subsets(setup: Setup) -> jax.Array:
    """Returns int32 [members subset_size]: the rows that each member trains on, ascending."""
    num_examples = len(setup.examples.labels)
    size = setup.batches.num_examples
    if setup.config.ensemble.balanced:
        seed, members = setup.config.seed, setup.config.ensemble.size
        return jnp.asarray(balanced_subsets(seed, members, num_examples, size))
    return jnp.stack([member_subset(seed, num_examples, size) for seed in setup.seeds])


def data_fingerprint(setup: Setup) -> str:
    """Returns 8 hex digits that differ when a pixel, a label, a true label or who is chosen does.

    Pixels are those of the source: what corruption makes of them follows from the config.
    """
    examples = setup.examples
    sources = _source_checksums(setup.dataset)
    return _checksum(sources, examples.labels, examples.is_chosen, examples.index)


def source_fingerprint(config: configuration.Dataset, dataset: Dataset) -> dict[str, str]:
    """Returns the fingerprint of a user's own data before corruption, as config.json has it.

    Args:
      config: the `dataset` section. Data sets without a path are told by their names.
      dataset: as loaded.

    Returns:
      {"data.source": 8 hex digits}, or nothing.
    """
    if not config.path:
        return {}
    return {"data.source": _checksum(_source_checksums(dataset))}


def _source_checksums(dataset: Dataset) -> np.ndarray:
    return np.array([dataset.train.checksum, dataset.validation.checksum], np.int64)


def _checksum(*parts: np.ndarray) -> str:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(np.ascontiguousarray(part).data, checksum)
    return f"{checksum:08x}"
