"""The two ensembles of an audit: one on the labels as given, one on a copy with planted flips."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from memjax.auditing.calibration import FEWEST_PLANTED
from memjax.auditing.evidence import Evidence, gather
from memjax.auditing.noise import at_least, count_confusions, plant, transition
from memjax.auditing.scores import overall
from memjax.config import Config, Dataset, default_config
from memjax.errors import InputError
from memjax.loading import load_run
from memjax.runtime.workdir import write_atomically
from memjax.training.run import run
from memjax.training.setup import prepare

_EARLIEST = 0.5  # epochs; before it networks know next to nothing
_SUBSET = 0.7  # of the examples that each member trains on
FEWEST_MEMBERS = 4  # for every example to be left out by one of them
_LARGEST_BATCH = 100
_SMALLEST_SIDE = 13  # of an image that the CNN's two poolings leave something of
HARM_FOLDS, HARM_ARMS, HARM_MEMBERS = 3, ("suspects", "random"), 4
HARM_NETWORKS = HARM_FOLDS * len(HARM_ARMS) * HARM_MEMBERS


class Effort(NamedTuple):
    """How much is trained.

    Attributes:
      members: networks on the labels as given.
      planted_members: networks on the copy.
      epochs: each of them.
    """

    members: int
    planted_members: int
    epochs: int


EFFORTS = {
    "quick": Effort(6, 6, 12),
    "standard": Effort(20, 10, 30),
    "thorough": Effort(40, 20, 50),
}


class Planted(NamedTuple):
    """A copy of the data whose labels are what the ensemble suggests, but for planted flips.

    Attributes:
      labels: int [n].
      is_planted: bool [n].
      transition: [classes classes], P(label | class), of the labels as given.
    """

    labels: np.ndarray
    is_planted: np.ndarray
    transition: np.ndarray


def training_config(section: dict[str, Any], shape: tuple[int, ...], effort: Effort) -> Any:
    """Returns the config of an audit's ensemble, as a ConfigDict that may be changed further.

    An MLP for features, small grey images, and whatever is too small for the CNN; a small CNN for
    others.

    Args:
      section: fields of config.dataset.
      shape: of all examples: (n, height, width, channels) or (n, features).
      effort: one of `EFFORTS`.
    """
    config = default_config()
    config.dataset.update(section)
    num_examples, *image_shape = shape
    has_features = len(image_shape) == 1
    is_small_grey = not has_features and image_shape[-1] == 1 and image_shape[0] <= 32
    if has_features or is_small_grey or min(image_shape[:2]) < _SMALLEST_SIDE:
        config.model.name, config.model.widths = "mlp", (256, 256)
        config.optimizer.learning_rate = 0.1
    else:
        config.model.name, config.model.width_factor = "alexnet", 0.25
        config.dataset.standardize = "channel"
        config.optimizer.learning_rate, config.optimizer.momentum = 0.01, 0.9
    if has_features:
        config.dataset.standardize = "feature"
    # Several steps an epoch, and a batch that every member's subset has.
    config.train.batch_size = min(_LARGEST_BATCH, max(1, num_examples // 4))
    config.train.num_epochs = effort.epochs
    config.train.log_every_epochs = effort.epochs
    config.train.record_dynamics = "off"
    config.ensemble.size = effort.members
    config.ensemble.subset_fraction = _SUBSET
    config.ensemble.balanced = True
    config.checkpoint.every_epochs = max(1, effort.epochs // 8)
    return config


def evidence_of(config: Config, folder: epath.Path, say: Callable[[str], None]) -> Evidence:
    """Trains an ensemble, or finishes it, and returns its evidence.

    The evidence is kept in evidence.npz; then the checkpoints, far larger, are deleted.

    Args:
      config: of the run.
      folder: the run folder.
      say: shows a line to the user.

    Raises:
      InputError: if the folder holds another run.
      Interrupted: at a signal, after saving; the same call goes on from there.
    """
    path = folder / "evidence.npz"
    setup = prepare(config)
    say(f"{folder.name}: {config.ensemble.size} networks of {setup.num_params:,} parameters")
    if path.exists():
        run(setup, folder)  # done; refuses a folder of another config
        with np.load(path) as saved:
            return Evidence(**{name: saved[name] for name in Evidence._fields})
    run(setup, folder)
    trained = load_run(folder)
    steps = [step for step in trained.steps if trained.epoch(step) >= _EARLIEST]
    evidence = gather(trained, steps)
    save_arrays(path, evidence._asdict())
    if (folder / "checkpoints").exists():
        (folder / "checkpoints").rmtree()
    return evidence


def plant_flips(evidence: Evidence, labels: np.ndarray, num_classes: int, seed: int) -> Planted:
    """Returns a copy of the labels with flips of the kind and rate that the evidence shows.

    Where that is next to none, more of that kind: what finds them is learned from them.

    Args:
      evidence: of the ensemble on the labels as given.
      labels: int [n], as given.
      num_classes: of them.
      seed: of the flips.

    Raises:
      InputError: if the examples are too few for that.
    """
    suggested = overall(evidence).argmax(axis=1)
    flips = transition(count_confusions(suggested, labels, num_classes))
    enough = at_least(flips, suggested, 2 * FEWEST_PLANTED)
    planted = plant(np.random.default_rng(seed), suggested, enough)
    is_planted = planted != suggested
    if min(is_planted.sum(), (~is_planted).sum()) < FEWEST_PLANTED:
        raise InputError(
            f"{len(labels)} examples are too few to be audited: {FEWEST_PLANTED} wrong labels must "
            f"be planted among them, and as many left right; {is_planted.sum()} could be"
        )
    return Planted(planted, is_planted, flips)


def planted_config(
    config: Config,
    images: np.ndarray,
    planted: Planted,
    class_names: Sequence[str],
    path: epath.Path,
    members: int,
) -> Config:
    """Writes the copy as a .npz file, and returns the config that trains on it.

    Args:
      config: of the ensemble on the labels as given.
      images: [n ...], what that one is trained on; features not standardised.
      planted: the labels of the copy.
      class_names: by class.
      path: of the file.
      members: networks to train.

    Raises:
      InputError: if some class has fewer than two examples left in the copy, or the file is that
        of another audit.
    """
    fewest = np.bincount(planted.labels, minlength=len(class_names))
    if fewest.min() < 2:
        name = class_names[int(fewest.argmin())]
        raise InputError(
            f"class {name!r}: the networks cannot tell it from others (they give it "
            f"{fewest.min()} examples), so its labels cannot be judged; merge it, or add examples"
        )
    arrays = {"images": images, "labels": planted.labels}
    if path.exists() and not holds_arrays(path, arrays):
        raise InputError(
            f"{path}: not the copy that these data make now (another memjax made it?); delete "
            f"{path.parent}, or choose another --workdir"
        )
    if not path.exists():
        save_arrays(path, arrays)
    ensemble = dataclasses.replace(config.ensemble, size=members)
    copy = dataset_of(config, path, num_validation=0)
    return dataclasses.replace(config, seed=config.seed + 100_000, dataset=copy, ensemble=ensemble)


def dataset_of(config: Config, path: epath.Path, num_validation: int) -> Dataset:
    """Returns the dataset section of a .npz file of what an ensemble was trained on."""
    return Dataset(
        source="npz",
        path=str(path),
        layout="HWC",  # as loaded
        num_validation=num_validation,
        standardize=config.dataset.standardize,
    )


def holds_arrays(path: epath.PathLike, arrays: Mapping[str, np.ndarray]) -> bool:
    """Returns whether a .npz file holds these arrays, and no others."""
    with np.load(path, allow_pickle=False) as saved:
        return set(saved) == set(arrays) and all(
            np.array_equal(saved[name], value) for name, value in arrays.items()
        )


def save_arrays(path: epath.PathLike, arrays: dict[str, Any]) -> None:
    """Writes a .npz file that is whole or absent."""

    def write(name: epath.PathLike) -> None:
        with epath.Path(name).open("wb") as file:
            np.savez(file, **arrays)

    write_atomically(path, write)
