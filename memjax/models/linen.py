"""flax linen modules behind the interface."""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from jax.extend.core import Literal

from memjax.errors import InputError
from memjax.models.adapters import FIXED, Model, join_trained, like, split_trained
from memjax.models.calls import OTHER_FLAGS, Call, read_call, refused_flag
from memjax.models.masking import over_examples

_LOGGER = logging.getLogger("memjax")


@dataclasses.dataclass(frozen=True)
class LinenModel(Model):
    """A flax linen module, called on a batch of images.

    `train` may be an argument of `__call__`, or a field. Of its collections those stay that
    it reads again; what it only sows is dropped. Parameters lose their boxes (`nn.Partitioned`).

    Attributes:
        module: the module, not yet bound.
    """

    module: nn.Module

    def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
        """See `Model.init`."""
        # Outside of memjax's mesh: boxes would take its axes for their own.
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
            made = self._moded(False).init(key, images, **self._call.arguments(train=False))
        variables = _unboxed(made)
        trained, fixed = split_trained(variables.pop("params", {}))
        if set(variables) - {"batch_stats"}:
            read = _read_collections(self, trained, fixed, variables, images)
            if set(variables) - read:
                _tell_of_sown(type(self.module).__name__, tuple(sorted(set(variables) - read)))
            variables = {name: tree for name, tree in variables.items() if name in read}
        return {"params": trained, **variables} | ({FIXED: fixed} if fixed else {})

    def apply(
        self,
        params: Mapping[str, Any],
        images: jax.Array,
        train: bool,
        rngs: Mapping[str, jax.Array] | None = None,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """See `Model.apply`."""
        state = {name: tree for name, tree in params.items() if name not in ("params", FIXED)}
        trained = join_trained(params["params"], params.get(FIXED, {}))
        # flax gives a kind of randomness that has no key of its own that of "params".
        with nn.intercept_methods(_broadcast_mask):
            result: Any = self._moded(train).apply(
                {"params": trained, **state},
                images,
                **self._call.arguments(train=train, mask=mask),
                rngs=dict(rngs) if train and rngs else None,
                mutable=list(state) if train else False,
            )
        if not train:
            return result, self._untrained(params, {})
        logits, changed = result
        return logits, self._untrained(params, _unboxed(changed))

    def idle_dropout(self, params: Mapping[str, Any], images: jax.Array) -> str:
        """See `Model.idle_dropout`."""
        idle: list[str] = []

        def look(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            module = context.module
            if context.method_name == "__call__" and isinstance(module, nn.Dropout):
                fixed, given = module.deterministic, kwargs.get("deterministic")
                given = args[1] if len(args) > 1 else given
                if module.rate > 0 and (fixed if given is None else given) is True:
                    idle.append("/".join(module.path))
            return next_call(*args, **kwargs)

        keys = {"params": jax.random.key(0)}
        with nn.intercept_methods(look):
            jax.eval_shape(lambda p, x: self.apply(p, x, train=True, rngs=keys), params, images)
        return idle[0] if idle else ""

    def _untrained(self, params: Mapping[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
        return {
            name: like(changed[name], tree) if name in changed else tree
            for name, tree in params.items()
            if name != "params"
        }

    @property
    def _call(self) -> Call:
        module_class: Any = type(self.module)
        return _call_of(module_class)

    def _moded(self, train: bool) -> nn.Module:
        """Returns the module; where `train` is a field, with that set."""
        is_field = any(field.name == "train" for field in dataclasses.fields(self.module))
        if "train" in self._call.takes or not is_field:
            return self.module
        flag: dict[str, Any] = {"train": train}
        return self.module.clone(**flag)


@functools.cache
def _tell_of_sown(name: str, collections: tuple[str, ...]) -> None:
    _LOGGER.warning(
        "model %s: what it sows into %s is left out: memjax trains on the cross-entropy alone",
        name,
        ", ".join(collections),
    )


@functools.cache
def _call_of(module_class: Any) -> Call:
    of = f"model {module_class.__name__}: __call__"
    call = read_call(module_class.__call__, of, ["train", "mask"], skip=2)
    fields = {field.name for field in dataclasses.fields(module_class)}
    others = sorted(fields & set(OTHER_FLAGS))
    if others and "train" not in call.takes | fields:
        raise InputError(refused_flag(f"model {module_class.__name__}", "field", others[0]))
    return call


def _unboxed(variables: Any) -> dict[str, Any]:
    """Returns the arrays without the boxes that say how they would be partitioned.

    A box's own `unbox` may constrain the array to a mesh axis of that name, which means something
    else here.
    """

    def value(leaf: Any) -> Any:
        if isinstance(leaf, nn.Partitioned):
            return leaf.unbox(apply_constraint=False)
        return leaf.unbox() if isinstance(leaf, nn.meta.AxisMetadata) else leaf

    is_box = lambda leaf: isinstance(leaf, nn.meta.AxisMetadata)  # noqa: E731
    return dict(jax.tree.map(value, variables, is_leaf=is_box))


def _broadcast_mask(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Hands BatchNorm a mask of examples that broadcasts over its other axes."""
    if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
        mask = kwargs.get("mask")
        if mask is not None and mask.ndim == 1:
            kwargs = {**kwargs, "mask": over_examples(mask, args[0])}
    return next_call(*args, **kwargs)


def _read_collections(
    model: LinenModel, trained: Any, fixed: Any, variables: dict[str, Any], images: jax.Array
) -> set[str]:
    """Returns the collections that are state: of a structure that stays, and read again.

    What was sown grows, depends on the batch, or is overwritten unread.
    """
    shapes = jax.eval_shape(lambda: variables)
    two = jax.ShapeDtypeStruct((2, *images.shape[1:]), images.dtype)
    weights = jax.eval_shape(lambda: join_trained(trained, fixed))

    def call(state: Any, weights: Any, two: jax.Array, key: jax.Array) -> Any:
        variables = {"params": weights, **state}
        logits, changed = model._moded(True).apply(
            variables, two, **model._call.arguments(train=True), rngs={"params": key}, mutable=True
        )
        frozen = model._moded(False).apply(variables, two, **model._call.arguments(train=False))
        changed = _unboxed(changed)
        return {name: changed.get(name) for name in state}, logits, frozen

    key = jax.eval_shape(lambda: jax.random.key(0))
    jaxpr, out = jax.make_jaxpr(call, return_shape=True)(shapes, weights, two, key)
    inputs = jaxpr.jaxpr.invars[: len(jax.tree.leaves(shapes))]
    used = [*jaxpr.jaxpr.outvars, *(v for eqn in jaxpr.jaxpr.eqns for v in eqn.invars)]
    read = {variable for variable in used if not isinstance(variable, Literal)}
    names = [path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    return {
        name
        for name, variable in zip(names, inputs, strict=True)
        if _same_structure(shapes[name], out[0][name]) and variable in read
    }


def _same_structure(before: Any, after: Any) -> bool:
    shapes = [jax.tree.map(lambda leaf: leaf.shape, tree) for tree in (before, after)]
    return shapes[0] == shapes[1]
