"""From what a user names as data to a checked config and the data set itself."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from memjax.auditing.given import read_array
from memjax.auditing.source import load_source
from memjax.auditing.stages import (
    EFFORTS,
    FEWEST_MEMBERS,
    HARM_NETWORKS,
    save_arrays,
    training_config,
)
from memjax.config import Config, resolve
from memjax.data.dataset import Dataset, Split
from memjax.errors import InputError
from memjax.model_flags import set_model_fields
from memjax.runtime.progress import duration
from memjax.runtime.workdir import is_remote
from memjax.sweeps.cost import estimate, seconds_per_step
from memjax.sweeps.grouping import Group

FEWEST_OF_CLASS = 2
FEWEST_EXAMPLES = 80  # for wrong labels to be planted among them
_TABLES = (".csv", ".tsv", ".parquet")
# Fields that no override sets, or whole sections of them, and what is done instead.
_OWNED = {
    "corruption.": "it trains on the labels as given",
    "checkpoint.": "it saves when it needs what is saved",
    "ensemble.subset_fraction": "each network trains on 70 % of the examples",
    "ensemble.balanced": "each example is left out by as many networks as any other",
    "dataset.num_validation": "it looks at every example",
    "dataset.source": "--data says it",
    "dataset.path": "--data says it",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for.

    Attributes:
      data: as --data of `memjax.audit`.
      effort: one of `memjax.auditing.stages.EFFORTS`.
      overrides: fields of the config by their dotted names.
      pred_probs: path of a .npy file [n classes], out-of-sample probabilities; '': trained here.
      embeddings: path of a .npy file [n features]; '': the images themselves.
      check_harm: whether `memjax.auditing.harm.check_harm` follows; it costs networks too.
    """

    data: str
    effort: str = "standard"
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pred_probs: str = ""
    embeddings: str = ""
    check_harm: bool = False


class Prepared(NamedTuple):
    """What is audited, and how it is trained on.

    Attributes:
      config: of the first ensemble.
      dataset: every example; its validation split is the source's own, and empty without one.
      stored: the same, with features as the source has them, not standardised.
      images: [n ...], what networks are trained on: embeddings, or the images and features stored.
    """

    config: Config
    dataset: Dataset
    stored: Dataset
    images: np.ndarray


def dataset_section(data: str) -> dict[str, Any]:
    """Returns the fields of config.dataset that --data means.

    Raises:
      InputError: if there is no such file or folder, or it is of no kind that can be read.

    Example:
      >>> dataset_section("tfds:mnist")
      {'source': 'tfds', 'name': 'mnist'}
    """
    if data == "digits":
        return {"source": "digits"}
    if data.startswith("tfds:"):
        return {"source": "tfds", "name": data.removeprefix("tfds:")}
    if ".py:" in data:
        return {"source": data}
    path = epath.Path(data)
    if path.is_dir():
        saved = any((path / name).exists() for name in ("dataset_dict.json", "state.json"))
        return {"source": "huggingface" if saved else "folder", "path": data}
    if not path.exists():
        raise InputError(f"--data={data}: no such file or folder")
    if path.suffix == ".npz":
        return {"source": "npz", "path": data}
    if path.suffix in _TABLES:
        return {"source": "table", "path": data}
    raise InputError(
        f"--data={data}: must be a folder, a .npz, a .csv, .tsv or .parquet table, "
        "file.py:function, digits, or tfds:NAME"
    )


def source_section(request: Request) -> dict[str, Any]:
    """Returns the fields of config.dataset that the request's data and overrides mean."""
    own = {
        name.removeprefix("dataset."): value
        for name, value in request.overrides.items()
        if name.startswith("dataset.")
    }
    return dataset_section(request.data) | own


def prepare_request(request: Request, folder: epath.Path | None = None) -> Prepared:
    """Returns the config of the first ensemble, and its data.

    Args:
      request: what is asked for.
      folder: of the audit, where `write_embeddings` puts embeddings as a data set. Nothing is
        written here.

    Raises:
      InputError: if the data cannot be audited.
    """
    _check_overrides(request.overrides)
    if folder is not None:
        _check_apart(request.data, folder)
    section = source_section(request)
    dataset, stored = load_source(section)
    check_data(dataset.train, dataset.num_classes, dataset.class_names)
    if len(dataset.train) < FEWEST_EXAMPLES and not request.pred_probs:
        raise InputError(
            f"--data: {len(dataset.train)} examples; an audit that trains needs "
            f"{FEWEST_EXAMPLES} or more (--pred_probs needs no training)"
        )
    overrides = request.overrides
    if request.embeddings:
        # Overrides of the data set are of the images, which are looked at and not trained on.
        section = {"source": "npz", "path": str((folder or epath.Path()) / "embeddings.npz")}
        overrides = {k: v for k, v in overrides.items() if not k.startswith("dataset.")}
    images = stored.train.images
    if request.embeddings:
        images = read_array(request.embeddings, "embeddings", len(stored.train))
    effort = EFFORTS[request.effort]
    chosen = training_config(section, images.shape, effort)
    chosen.dataset.num_validation = 0
    model = {k.removeprefix("model."): v for k, v in overrides.items() if k.startswith("model.")}
    for name, value in overrides.items():
        if not name.startswith("model."):
            _set(chosen, name, value)
    set_model_fields(chosen, model)
    config = resolve(chosen)
    if config.ensemble.size < FEWEST_MEMBERS:
        raise InputError(
            f"--config.ensemble.size={config.ensemble.size}: must be at least {FEWEST_MEMBERS}, so "
            "that each example is in some training subsets and out of others"
        )
    return Prepared(config, dataset, stored, images)


def _check_overrides(overrides: Mapping[str, Any]) -> None:
    for name, value in overrides.items():
        for owned, instead in _OWNED.items():
            if name == owned or (owned.endswith(".") and name.startswith(owned)):
                raise InputError(
                    f"--config.{name}={value!r}: is not for an audit: {instead}; leave it out"
                )


def _check_apart(data: str, folder: epath.Path) -> None:
    """Raises InputError if the audit would lie among the pictures that it is of."""
    if is_remote(folder) or is_remote(data):
        return
    source = pathlib.Path(data).resolve()
    if source.is_dir() and pathlib.Path(folder).resolve().is_relative_to(source):
        raise InputError(
            f"--workdir={folder}: lies inside --data={data}, and would be read as part of it; "
            "choose a folder elsewhere"
        )


def write_embeddings(prepared: Prepared, folder: epath.Path) -> None:
    """Writes --embeddings with the labels as the data set that the audit trains on.

    Args:
      prepared: of a request with embeddings.
      folder: of the audit.
    """
    arrays = {"images": prepared.images, "labels": prepared.stored.train.labels}
    save_arrays(folder / "embeddings.npz", arrays)


def training_data(request: Request, prepared: Prepared) -> Dataset:
    """Returns a data set of the shape and size that the first ensemble trains on, to try it on."""
    dataset = prepared.dataset
    train = dataset.train
    if request.embeddings:
        train = dataclasses.replace(train, images=prepared.images.astype(np.float32))
    return dataclasses.replace(dataset, train=train, validation=train.take(np.arange(0)))


def describe_cost(request: Request) -> str:
    """Returns in words what an audit would train, and about how long it takes here.

    The time is that of training, from a few steps of one network, members side by side not counted.

    Raises:
      InputError: if the data cannot be audited.
    """
    prepared = prepare_request(request)
    if not num_networks(request, prepared.config):
        return (
            f"{len(prepared.dataset.train):,} examples judged by --pred_probs; nothing is trained"
        )
    return training_cost(request, prepared)


def num_networks(request: Request, config: Config) -> int:
    """Returns how many networks are trained, of both ensembles and to check for harm."""
    ensembles = config.ensemble.size + EFFORTS[request.effort].planted_members
    harm = HARM_NETWORKS if request.check_harm else 0
    return harm if request.pred_probs else ensembles + harm


def training_cost(request: Request, prepared: Prepared) -> str:
    """Returns in words what is trained, and about how long it takes here; it runs a few steps.

    Networks that check for harm are trained on 2/3 of the examples, and counted like the others.

    Args:
      request: what is asked for.
      prepared: from `prepare_request`.
    """
    config, members = prepared.config, num_networks(request, prepared.config)
    data = training_data(request, prepared)
    cost = estimate(config, data)
    seconds = seconds_per_step(Group((0,), ()), config, data)
    total = seconds * cost.num_steps * members
    return (
        f"{len(data.train):,} examples, {members} networks of {cost.num_params:,} parameters, "
        f"{config.train.num_epochs} epochs each: "
        f"{cost.flops * members / config.ensemble.size:.2e} FLOPs, "
        f"about {duration(total)} of training here"
    )


def _set(config: Any, name: str, value: Any) -> None:
    *sections, field = name.split(".")
    for section in sections:
        config = config[section]
    with config.unlocked():
        config[field] = value


def check_data(train: Split, num_classes: int, class_names: Sequence[str]) -> None:
    """Checks that there is something to audit.

    Raises:
      InputError: with fewer than two classes, or fewer than two examples of a class.
    """
    counts = np.bincount(train.labels, minlength=num_classes)
    if num_classes < 2:
        raise InputError(f"--data: {num_classes} class; an audit needs two or more")
    if counts.min() < FEWEST_OF_CLASS:
        name = class_names[int(counts.argmin())]
        raise InputError(
            f"--data: class {str(name)!r} has {counts.min()} example; an audit needs "
            f"{FEWEST_OF_CLASS} or more of each"
        )
