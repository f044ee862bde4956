"""What a network's call takes: the train flag, what else memjax can give, and nothing unknown."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from memjax.errors import InputError

# What a train flag is called elsewhere. One that was left at its default would train in inference
# mode in silence, and half of these names mean the opposite.
OTHER_FLAGS = (
    *("training", "is_training", "is_train", "train_mode", "training_mode"),
    *("deterministic", "use_running_average", "inference", "is_inference", "inference_mode"),
    *("eval", "is_eval", "eval_mode", "evaluate", "test", "is_test", "test_mode", "testing"),
)


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments of a call beside the images.

    Attributes:
        takes: names of the known arguments that it has.
    """

    takes: frozenset[str]

    def arguments(self, **known: Any) -> dict[str, Any]:
        """Returns the keyword arguments of a call: of `known` what it takes."""
        return {name: value for name, value in known.items() if name in self.takes}


def read_call(
    function: Callable[..., Any],
    of: str,
    known: Iterable[str],
    skip: int = 1,
    has_mode: bool = False,
) -> Call:
    """Returns what a call takes.

    Args:
        function: the method or function that is called.
        of: what to call it in an error.
        known: names of arguments that can be given; one of them is `train`.
        skip: leading arguments that are given in their places.
        has_mode: whether the mode is set elsewhere, and a flag of any name may be left at None.

    Raises:
        InputError: it requires an argument that is none of them, or has a train flag of another
            name.

    Example:
        >>> read_call(lambda images, train: images, "model", ["train", "mask"]).arguments(
        ...     train=True, mask=None
        ... )
        {'train': True}
    """
    known, takes = set(known), set()
    parameters = list(inspect.signature(function).parameters.values())
    # What a class of a library takes beside its own arguments (Sequential) is for its layers.
    is_of_library = str(function.__module__).partition(".")[0] in ("flax", "equinox")
    has_rest = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    if has_rest and not is_of_library:
        return Call(frozenset(known))
    for parameter in parameters[skip:]:
        if parameter.name in known:
            takes.add(parameter.name)
        elif parameter.name in OTHER_FLAGS and not (has_mode and parameter.default is None):
            raise InputError(refused_flag(of, "argument", parameter.name))
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise InputError(
                f"{of} requires the argument {parameter.name!r}; memjax gives it images and, "
                f"where it takes them, {', '.join(sorted(known))}"
            )
    return Call(frozenset(takes))


def refused_flag(of: str, kind: str, name: str) -> str:
    """Returns what to say of a train flag under another name."""
    return (
        f"{of} has the {kind} {name!r}; memjax tells training from inference by `train` (True in "
        "training): rename it"
    )
