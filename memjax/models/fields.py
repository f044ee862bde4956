"""The config's model fields, checked against what a class or function takes."""

import collections.abc
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from memjax.config import nearest
from memjax.errors import InputError
from memjax.models.construction import arguments_of

# What memjax itself gives, and what flax adds to every module.
GIVEN = ("num_classes", "regularizers", "image_shape", "rngs", "key", "parent", "name")
_SEQUENCES = (tuple, list, collections.abc.Sequence, collections.abc.Iterable)


class Field(typing.NamedTuple):
    """One field of a network.

    Attributes:
        annotation: its type, Any where nothing is said.
        default: its default, `inspect.Parameter.empty` where it must be given.
    """

    annotation: Any
    default: Any


def fields_of(maker: Any) -> dict[str, Field]:
    """Returns all that a class or a function takes by name."""
    function = maker.__init__ if inspect.isclass(maker) else maker
    is_linen = isinstance(maker, type) and issubclass(maker, nn.Module)
    try:
        hints = typing.get_type_hints(maker if is_linen else function)
    except Exception:  # an annotation that cannot be looked up says nothing
        hints = {}
    if not is_linen:
        found = arguments_of(maker)
        return {name: Field(hints.get(name, Any), p.default) for name, p in found.items()}
    return {
        field.name: Field(hints.get(field.name, Any), _default(field))
        for field in dataclasses.fields(maker)
    }


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    factory: Any = field.default_factory
    return inspect.Parameter.empty if factory is dataclasses.MISSING else factory()


def check_fields(name: str, maker: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields as the network takes them.

    Args:
        name: `config.model.name`.
        maker: its class or function.
        given: the fields of the config, as written there or on the command line.

    Raises:
        InputError: an unknown field, one of another type, or a required one that is missing.
    """
    known = fields_of(maker)
    own = {field: found for field, found in known.items() if field not in GIVEN}
    for field in given:
        if field not in own:
            hint = nearest(field, sorted(own)) if own else "it has no fields"
            raise InputError(f"config.model.{field}: {hint} ({name})")
    for field, found in own.items():
        if found.default is inspect.Parameter.empty and field not in given:
            raise InputError(
                f"config.model.{field}: must be given, for {name} has no default; for example "
                f"--config.model.{field}=VALUE"
            )
    return {field: _converted(field, value, own[field]) for field, value in given.items()}


def _converted(name: str, value: Any, field: Field) -> Any:
    annotation, default = field
    if annotation is Any and type(default) in (bool, int, float, str, tuple, list):
        # A default of 0 does not say that 0.5 is wrong.
        annotation = int | float if type(default) is int else type(default)
    try:
        return _convert(value, annotation)
    except TypeError:
        raise InputError(
            f"config.model.{name}={value!r}: must be of type {_type_name(annotation)}"
        ) from None


def _type_name(kind: Any) -> str:
    """Returns a type as one would write it.

    Example:
        >>> _type_name(collections.abc.Sequence[int]), _type_name(float), _type_name(int | None)
        ('Sequence[int]', 'float', 'int | None')
    """
    if isinstance(kind, type) and not typing.get_args(kind):
        return kind.__name__
    return re.sub(r"\b(\w+\.)+", "", str(kind))


def _convert(value: Any, kind: Any) -> Any:
    """Returns the value as one of this type; what a type hint does not tell is left as it is.

    Raises:
        TypeError: it is none.
    """
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert_to_any(value, arguments)
    if origin is typing.Literal:
        return _require(value, value in arguments)
    if origin is bool:
        return _require(value, isinstance(value, bool))
    if origin is int:
        return _require(value, isinstance(value, int) and not isinstance(value, bool))
    if origin is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(_require(value, is_number))
    if origin is str or origin is type(None):
        return _require(value, isinstance(value, origin))
    if origin in _SEQUENCES:
        return _convert_sequence(value, arguments)
    if origin is collections.abc.Callable and isinstance(value, str):
        return _require(getattr(jax.nn, value, None), callable(getattr(jax.nn, value, None)))
    return value


def _convert_to_any(value: Any, kinds: tuple[Any, ...]) -> Any:
    # An exact type first: 3 is an int before it is a float.
    for kind in sorted(kinds, key=lambda kind: kind is not type(value)):
        try:
            return _convert(value, kind)
        except TypeError:
            continue
    raise TypeError


def _convert_sequence(value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    values = value if isinstance(value, tuple | list) else (value,)
    if isinstance(value, str):
        raise TypeError
    kinds = [kind for kind in arguments if kind is not ...]
    if len(kinds) == 1:
        kinds *= len(values)
    if kinds and len(kinds) != len(values):
        raise TypeError
    return tuple(_convert(v, k) for v, k in zip(values, kinds or [Any] * len(values), strict=True))


def _require(value: Any, holds: bool) -> Any:
    if not holds:
        raise TypeError
    return value
