"""Plain pairs of functions (init, apply), and functions that make a network."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from memjax.errors import InputError
from memjax.models.adapters import FIXED, Model, adapted, join_trained, like, split_trained
from memjax.models.calls import read_call
from memjax.models.construction import Maker

STATE = "state"
_KEYS = ("key", "rng")


@dataclasses.dataclass(frozen=True)
class PairModel(Model):
    """Two pure functions: `init(key, images) -> params` and `apply(params, images) -> logits`.

    With state they are `init(key, images) -> (params, state)` and
    `apply(params, state, images) -> (logits, state)`. `apply` may also take a train flag, `key` and
    `mask`. The floating-point arrays of params are trained.

    Attributes:
        functions: init, apply.
    """

    functions: tuple[Any, Any]

    def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
        """See `Model.init`."""
        made, state = self.functions[0](key, images), None
        if self._has_state:
            made, state = made
        trained, fixed = split_trained(made)
        collections = {"params": trained}
        if fixed:
            collections[FIXED] = fixed
        if jax.tree.leaves(state):
            collections[STATE] = state
        return collections

    def apply(
        self,
        params: Mapping[str, Any],
        images: jax.Array,
        train: bool,
        rngs: Mapping[str, jax.Array] | None = None,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `Model.apply`."""
        known = ("train", "mask", *_KEYS)
        call = read_call(self.functions[1], "model: apply", known, 2 + self._has_state)
        key = rngs["params"] if train and rngs else None
        arguments = call.arguments(train=train, mask=mask, key=key, rng=key)
        trained = join_trained(params["params"], params.get(FIXED, {}))
        changed = {name: tree for name, tree in params.items() if name != "params"}
        if not self._has_state:
            return self.functions[1](trained, images, **arguments), changed
        logits, state = self.functions[1](trained, params.get(STATE), images, **arguments)
        if train and STATE in params:
            changed[STATE] = like(state, params[STATE])
        return logits, changed

    @property
    def _has_state(self) -> bool:
        names = list(inspect.signature(self.functions[1]).parameters)
        return names[1:2] == ["state"]


@dataclasses.dataclass(frozen=True)
class MadeModel(Model):
    """What a function of the user's returns: a pair (init, apply), or a flax linen module.

    Attributes:
        make: the function, which may take `num_classes` and `image_shape`.
    """

    make: Maker

    def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
        """See `Model.init`."""
        return self._made(images).init(key, images)

    def apply(
        self,
        params: Mapping[str, Any],
        images: jax.Array,
        train: bool,
        rngs: Mapping[str, jax.Array] | None = None,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `Model.apply`."""
        return self._made(images).apply(params, images, train, rngs, mask)

    def idle_dropout(self, params: Mapping[str, Any], images: jax.Array) -> str:
        """See `Model.idle_dropout`."""
        return self._made(images).idle_dropout(params, images)

    def _made(self, images: jax.Array) -> Model:
        made, name = self.make(images), self.make.function.__name__
        if isinstance(made, nn.Module):
            return adapted(made)
        if isinstance(made, tuple) and len(made) == 2 and all(map(callable, made)):
            return PairModel(tuple(made))
        raise InputError(
            f"model {name}: returned {type(made).__name__}; must be a pair of functions "
            "(init, apply), or a flax linen module"
        )
