"""Networks that are made by calling a class or a function: what it takes, and what it is given."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Maker:
    """A class or function of the user's, with the fields that the config gives it.

    Attributes:
        function: called with keyword arguments.
        num_classes: given to it where it takes an argument of that name.
        fields: (name, value) of the config's fields.
    """

    function: Callable[..., Any]
    num_classes: int
    fields: tuple[tuple[str, Any], ...] = ()

    def __call__(self, images: jax.Array, **known: Any) -> Any:
        """Returns what the function makes.

        Args:
            images: [n ...]; `image_shape` is that of one of them.
            **known: further arguments, given where the function takes them.
        """
        known |= {"num_classes": self.num_classes, "image_shape": tuple(images.shape[1:])}
        takes = arguments_of(self.function)
        given = {name: value for name, value in known.items() if name in takes}
        return self.function(**given, **dict(self.fields))


def arguments_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the named parameters of a function, or of a class's constructor."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    is_class = isinstance(function, type)
    # A metaclass may hide what the constructor takes.
    parameters = list(
        inspect.signature(function.__init__ if is_class else function).parameters.values()
    )
    return {found.name: found for found in parameters[is_class:] if found.kind in named}
