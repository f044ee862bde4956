"""From what a user names as data to a checked config and the data set itself."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from memjax.auditing.stages import EFFORTS, Effort, save_arrays, training_config
from memjax.config import Config, resolve
from memjax.data.dataset import Dataset, Split
from memjax.data.sources import load_dataset
from memjax.errors import InputError
from memjax.runtime.progress import duration
from memjax.sweeps.cost import estimate, seconds_per_step
from memjax.sweeps.grouping import Group

FEWEST_OF_CLASS = 2
FEWEST_EXAMPLES = 60  # for wrong labels to be planted among them
_TABLES = (".csv", ".tsv", ".parquet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for.

    Attributes:
      data: as --data of `memjax.audit`.
      effort: one of `memjax.auditing.stages.EFFORTS`.
      overrides: fields of the config by their dotted names.
      pred_probs: path of a .npy file [n classes], out-of-sample probabilities; '': trained here.
      embeddings: path of a .npy file [n features]; '': the images themselves.
    """

    data: str
    effort: str = "standard"
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pred_probs: str = ""
    embeddings: str = ""


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


def prepare_request(
    request: Request, folder: epath.Path | None = None
) -> tuple[Config, Dataset, Split | None]:
    """Returns the config of the first ensemble, its data, and the source's own validation split.

    Args:
      request: what is asked for.
      folder: of the audit, where `write_embeddings` puts embeddings as a data set. Nothing is
        written here.

    Raises:
      InputError: if the data cannot be audited.
    """
    section = dataset_section(request.data)
    own = {k.removeprefix("dataset."): v for k, v in request.overrides.items() if "dataset." in k}
    # Every example is audited; what the source itself sets apart is looked at for leakage.
    config = resolve({"dataset": section | own | {"num_validation": 0}})
    dataset = load_dataset(config.dataset)
    check_data(dataset.train, dataset.num_classes, dataset.class_names)
    if len(dataset.train) < FEWEST_EXAMPLES and not request.pred_probs:
        raise InputError(
            f"--data: {len(dataset.train)} examples; an audit that trains needs "
            f"{FEWEST_EXAMPLES} or more (--pred_probs needs no training)"
        )
    validation = own_validation(config, len(dataset.train))
    if request.embeddings:
        if folder is None:
            raise InputError("--embeddings: does not go with --dry_run, which writes nothing")
        features = read_array(request.embeddings, "embeddings", len(dataset.train))
        path = str(folder / "embeddings.npz")
        section = {"source": "npz", "path": path, "num_validation": 0}
    effort = EFFORTS[request.effort]
    shape = features.shape[1:] if request.embeddings else dataset.train.images.shape[1:]
    chosen = training_config(section | own, shape, effort)
    chosen.dataset.num_validation = 0
    for name, value in request.overrides.items():
        _set(chosen, name, value)
    return resolve(chosen), dataset, validation


def write_embeddings(request: Request, folder: epath.Path, dataset: Dataset) -> None:
    """Writes --embeddings with the labels as the data set that the audit trains on.

    Args:
      request: with embeddings, as `prepare_request` found them sound.
      folder: of the audit.
      dataset: whose labels they go with.
    """
    features = read_array(request.embeddings, "embeddings", len(dataset.train))
    arrays = {"images": features.astype(np.float32), "labels": dataset.train.labels}
    save_arrays(folder / "embeddings.npz", arrays)


def describe_cost(request: Request) -> str:
    """Returns in words what an audit would train, and about how long it takes here.

    The time is that of training, from a few steps of one network, members side by side not counted.

    Raises:
      InputError: if the data cannot be audited.
    """
    config, dataset, _ = prepare_request(request)
    if request.pred_probs:
        return f"{len(dataset.train):,} examples judged by --pred_probs; nothing is trained"
    return training_cost(config, dataset, EFFORTS[request.effort])


def training_cost(config: Config, dataset: Dataset, effort: Effort) -> str:
    """Returns in words what is trained, and about how long it takes here; it runs a few steps.

    Args:
      config: of the first ensemble.
      dataset: the data.
      effort: how much is trained.
    """
    loaded = load_dataset(config.dataset)
    cost = estimate(config, loaded)
    members = effort.members + effort.planted_members
    seconds = seconds_per_step(Group((0,), ()), config, loaded)
    total = seconds * cost.num_steps * members
    return (
        f"{len(dataset.train):,} examples, {members} networks of {cost.num_params:,} parameters, "
        f"{effort.epochs} epochs each: {cost.flops * members / effort.members:.2e} FLOPs, "
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


def own_validation(config: Config, num_train: int) -> Split | None:
    """Returns the validation split that comes with the source; None if there is none.

    Args:
      config: whose source it is.
      num_train: training examples there are without any held out.
    """
    section = dataclasses.replace(config.dataset, num_validation=-1)
    try:
        whole = load_dataset(section)
    except InputError:  # too few examples to hold any out: the source has none of its own
        return None
    held_out = len(whole.train) < num_train
    return None if held_out or not len(whole.validation) else whole.validation


def read_array(path: str, flag: str, num_rows: int) -> np.ndarray:
    """Reads a .npy file of numbers, a row per training example.

    Raises:
      InputError: if it is not readable, or not [n columns] of finite numbers.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise InputError(f"--{flag}={path}: not readable as a .npy file ({error})") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or len(array) != num_rows:
        shape = list(getattr(array, "shape", []))
        raise InputError(
            f"--{flag}={path}: shape {shape}; must be [{num_rows} columns], a row per training "
            "example in the order of the data"
        )
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise InputError(f"--{flag}={path}: must hold finite numbers, has {array.dtype}")
    return array


def read_probabilities(path: str, num_rows: int, num_classes: int) -> np.ndarray:
    """Reads --pred_probs: [n classes], rows that sum to 1.

    Raises:
      InputError: if it is not that.
    """
    found = read_array(path, "pred_probs", num_rows).astype(np.float32)
    if found.shape[1] != num_classes:
        raise InputError(
            f"--pred_probs={path}: {found.shape[1]} columns; must be {num_classes}, one per class"
        )
    sums = found.sum(axis=1)
    if (found < 0).any() or not np.allclose(sums, 1, atol=1e-3):
        raise InputError(
            f"--pred_probs={path}: rows must be probabilities that sum to 1; they sum to "
            f"{sums.min():.3g} to {sums.max():.3g}"
        )
    return found
