"""Networks by name or by import path, built with their regularisers."""

import dataclasses
import importlib
import importlib.machinery
import inspect
import math
import sys
import types
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn

from memjax.config import nearest
from memjax.errors import InputError
from memjax.models.alexnet import AlexNet
from memjax.models.mlp import MLP
from memjax.models.source import imports_from_folder
from memjax.training.regularizers import Regularizers

MODELS: dict[str, type[nn.Module]] = {"mlp": MLP, "alexnet": AlexNet}

# What flax adds to every module, and what build_model itself fills in.
_NOT_FIELDS = {"parent", "name", "num_classes", "regularizers"}


def build_model(
    name: str, num_classes: int, regularizers: Regularizers | None = None, **fields: Any
) -> nn.Module:
    """Builds a network, called as `model(images, train, mask=None)` on standardised images.

    A network of one's own is a flax linen module class that takes `num_classes`. It may leave out
    the field `regularizers` (the hidden ones must then be 0), and from `__call__` the arguments
    `train` (a network that does the same in training) and `mask` (one without BatchNorm).

    Args:
        name: one of `MODELS`, or 'package.module:ClassName', or 'path/to/file.py:ClassName'.
        num_classes: width of the output.
        regularizers: strengths, Python floats or traced scalars; all off by default.
        **fields: the network's own fields.

    Returns:
        A flax linen module.

    Raises:
        InputError: an unknown name or field, a class that cannot be loaded or does not fit, a
            hidden regulariser asked of a network that has none, or a field out of its range.

    Example:
        >>> build_model("mlp", 10, widths=(64, 32)).widths
        (64, 32)
    """
    regularizers = Regularizers() if regularizers is None else regularizers
    model_class = _load_class(name) if ":" in name else _registered(name)
    allowed = {field.name for field in dataclasses.fields(model_class)}
    if "num_classes" not in allowed:
        raise InputError(f"model {name!r}: must have a field num_classes")
    _check_fields(name, fields, allowed - _NOT_FIELDS)
    if "regularizers" in allowed:
        fields = {**fields, "regularizers": regularizers}
    elif regularizers.uses_hidden():
        raise InputError(
            f"model {name!r}: has no field regularizers, so dropout and hidden_noise must be 0"
        )
    try:
        model = model_class(num_classes=num_classes, **fields)
    except TypeError as error:
        raise InputError(f"model {name!r}: {error}") from error
    arguments = _call_arguments(model_class)
    if arguments >= {"train", "mask"}:
        return model
    return _Adapter(model, takes_train="train" in arguments, takes_mask="mask" in arguments)


def num_params(variables: Any) -> int:
    """The number of trained values, without the running statistics of BatchNorm.

    Args:
        variables: flax variables with a collection 'params', or any other pytree of arrays, which
            is counted whole.

    Example:
        >>> import jax.numpy as jnp
        >>> num_params({"params": {"kernel": jnp.zeros((3, 2))}, "batch_stats": jnp.zeros(7)})
        6
    """
    if isinstance(variables, dict) and "params" in variables:
        variables = variables["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))


class _Adapter(nn.Module):
    """Calls a network without the arguments it does not take; its variables keep their names."""

    model: nn.Module
    takes_train: bool
    takes_mask: bool

    def setup(self):
        nn.share_scope(self, self.model)

    def __call__(self, images: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        arguments: dict[str, Any] = {"train": train} if self.takes_train else {}
        if self.takes_mask:
            arguments["mask"] = mask
        logits = self.model(images, **arguments)
        if mask is not None and not self.takes_mask and "batch_stats" in self.variables:
            raise InputError(
                f"model {type(self.model).__name__}: __call__ must take mask=None and hand it to "
                "BatchNorm, because the last batch of an epoch is padded"
            )
        return logits


def _registered(name: str) -> type[nn.Module]:
    if name not in MODELS:
        raise InputError(
            f"config.model.name={name!r}: {nearest(name, MODELS)}, or package.module:ClassName or "
            "file.py:ClassName"
        )
    return MODELS[name]


def _load_class(name: str) -> type[nn.Module]:
    path, _, class_name = name.rpartition(":")
    try:
        module = _import_file(Path(path)) if path.endswith(".py") else importlib.import_module(path)
    except Exception as error:  # the user's module may fail in any way
        raise InputError(f"model {name!r}: {type(error).__name__}: {error}") from error
    model_class = getattr(module, class_name, None)
    if not (isinstance(model_class, type) and issubclass(model_class, nn.Module)):
        raise InputError(f"model {name!r}: {path} has no flax.linen module class {class_name!r}")
    return model_class


def _import_file(path: Path):
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    # Under a name of its own, so that it hides no installed module; flax looks classes up there.
    module_name = f"memjax_model_{path.stem}"
    loader = importlib.machinery.SourceFileLoader(module_name, str(path))
    module = types.ModuleType(module_name)
    module.__file__ = str(path)
    sys.modules[module_name] = module
    with imports_from_folder(path):
        loader.exec_module(module)
    return module


def _check_fields(name: str, fields: dict[str, Any], allowed: set[str]) -> None:
    for field in fields:
        if field not in allowed:
            raise InputError(f"config.model.{field}: {nearest(field, sorted(allowed))} ({name})")


def _call_arguments(model_class: type[nn.Module]) -> set[str]:
    parameters = inspect.signature(model_class.__call__).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return {"train", "mask"}
    return set(parameters)
