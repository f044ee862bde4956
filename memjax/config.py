"""The configuration: every field, its default, its range; checked as a whole, then frozen.

Defaults that the paper (Arpit et al. 2017) does not state are marked `[not in the paper]`.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_collections

from memjax.config_effects import without_effect
from memjax.corruption_kinds import parse_kinds
from memjax.errors import InputError
from memjax.errors import nearest as nearest  # for all who check names against a list

SOURCES = ("digits", "tfds", "npz", "folder", "table", "huggingface")
STANDARDIZE = ("none", "scalar", "channel", "feature")
LAYOUTS = ("auto", "HWC", "CHW")
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lion")
PLACEMENTS = ("auto", "replicated", "sharded")
DECAY_MASKS = ("all", "kernels")
SCHEDULES = ("constant", "step", "cosine")
COMPUTE_DTYPES = ("float32", "bfloat16")
TRAIN_METRICS = ("exact", "running")
RECORD_DYNAMICS = ("auto", "on", "off")
LARGEST = 2**31 - 1  # of an int32: seeds and steps are int32 on the devices


def _field(default: Any, check: Callable[[Any], bool], allowed: str) -> Any:
    return dataclasses.field(default=default, metadata={"check": check, "allowed": allowed})


def _integer(default: int, low: int) -> Any:
    allowed = f"an integer of at least {low}, at most {LARGEST}"
    return _field(default, lambda v: low <= v <= LARGEST, allowed)


def _number(default: float, low: float = -math.inf, high: float = math.inf, open_low=False) -> Any:
    bounds = f"{'(' if open_low else '['}{low:g}, {high:g}{']' if high < math.inf else ')'}"

    def check(value: float) -> bool:
        # What float32 would make 0 or infinite.
        holds = value == 0 or 2.0**-126 <= abs(value) < 2.0**128
        return holds and low <= value <= high and not (open_low and value == low)

    return _field(default, check, f"a finite float32 number in {bounds}")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _choice(default: str, options: Iterable[str]) -> Any:
    options = tuple(options)
    return dataclasses.field(default=default, metadata={"options": options})


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Where the examples come from."""

    source: str = "digits"  # one of SOURCES, or file.py:function that returns arrays
    name: str = "digits"  # tfds: the builder's name; huggingface: NAME[:CONFIG] on the hub
    # The file or folder, for npz, folder, table and huggingface; looked for here, then beside the
    # config file.
    path: str = ""
    data_dir: str = ""  # where tfds keeps its data; empty: its default, ~/tensorflow_datasets
    num_train: int = _integer(0, 0)  # 0: all
    num_validation: int = _integer(-1, -1)  # -1: all; 0: none [split not in the paper]
    classes: tuple[int, ...] = ()  # a subset of the classes, relabelled in this order; (): all
    image_size: int = _integer(0, 0)  # height and width after downscaling; 0: as stored
    scale: float = _number(0.0, 0.0)  # what images are divided by, 255 say; 0: as they are
    layout: str = _choice("auto", LAYOUTS)  # CHW: channels come first; auto: HWC, if it is likely
    # Columns of a table, of huggingface, or features of tfds; empty: found by their usual names.
    image_column: str = ""  # file paths, encoded images, or lists of numbers
    label_column: str = ""
    true_label_column: str = ""  # labels known to be right, where label_column may be wrong
    split_column: str = ""
    id_column: str = ""
    # Moments of the training data, taken off before the network; feature: of each of [n features],
    # which may then be of any scale. [not in the paper]
    standardize: str = _choice("scalar", STANDARDIZE)
    seed: int = _integer(0, 0)  # draws the examples when fewer than all are asked for
    cache_dir: str = ""  # decoded arrays; empty: $MEMJAX_CACHE or ~/.cache/memjax


@dataclasses.dataclass(frozen=True)
class Corruption:
    """What is done to the training examples; kinds are listed in memjax.data.corruption."""

    kind: str = "none"  # one kind, or several joined with "+"
    fraction: float = _number(1.0, 0.0, 1.0)  # the paper: 1 unless a level is given
    seed: int = _integer(0, 0)
    transition: tuple[tuple[float, ...], ...] = ()  # [classes classes], for label_transition


@dataclasses.dataclass(frozen=True)
class Model:
    """The network: a registered name or `package.module:Class`, and its own fields."""

    name: str = "mlp"
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Regularizer:
    """The regularisers of the paper's figure 10; 0 switches one off."""

    dropout: float = _number(0.0, 0.0, 0.99)
    input_dropout: float = _number(0.0, 0.0, 0.99)
    input_noise: float = _number(0.0, 0.0)  # standard deviation, on standardised inputs
    hidden_noise: float = _number(0.0, 0.0)  # standard deviation, on hidden activations
    weight_decay: float = _number(0.0, 0.0)  # added to the gradient; see optimizer.decay_mask
    adversarial_weight: float = _number(0.0, 0.0, 1.0)  # of the loss on LASS samples
    adversarial_radius: float = _number(0.02, 0.0)  # max-norm, in [0, 1] pixels [not in the paper]
    adversarial_steps: int = _integer(10, 1)  # of the search [not in the paper]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Of the training batches; whatever is measured sees the plain images. [not in the paper]"""

    crop: int = _integer(0, 0)  # pixels of black around, then a random crop; 0: off
    flip: bool = False  # left to right, half of the time
    cutout: int = _integer(0, 0)  # height and width of a square filled with the mean; 0: off
    mixup: float = _number(0.0, 0.0)  # both parameters of the Beta distribution; 0: off


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The optimiser, by its optax name, and its learning rate over time."""

    name: str = _choice("sgd", OPTIMIZERS)
    learning_rate: float = _number(0.01, 0.0, open_low=True)
    momentum: float = _number(0.0, 0.0, 1.0)  # sgd and rmsprop
    nesterov: bool = False
    schedule: str = _choice("constant", SCHEDULES)
    decay_epochs: float = _number(15.0, 0.0, open_low=True)  # schedule step: times decay_factor
    decay_factor: float = _number(0.5, 0.0, 1.0, open_low=True)  # every decay_epochs
    warmup_epochs: float = _number(0.0, 0.0)  # linear from 0, before any schedule
    betas: tuple[float, ...] = _field(  # adam, adamw and lion; (): optax's own
        (), lambda v: len(v) in (0, 2) and all(_is_share(b) for b in v), "two numbers in [0, 1)"
    )
    eps: float = _number(0.0, 0.0)  # adam, adamw, rmsprop and adagrad; 0: optax's own
    clip_norm: float = _number(0.0, 0.0)  # of the whole gradient, before any decay; 0: none
    # What weight decay acts on: all parameters, or kernels alone (no norms, biases, positions).
    decay_mask: str = _choice("all", DECAY_MASKS)


@dataclasses.dataclass(frozen=True)
class Train:
    """How long, and in what batches."""

    batch_size: int = _integer(128, 1)  # [not in the paper]
    num_epochs: int = _integer(100, 1)
    # Stop when every member has this accuracy on its training examples; 0: never.
    stop_at_train_accuracy: float = _number(0.0, 0.0, 1.0)
    log_every_epochs: int = _integer(1, 1)
    # More than one: evaluated and logged within epochs as well, at even distances.
    logs_per_epoch: int = _integer(1, 1)
    compute_dtype: str = _choice("float32", COMPUTE_DTYPES)  # parameters stay float32
    # Share of the target that is spread evenly over all classes. [not in the paper]
    label_smoothing: float = _number(0.0, 0.0, 0.99)
    # Training metrics of an evaluation of their own, or of the epoch's steps (before each update,
    # in training mode), which costs no further pass over the training data.
    train_metrics: str = _choice("exact", TRAIN_METRICS)
    # Each example's loss, margin and prediction at every evaluation; auto: up to a printed size.
    record_dynamics: str = _choice("auto", RECORD_DYNAMICS)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Members trained side by side; member m is the run whose seed is `seed + m`."""

    size: int = _integer(1, 1)
    # Each member trains on its own random subset of this size (Feldman and Zhang 2020).
    subset_fraction: float = _number(1.0, 0.0, 1.0, open_low=True)
    # Every example is left out by as many members as any other, to one; a member is then no longer
    # the run with its seed alone. Else some example is in all subsets, or in none.
    balanced: bool = False


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When the state is saved: dense early, sparse late."""

    powers_of_two: bool = True  # steps 0, 1, 2, 4, 8, ... within the first `every_epochs` epochs
    every_epochs: int = _integer(10, 0)  # and each k epochs, and the last step; 0: only the last


@dataclasses.dataclass(frozen=True)
class Run:
    """What changes no result."""

    num_devices: int = _integer(0, 0)  # 0: all
    member_devices: int = _integer(0, 0)  # mesh size along `member`; 0: as many as divide the size
    members_per_chunk: int = _integer(0, 0)  # members trained side by side on a device; 0: by size
    # Training images whole on every device, or split over the devices along `data`; auto: split
    # if they would take more than this share of a device's memory.
    data_placement: str = _choice("auto", PLACEMENTS)
    data_memory_share: float = _number(0.25, 0.0, 1.0)
    steps_per_dispatch: int = _integer(0, 0)  # 0: about a second's worth
    profile_steps: int = _integer(0, 0)  # steps to trace for jax.profiler, into `profile`; 0: none
    evaluation_batch_size: int = _integer(1000, 1)
    # The same bits at every run on one kind of device; GPUs then use no kernel that adds up in
    # whatever order, and choose kernels without timing them. Costs nothing on CPU and TPU.
    deterministic: bool = True
    tensorboard: bool = False
    progress: bool = True


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole, checked configuration. Hashable by `science_hash`."""

    seed: int = _integer(0, 0)
    dataset: Dataset = Dataset()
    corruption: Corruption = Corruption()
    model: Model = dataclasses.field(default_factory=Model)
    regularizer: Regularizer = Regularizer()
    augmentation: Augmentation = Augmentation()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    ensemble: Ensemble = Ensemble()
    checkpoint: Checkpoint = Checkpoint()
    run: Run = Run()

    def as_dict(self) -> dict[str, Any]:
        """Returns plain dicts and lists, as they stand in config.json."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def science(self) -> dict[str, Any]:
        """Returns the fields that can change a result, flat: {"train.batch_size": 128, ...}."""
        return comparable(flatten(self.as_dict()))

    def without_science(self) -> dict[str, Any]:
        """Returns the fields that change no result, flat: {"run.num_devices": 0, ...}.

        A model's file is among them, with its folder: where it lies is not science.
        """
        flat = flatten(self.as_dict())
        science = comparable(flat)
        return {k: v for k, v in flat.items() if k not in science or science[k] != v}

    def science_hash(self) -> str:
        """Returns 16 hex digits that differ when a science field does."""
        text = json.dumps(self.science(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Returns the config with some fields replaced, by traced scalars too.

    Example:
      >>> with_values(Config(), {"optimizer.learning_rate": 0.5}).optimizer.learning_rate
      0.5
    """
    for name, value in values.items():
        section, field = name.split(".")
        changed = dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{section: changed})
    return config


def comparable(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of flat fields can change a result, without where files lie.

    Args:
      flat: fields by their dotted names: a whole config's, or the science section of a config.json,
        of an older memjax too.

    Example:
      >>> comparable({"model.name": "/home/me/nets.py:Net", "run.num_devices": 8})
      {'model.name': 'nets.py:Net'}
    """
    science = {k: v for k, v in flat.items() if not _changes_no_result(k)}
    if isinstance(science.get("model.name"), str):
        path, colon, name = science["model.name"].rpartition(":")
        if path.endswith(".py"):
            science["model.name"] = f"{pathlib.PurePath(path).name}{colon}{name}"
    return science


def _changes_no_result(name: str) -> bool:
    where_data_lie = ("dataset.path", "dataset.data_dir", "dataset.cache_dir")
    return name.startswith("run.") or name in where_data_lie


def flat_values(config: Config) -> dict[str, Any]:
    """Returns all fields of a config as they are, flat: {"seed": 0, "dataset.source": ...}."""
    return flatten(dataclasses.asdict(config))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested dict as one level of dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested dict of which `flatten` gives `flat`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, field = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = value
    return tree


def default_config() -> ml_collections.ConfigDict:
    """Returns all defaults as a ConfigDict, for `get_config` files to change.

    Example:
      >>> config = default_config()
      >>> config.corruption.kind = "random_labels"
      >>> resolve(config).corruption.kind
      'random_labels'
    """
    values = dataclasses.asdict(Config())
    values["model"] = ml_collections.ConfigDict({"name": Model().name})
    return ml_collections.ConfigDict(values)


def resolve(
    config: ml_collections.ConfigDict | Mapping[str, Any], check_effects: bool = True
) -> Config:
    """Checks a whole configuration and freezes it.

    Args:
      config: sections and fields as in `default_config`; what is left out gets its default.
      check_effects: whether a field that was set and has no effect is refused. Not for the config
        of a run that is there, nor for one point of a sweep.

    Returns:
      A frozen Config.

    Raises:
      InputError: for the first field that is unknown, of another type, out of range, or without
        effect.
    """
    values = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else config
    if not isinstance(values, Mapping):
        raise InputError(f"config={values!r}: must be a ConfigDict, as default_config() gives it")
    sections: dict[str, Any] = {}
    known = {f.name: f for f in dataclasses.fields(Config)}
    for name, value in values.items():
        _require_known(name, known, "config")
        default = getattr(Config(), name)
        if name == "model":
            sections[name] = _resolve_model(value)
        elif dataclasses.is_dataclass(default):
            sections[name] = _resolve_section(name, type(default), value)
        else:
            sections[name] = _checked(f"config.{name}", known[name], value, type(default))
    resolved = Config(**sections)
    _check_together(resolved)
    if check_effects:
        for line in without_effect(flat_values(resolved), flat_values(Config())).values():
            raise InputError(line)
    return resolved


def _resolve_section(section: str, cls: type, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(f"config.{section}={values!r}: must be a section with fields")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    resolved = {}
    for name, value in values.items():
        _require_known(name, fields, f"config.{section}")
        default = getattr(cls(), name)
        resolved[name] = _checked(f"config.{section}.{name}", fields[name], value, type(default))
    return cls(**resolved)


def _resolve_model(values: Any) -> Model:
    if not isinstance(values, Mapping) or not isinstance(values.get("name", ""), str):
        raise InputError(f"config.model={values!r}: must be a section with a name and fields")
    fields = dict(values)
    name = fields.pop("name", Model().name)
    if isinstance(fields.get("fields"), Mapping):  # the form of config.json
        fields |= fields.pop("fields")
    for field, value in fields.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise InputError(
                f"config.model.{field}={value!r}: must be text, finite numbers, booleans, None, or "
                "lists of them, so that config.json can hold it"
            ) from None
    return Model(name=name, fields={k: _frozen(v) for k, v in fields.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def _checked(name: str, field: dataclasses.Field, value: Any, kind: type) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is tuple and isinstance(value, list | tuple):
        value = _frozen(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{name}={value!r}: must be of type {kind.__name__}")
    options = field.metadata.get("options")
    if options and value not in options:
        raise InputError(f"{name}={value!r}: {nearest(str(value), options)}")
    check = field.metadata.get("check")
    if check and not check(value):
        raise InputError(f"{name}={value!r}: must be {field.metadata['allowed']}")
    return value


def _require_known(name: str, known: Iterable[str], where: str) -> None:
    if name not in known:
        raise InputError(f"{where}.{name}: unknown field; {nearest(str(name), known)}")


# What a source needs as its path.
_PATHS = {"npz": "a .npz file", "folder": "a folder", "table": "a .csv, .tsv or .parquet file"}


def _check_source(dataset: Dataset) -> None:
    source = dataset.source
    if source not in SOURCES and ":" not in source:
        raise InputError(
            f"config.dataset.source={source!r}: {nearest(source, SOURCES)}, or file.py:function "
            "or package.module:function"
        )
    if source in _PATHS and not dataset.path:
        raise InputError(
            f"config.dataset.path='': source {source} needs the path of {_PATHS[source]}"
        )
    if source == "huggingface" and not dataset.path and dataset.name in ("", Dataset.name):
        raise InputError(
            "config.dataset.path='': source huggingface needs the path of a folder that "
            "save_to_disk wrote, or config.dataset.name=NAME on the hub"
        )


def _check_together(config: Config) -> None:
    """Raises InputError for fields that contradict one another."""
    _check_dataset(config)
    _check_corruption(config)
    if config.run.member_devices and config.ensemble.size % config.run.member_devices:
        raise InputError(
            f"config.run.member_devices={config.run.member_devices}: must divide "
            f"config.ensemble.size={config.ensemble.size}"
        )
    if config.seed + config.ensemble.size - 1 > LARGEST:
        raise InputError(
            f"config.seed={config.seed}: must be at most {LARGEST + 1 - config.ensemble.size}: the "
            f"seed of the last of config.ensemble.size={config.ensemble.size} members is an int32"
        )
    if config.optimizer.warmup_epochs > config.train.num_epochs:
        raise InputError(
            f"config.optimizer.warmup_epochs={config.optimizer.warmup_epochs}: must be at most "
            f"config.train.num_epochs={config.train.num_epochs}, or the learning rate never "
            "reaches its value"
        )


def _check_dataset(config: Config) -> None:
    dataset = config.dataset
    _check_source(dataset)
    classes = dataset.classes
    are_integers = all(isinstance(c, int) and not isinstance(c, bool) for c in classes)
    if not are_integers or any(c < 0 for c in classes) or len(set(classes)) < len(classes):
        raise InputError(
            f"config.dataset.classes={classes}: must be different classes, integers from 0 up"
        )


def _check_corruption(config: Config) -> None:
    corruption, num_validation = config.corruption, config.dataset.num_validation
    kinds = parse_kinds(corruption.kind)
    if "unique_labels" in kinds and num_validation != 0:
        raise InputError(
            f"config.dataset.num_validation={num_validation}: must be 0 with unique_labels, for no "
            "validation example has a class that was trained on"
        )
    if "removed" in kinds and corruption.fraction == 1:
        raise InputError(
            f"config.corruption.fraction={corruption.fraction}: leaves no example with the kind "
            "removed; must be less than 1"
        )
    if "label_transition" in kinds and not corruption.transition:
        raise InputError(
            "config.corruption.transition=(): label_transition needs a row of probabilities for "
            "each class"
        )
    for row in corruption.transition:
        if not isinstance(row, tuple) or not all(isinstance(p, int | float) for p in row):
            raise InputError(
                f"config.corruption.transition: row {row!r}: must be a list of probabilities"
            )
