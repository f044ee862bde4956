"""flax nnx modules behind the interface."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from memjax.errors import InputError
from memjax.models.adapters import FIXED, Model, is_trained, leaf_at, like, nested
from memjax.models.calls import read_call
from memjax.models.construction import Maker

_NAMES = {nnx.Param: "params", nnx.BatchStat: "batch_stats"}


@dataclasses.dataclass(frozen=True)
class NnxModel(Model):
    """A flax nnx module, called on a batch of images.

    It is put into its mode by `train()` and `eval()`, and by a train flag of `__call__` where there
    is one. The keys of its random streams are those of the training step.

    Attributes:
        make: its class, whose constructor may take `num_classes`, `image_shape` and `rngs`.
    """

    make: Maker

    def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
        """See `Model.init`."""
        with nnx.use_eager_sharding(False):  # memjax's own mesh has other axes
            module = self.make(images, rngs=nnx.Rngs(key))
        leaves: dict[str, dict[tuple[str, ...], Any]] = {"params": {}}
        for path, variable in nnx.to_flat_state(nnx.state(module)):
            if not isinstance(variable, nnx.RngState):
                value = jnp.asarray(variable.get_value())
                leaves.setdefault(_collection(variable), {})[_names(path)] = value
        return {collection: nested(found) for collection, found in leaves.items()}

    def apply(
        self,
        params: Mapping[str, Any],
        images: jax.Array,
        train: bool,
        rngs: Mapping[str, jax.Array] | None = None,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `Model.apply`."""
        logits, before, after = self._called(params, images, train, rngs, mask)
        if not train:
            self._check_drew_nothing(images, before, after)
        changed: dict[str, dict[tuple[str, ...], Any]] = {}
        for path, variable in before.items():
            collection = _collection(variable)
            if collection != "params" and not isinstance(variable, nnx.RngState):
                new = after[path] if train else variable
                changed.setdefault(collection, {})[path] = new.get_value()
        collections = {name: nested(leaves) for name, leaves in changed.items()}
        return logits, {name: like(tree, params[name]) for name, tree in collections.items()}

    def _called(
        self,
        params: Mapping[str, Any],
        images: jax.Array,
        train: bool,
        rngs: Mapping[str, jax.Array] | None,
        mask: jax.Array | None,
    ) -> tuple[jax.Array, dict[Any, Any], dict[Any, Any]]:
        """Returns the logits, and the variables by path, before and after."""
        graph, shapes = self._structure(images)
        given, before = [], {}
        for number, (path, variable) in enumerate(nnx.to_flat_state(shapes)):
            if isinstance(variable, nnx.RngKey):
                value = _key(variable, number, rngs if train else None)
            elif isinstance(variable, nnx.RngState):
                value = jnp.zeros(variable.shape, variable.dtype)
            else:
                value = leaf_at(params[_collection(variable)], _names(path))
            given.append((path, variable.replace(value)))
            before[_names(path)] = variable.replace(value)  # the module changes its own
        module = nnx.merge(graph, nnx.from_flat_state(given))
        _set_mode(module, train)
        of = f"model {type(module).__name__}: __call__"
        function = inspect.unwrap(type(module).__call__)
        call = read_call(function, of, ["train", "mask"], skip=2, has_mode=True)
        logits = module(images, **call.arguments(train=train, mask=mask))
        after = {_names(path): variable for path, variable in nnx.to_flat_state(nnx.state(module))}
        return logits, before, after

    def _check_drew_nothing(
        self, images: jax.Array, before: Mapping[Any, Any], after: Mapping[Any, Any]
    ) -> None:
        """Raises InputError if a stream's count went on."""
        # Compared as objects, for all are traced; a jit or remat of the user's makes new ones.
        is_same = all(
            after[path].get_value() is variable.get_value()
            for path, variable in before.items()
            if isinstance(variable, nnx.RngCount)
        )
        if not is_same and _draws_in_inference(self, images.shape, images.dtype):
            raise InputError(
                f"model {self.make.function.__name__}: draws random numbers in inference mode"
            )

    def idle_dropout(self, params: Mapping[str, Any], images: jax.Array) -> str:
        """See `Model.idle_dropout`."""
        module = nnx.merge(*self._structure(images))
        _set_mode(module, True)
        for path, found in nnx.iter_modules(module):
            if isinstance(found, nnx.Dropout) and found.rate > 0 and found.deterministic:
                return "/".join(_names(path))
        return ""

    def _structure(self, images: jax.Array) -> tuple[Any, Any]:
        """Returns the graph of a module, and its variables as shapes."""
        graphs = []

        def make() -> Any:
            graph, state = nnx.split(self.make(images, rngs=nnx.Rngs(0)))
            graphs.append(graph)
            return state

        with nnx.use_eager_sharding(False):
            state = jax.eval_shape(make)
        return graphs[0], state


def _collection(variable: nnx.Variable) -> str:
    """Returns the collection that a variable belongs to: "params" if it is trained."""
    if isinstance(variable, nnx.Param) and not is_trained(variable.get_value()):
        return FIXED
    for kind, name in _NAMES.items():
        if isinstance(variable, kind):
            return name
    return type(variable).__name__


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(str(name) for name in path)


def _key(variable: nnx.RngKey, number: int, rngs: Mapping[str, jax.Array] | None) -> jax.Array:
    """Returns the key of one random stream in this step: streams of one name differ."""
    key = jax.random.key(0)  # never drawn from: see `_check_drew_nothing`
    if rngs:
        key = jax.random.fold_in(rngs.get(variable.tag, rngs["params"]), number)
    return jax.random.split(key, variable.shape) if variable.shape else key


def _set_mode(module: nnx.Module, train: bool) -> None:
    if train:
        module.train()
    else:
        module.eval()


@functools.lru_cache(maxsize=32)
def _draws_in_inference(model: NnxModel, shape: tuple[int, ...], dtype: Any) -> bool:
    """Returns whether a stream's count goes on in inference mode, computed on zeros."""

    @jax.jit
    def counts() -> list[jax.Array]:  # of the network no more is computed
        images = jnp.zeros(shape, dtype)
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        _, _, after = model._called(params, images, False, None, None)
        streams = (variable for variable in after.values() if isinstance(variable, nnx.RngCount))
        return [variable.get_value() for variable in streams]

    with jax.ensure_compile_time_eval():
        return any(bool(count.any()) for count in counts())
