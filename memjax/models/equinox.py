"""Equinox modules behind the interface."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from memjax.models.adapters import FIXED, Model, is_trained, leaf_at, like, nested
from memjax.models.calls import Call, read_call
from memjax.models.construction import Maker

STATE = "state"
AXIS = "batch"  # of the batch, where no BatchNorm of the network names another
_KNOWN = ("train", "key", "state", "mask")


class _Structure(NamedTuple):
    """A network without its arrays.

    Attributes:
        static: everything but the arrays.
        places: (collection, path) of each array.
        treedef: of the arrays.
        state: the abstract `eqx.nn.State`.
    """

    static: Any
    places: list[tuple[str, tuple[str, ...]]]
    treedef: Any
    state: Any


@dataclasses.dataclass(frozen=True)
class EquinoxModel(Model):
    """An Equinox module, written for one image [height width channels] and batched here.

    It is put into its mode by `eqx.nn.inference_mode`, and by a train flag of `__call__` where
    there is one. `__call__` may take `key` (one an example), `state` (and then returns logits and
    state), and `mask`. The floating-point arrays are trained.

    Attributes:
        make: its class, whose constructor may take `num_classes`, `image_shape` and `key`.
    """

    make: Maker

    def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
        """See `Model.init`."""
        module, state = self._made(key, images)
        found: dict[str, dict[tuple[str, ...], Any]] = {"params": {}}
        for (collection, path), leaf in zip(*_arrays(module)[:2], strict=True):
            found.setdefault(collection, {})[path] = leaf
        values = dict(enumerate(jax.tree.leaves(state)))
        if values:
            found[STATE] = {(str(number),): value for number, value in values.items()}
        return {collection: nested(leaves) for collection, leaves in found.items()}

    def apply(
        self,
        params: Mapping[str, Any],
        images: jax.Array,
        train: bool,
        rngs: Mapping[str, jax.Array] | None = None,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `Model.apply`."""
        structure = self._structure(images)
        leaves = [leaf_at(params[collection], path) for collection, path in structure.places]
        module = eqx.combine(jax.tree.unflatten(structure.treedef, leaves), structure.static)
        module = eqx.nn.inference_mode(module, value=not train)
        call = _call_of(module)
        has_state = "state" in call.takes
        stored = params.get(STATE, {})
        values = [stored[str(number)] for number in range(len(stored))]
        state = jax.tree.unflatten(jax.tree.structure(structure.state), values)

        def one(image: jax.Array, key: Any, is_real: Any, state: Any) -> Any:
            given = call.arguments(train=train, key=key, mask=is_real, state=state)
            logits = module(image, **given)
            return logits if has_state else (logits, state)

        keys = jax.random.split(rngs["params"], len(images)) if train and rngs else None
        batched = jax.vmap(
            one, in_axes=(0, 0, 0, None), out_axes=(0, None), axis_name=_axis_name(module)
        )
        logits, state = batched(images, keys, mask, state)
        changed = {name: tree for name, tree in params.items() if name != "params"}
        if train and stored:
            leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(state)]
            new = {str(number): leaf for number, leaf in enumerate(leaves)}
            changed[STATE] = like(new, stored)
        return logits, changed

    def idle_dropout(self, params: Mapping[str, Any], images: jax.Array) -> str:
        """See `Model.idle_dropout`."""
        del params
        module = eqx.nn.inference_mode(self._structure(images).static, value=False)
        is_dropout = lambda leaf: isinstance(leaf, eqx.nn.Dropout)  # noqa: E731
        takes = _call_of(module).takes
        for leaf in jax.tree.leaves(module, is_leaf=is_dropout):
            if is_dropout(leaf) and leaf.p > 0 and "key" not in takes:
                return "Dropout"
        return ""

    def _made(self, key: jax.Array, images: jax.Array) -> tuple[Any, Any]:
        return eqx.nn.make_with_state(self.make)(images, key=key)

    def _structure(self, images: jax.Array) -> _Structure:
        key = jax.eval_shape(lambda: jax.random.key(0))
        module, state = eqx.filter_eval_shape(self._made, key, images)
        places, _, treedef, static = _arrays(module)
        return _Structure(static, places, treedef, state)


def _call_of(module: Any) -> Call:
    of = f"model {type(module).__name__}: __call__"
    function = inspect.unwrap(type(module).__call__)  # `filter_jit` hides what it takes
    return read_call(function, of, _KNOWN, skip=2, has_mode=True)


def _arrays(module: Any) -> tuple[list[tuple[str, tuple[str, ...]]], list[Any], Any, Any]:
    """Returns the (collection, path) of each array, the arrays, their tree, and all the rest."""
    is_array = lambda leaf: eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)  # noqa: E731
    arrays, static = eqx.partition(module, is_array)
    found, treedef = jax.tree_util.tree_flatten_with_path(arrays)
    places = [
        (
            "params" if is_trained(leaf) else FIXED,
            tuple(jax.tree_util.keystr((part,), simple=True) for part in path),
        )
        for path, leaf in found
    ]
    return places, [leaf for _, leaf in found], treedef, static


def _axis_name(module: Any) -> Any:
    """Returns the name of the batch's axis that the network's BatchNorm layers ask for."""
    is_norm = lambda leaf: isinstance(leaf, eqx.nn.BatchNorm)  # noqa: E731
    norms = [leaf for leaf in jax.tree.leaves(module, is_leaf=is_norm) if is_norm(leaf)]
    return norms[0].axis_name if norms else AXIS
