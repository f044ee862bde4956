"""Networks by name or by import path, built with their regularisers."""

import math
from typing import Any

import jax
from flax import linen as nn

from memjax.config import nearest
from memjax.errors import InputError
from memjax.models.adapters import Model
from memjax.models.alexnet import AlexNet
from memjax.models.fields import check_fields, fields_of
from memjax.models.mlp import MLP
from memjax.models.own import load_maker, one_line, own_model
from memjax.models.regularizers import Regularizers
from memjax.models.resnet import ResNet, WideResNet
from memjax.models.vit import ViT

MODELS: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "alexnet": AlexNet,
    "resnet": ResNet,
    "wide_resnet": WideResNet,
    "vit": ViT,
}


def build_model(
    name: str, num_classes: int, regularizers: Regularizers | None = None, **fields: Any
) -> nn.Module | Model:
    """Builds a network; `memjax.models.adapters.adapted` says how it is called.

    A network of one's own is a flax linen, flax nnx or equinox module class, or a function that
    returns a pair (init, apply). Its constructor takes `num_classes`, and where it has such
    arguments `image_shape` and the key of its framework (`rngs`, `key`).

    Args:
        name: one of `MODELS`, or 'package.module:Name', or 'path/to/file.py:Name'.
        num_classes: width of the output.
        regularizers: strengths, Python floats or traced scalars; all off by default. The hidden
            ones need a flax linen module with a field `regularizers`.
        **fields: the network's own fields.

    Returns:
        A flax linen module, or a `Model` of another framework.

    Raises:
        InputError: an unknown name or field, a class that cannot be loaded or does not fit, a
            hidden regulariser asked of a network that has none, or a field out of its range.

    Example:
        >>> build_model("mlp", 10, widths=(64, 32)).widths
        (64, 32)
    """
    regularizers = Regularizers() if regularizers is None else regularizers
    maker = load_maker(name) if is_own(name) else _registered(name)
    known = fields_of(maker)
    is_linen = isinstance(maker, type) and issubclass(maker, nn.Module)
    if "num_classes" not in known:
        what = "a field" if is_linen else "an argument"
        raise InputError(f"model {name!r}: must have {what} num_classes")
    fields = check_fields(name, maker, fields)
    has_regularizers = is_linen and "regularizers" in known
    if not has_regularizers and regularizers.uses_hidden():
        raise InputError(
            f"model {name!r}: has no field regularizers, so dropout and hidden_noise must be 0"
        )
    if not is_linen:
        return own_model(maker, num_classes, fields)
    if has_regularizers:
        fields["regularizers"] = regularizers
    try:
        return maker(num_classes=num_classes, **fields)
    except InputError:
        raise
    except Exception as error:  # the user's constructor may fail in any way
        raise InputError(f"model {name!r}: {one_line(error)}") from error


def is_own(name: str) -> bool:
    """Returns whether a model's name is the path of a class of the user's."""
    return ":" in name


def num_params(variables: Any) -> int:
    """The number of trained values, without the running statistics of BatchNorm.

    Args:
        variables: a dict of collections with one 'params', or any other pytree of arrays, which
            is counted whole.

    Example:
        >>> import jax.numpy as jnp
        >>> num_params({"params": {"kernel": jnp.zeros((3, 2))}, "batch_stats": jnp.zeros(7)})
        6
    """
    if isinstance(variables, dict) and "params" in variables:
        variables = variables["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables))


def _registered(name: str) -> type[nn.Module]:
    if name not in MODELS:
        raise InputError(
            f"config.model.name={name!r}: {nearest(name, MODELS)}, or package.module:Name or "
            "file.py:Name"
        )
    return MODELS[name]
