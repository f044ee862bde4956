"""The configuration as a whole: its sections together, checked, then frozen.

The fields are in memjax.config_sections, and are to be had from here.
"""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from memjax.config_checks import check_corruption, check_dataset
from memjax.config_effects import without_effect
from memjax.config_sections import (
    LARGEST,
    Augmentation,
    Checkpoint,
    Corruption,
    Dataset,
    Ensemble,
    Model,
    Optimizer,
    Regularizer,
    Run,
    Train,
    integer_field,
)
from memjax.errors import (
    InputError,
    nearest as nearest,  # for all who check names against a list
)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole, checked configuration. Hashable by `science_hash`."""

    seed: int = integer_field(0, 0)
    dataset: Dataset = dataclasses.field(default_factory=Dataset)
    corruption: Corruption = dataclasses.field(default_factory=Corruption)
    model: Model = dataclasses.field(default_factory=Model)
    regularizer: Regularizer = dataclasses.field(default_factory=Regularizer)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    train: Train = dataclasses.field(default_factory=Train)
    ensemble: Ensemble = dataclasses.field(default_factory=Ensemble)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    run: Run = dataclasses.field(default_factory=Run)

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


def saved_science(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the science section of a config.json, to be compared with that of a config.

    Fields that the run's memjax did not have yet are at the defaults that keep its results.

    Args:
      there: the section, of an older memjax too.
      here: what it is compared with.
    """
    usual = Config().science()
    new = {k: usual[k] for k in here if k in usual and not k.startswith("model.")}
    return new | comparable(there)


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


def _check_together(config: Config) -> None:
    """Raises InputError for fields that contradict one another."""
    check_dataset(config.dataset)
    check_corruption(config.corruption, config.dataset.num_validation)
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
