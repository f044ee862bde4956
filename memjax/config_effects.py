"""Which fields of the config have an effect only where others have certain values.

A field that was set to something other than its default, and can change nothing, is a mistake of
which nobody would hear: the user meant another optimiser, or another data set. One table says where
each such field counts. Fields that change no result (`run`, where data lie) are not in it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from memjax.corruption_kinds import FIXED_KINDS

Values = Mapping[str, Any]  # of a whole config, flat: {"optimizer.name": "sgd", ...}


class Effect(NamedTuple):
    """Where a field has an effect.

    Attributes:
      only: the same in words: "has an effect only ...".
      where: from the values of a config to whether it has one.
      others: the fields that `where` looks at, which the message shows.
    """

    only: str
    where: Callable[[Values], bool]
    others: tuple[str, ...]


def _is_random(values: Values) -> bool:
    return any(kind not in FIXED_KINDS for kind in values["corruption.kind"].split("+"))


def _corrupts(values: Values) -> bool:
    return _is_random(values) and values["corruption.fraction"] > 0


def _has_hidden_layers(values: Values) -> bool:
    return values["model.name"] != "mlp" or values.get("model.fields.widths", (1,)) not in ((), [])


def _has_momentum(values: Values) -> bool:
    return values["optimizer.name"] in ("sgd", "rmsprop")


_CORRUPTS = Effect(
    "with a kind of corruption that draws examples", _is_random, ("corruption.kind",)
)
_HIDDEN = Effect("on hidden layers", _has_hidden_layers, ("model.name", "model.fields.widths"))
_ADVERSARIAL = Effect(
    "with adversarial training",
    lambda values: values["regularizer.adversarial_weight"] > 0,
    ("regularizer.adversarial_weight",),
)
_STEPS_DOWN = Effect(
    "with the schedule step",
    lambda values: values["optimizer.schedule"] == "step",
    ("optimizer.schedule",),
)


def _read_by(*sources: str) -> Effect:
    """Where a field counts that few sources read; "a function" is one of a user's own."""

    def where(values: Values) -> bool:
        source = values["dataset.source"]
        return ("a function" if ":" in source else source) in sources

    return Effect(f"with the sources {', '.join(sources)}", where, ("dataset.source",))


_ARRAYS = _read_by("npz", "table", "huggingface", "a function")
_LABELLED = _read_by("table", "huggingface", "tfds")
_TABLES = _read_by("table", "huggingface")
EFFECTS: dict[str, Effect] = {
    "dataset.scale": _ARRAYS,
    "dataset.layout": _ARRAYS,
    "dataset.image_column": _LABELLED,
    "dataset.label_column": _LABELLED,
    "dataset.true_label_column": _LABELLED,
    "dataset.split_column": _TABLES,
    "dataset.id_column": _TABLES,
    "dataset.name": Effect(
        "with the sources tfds and huggingface",
        lambda values: values["dataset.source"] in ("tfds", "huggingface"),
        ("dataset.source",),
    ),
    "dataset.path": Effect(
        "with the sources npz, folder, table and huggingface",
        lambda values: values["dataset.source"] in ("npz", "folder", "table", "huggingface"),
        ("dataset.source",),
    ),
    "dataset.seed": Effect(
        "where examples are drawn or held out",
        lambda values: values["dataset.num_train"] > 0 or values["dataset.num_validation"] != 0,
        ("dataset.num_train", "dataset.num_validation"),
    ),
    "ensemble.balanced": Effect(
        "for members that are trained on subsets",
        lambda values: values["ensemble.size"] > 1 and values["ensemble.subset_fraction"] < 1,
        ("ensemble.size", "ensemble.subset_fraction"),
    ),
    "corruption.fraction": _CORRUPTS,
    "corruption.seed": Effect(
        "with a kind of corruption that draws examples, and some that are drawn",
        _corrupts,
        ("corruption.kind", "corruption.fraction"),
    ),
    "corruption.noise_moments": Effect(
        "with the kind random_inputs",
        lambda values: "random_inputs" in values["corruption.kind"].split("+"),
        ("corruption.kind",),
    ),
    "corruption.transition": Effect(
        "with the kind label_transition",
        lambda values: "label_transition" in values["corruption.kind"].split("+"),
        ("corruption.kind",),
    ),
    "regularizer.dropout": _HIDDEN,
    "regularizer.hidden_noise": _HIDDEN,
    "regularizer.adversarial_radius": _ADVERSARIAL,
    "regularizer.adversarial_steps": _ADVERSARIAL,
    "train.logs_per_epoch": Effect(
        "with a log every epoch, of exact training metrics",
        lambda values: (
            values["train.log_every_epochs"] == 1 and values["train.train_metrics"] == "exact"
        ),
        ("train.log_every_epochs", "train.train_metrics"),
    ),
    "optimizer.momentum": Effect("with sgd or rmsprop", _has_momentum, ("optimizer.name",)),
    "optimizer.nesterov": Effect(
        "with the momentum of sgd or rmsprop",
        lambda values: _has_momentum(values) and values["optimizer.momentum"] > 0,
        ("optimizer.name", "optimizer.momentum"),
    ),
    "optimizer.betas": Effect(
        "with adam, adamw or lion",
        lambda values: values["optimizer.name"] in ("adam", "adamw", "lion"),
        ("optimizer.name",),
    ),
    "optimizer.eps": Effect(
        "with adam, adamw, rmsprop or adagrad",
        lambda values: values["optimizer.name"] in ("adam", "adamw", "rmsprop", "adagrad"),
        ("optimizer.name",),
    ),
    "optimizer.decay_mask": Effect(
        "with weight decay",
        lambda values: values["regularizer.weight_decay"] > 0,
        ("regularizer.weight_decay",),
    ),
    "optimizer.decay_epochs": _STEPS_DOWN,
    "optimizer.decay_factor": _STEPS_DOWN,
}


def set_fields(values: Values, defaults: Values) -> list[str]:
    """Returns the fields of `EFFECTS` that are not at their defaults."""
    return [name for name in EFFECTS if values[name] != defaults[name]]


def without_effect(values: Values, defaults: Values) -> dict[str, str]:
    """Returns the fields that were set and have no effect, each with the line that says why.

    Args:
      values: of a whole config, flat.
      defaults: likewise.

    Example:
      >>> from memjax.config import Config, flat_values
      >>> defaults = flat_values(Config())
      >>> changed = {**defaults, "optimizer.decay_factor": 0.1}
      >>> without_effect(changed, defaults)["optimizer.decay_factor"]
      "config.optimizer.decay_factor=0.1: has an effect only with the schedule step; here \
config.optimizer.schedule='constant'"
    """
    found = {}
    for name in set_fields(values, defaults):
        effect = EFFECTS[name]
        if not effect.where(values):
            here = ", ".join(
                f"config.{other.replace('model.fields.', 'model.')}={values[other]!r}"
                for other in effect.others
                if other in values
            )
            found[name] = (
                f"config.{name}={values[name]!r}: has an effect only {effect.only}; here {here}"
            )
    return found
