"""Does a network of the user's fit? Told in one line, before anything is trained."""

import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal, jaxprs_in_params

from memjax.errors import InputError
from memjax.models.adapters import Model, path_name
from memjax.models.functions import STATE
from memjax.models.own import one_line

_LOGGER = logging.getLogger("memjax")
_STATISTICS = ("batch_stats", "BatchStat")


def check_model(
    model: Model,
    name: str,
    num_classes: int,
    image_shape: tuple[int, ...],
    batch_size: int,
    num_examples: int,
    has_padding: bool,
) -> None:
    """Calls a network abstractly in training and in inference, and says what does not fit.

    Only where batches are padded is it also computed, once, on made-up images.

    Args:
        model: the network.
        name: `config.model.name`.
        num_classes: logits there must be.
        image_shape: of one image.
        batch_size: examples of a training step, padding included.
        num_examples: of an epoch.
        has_padding: whether a batch is filled up.

    Raises:
        InputError: it does not fit.
    """
    _Check(model, name, num_classes, image_shape, batch_size).run()
    if has_padding and not _ignores_padding(model, image_shape, batch_size):
        divisors = [n for n in range(1, num_examples + 1) if num_examples % n == 0]
        fitting = min(divisors, key=lambda n: abs(math.log(n / batch_size)))
        raise InputError(
            f"model {name!r}: the padding of an epoch's last batch changes its results; __call__ "
            "must take mask=None and hand it to BatchNorm (memjax.models.masked_batch_norm), or "
            f"config.train.batch_size must divide {num_examples}, for example {fitting}"
        )


class _Check:
    """The abstract calls of one network."""

    def __init__(
        self, model: Model, name: str, num_classes: int, image_shape: tuple[int, ...], size: int
    ):
        self.model, self.name, self.num_classes, self.size = model, name, num_classes, size
        self.key = jax.eval_shape(lambda: jax.random.key(0))
        self.shape = image_shape

    def run(self) -> None:
        first = self.key, self.images(1)
        params = self.called("before training", lambda: jax.eval_shape(self.model.init, *first))
        self.check_params(params)
        training, inference = self.images(self.size), self.images(self.size + 1)

        def train(params: Any, images: Any, key: Any) -> Any:
            rngs = dict.fromkeys(("params", "dropout", "noise"), key)
            return self.model.apply(params, images, train=True, rngs=rngs)

        def infer(params: Any, images: Any) -> Any:
            return self.model.apply(params, images, train=False)[0]

        trained, (logits, changed) = self.called(
            "in training",
            lambda: jax.make_jaxpr(train, return_shape=True)(params, training, self.key),
        )
        self.check_logits(logits, self.size)
        self.check_state(params, changed, trained)
        idle = self.called("in training", lambda: self.model.idle_dropout(params, training))
        if idle:
            self.refuse(f"its dropout {idle} drops nothing in training; `train` must reach it")
        inferred, logits = self.called(
            "in inference mode",
            lambda: jax.make_jaxpr(infer, return_shape=True)(params, inference),
        )
        self.check_logits(logits, self.size + 1)
        activation = _last_activation(inferred.jaxpr)
        if activation:
            self.refuse(f"returns the result of a {activation}; must return logits")

    def images(self, count: int) -> Any:
        return jax.ShapeDtypeStruct((count, *self.shape), jnp.float32)

    def refuse(self, what: str) -> None:
        raise InputError(f"model {self.name!r}: {what}")

    def called(self, when: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except InputError:
            raise
        except Exception as error:  # the user's network may fail in any way
            raise InputError(
                f"model {self.name!r}: fails {when} on images {(self.size, *self.shape)}: "
                f"{one_line(error)}"
            ) from error

    def check_params(self, params: dict[str, Any]) -> None:
        if not jax.tree.leaves(params["params"]):
            self.refuse("has no parameters to train")
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            kinds = (jnp.floating, jnp.integer, jnp.bool_)
            if not any(jnp.issubdtype(leaf.dtype, kind) for kind in kinds):
                self.refuse(
                    f"its array {path_name(path)} is {leaf.dtype}; must be floating-point, integer "
                    "or bool"
                )

    def check_logits(self, logits: Any, count: int) -> None:
        wanted = f"must return logits [n {self.num_classes}], a floating-point array"
        if not isinstance(logits, jax.ShapeDtypeStruct):
            self.refuse(f"returns a {type(logits).__name__}; {wanted}")
        shape = " ".join(["n" if i == count else str(i) for i in logits.shape])
        if logits.shape != (count, self.num_classes):
            self.refuse(f"returns an array [{shape}]; {wanted}")
        if not jnp.issubdtype(logits.dtype, jnp.floating):
            self.refuse(f"returns {logits.dtype}; {wanted}")

    def check_state(self, params: dict[str, Any], changed: Any, traced: Any) -> None:
        before = {name: tree for name, tree in params.items() if name != "params"}
        shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), t) for t in (before, changed)]
        if shapes[0] != shapes[1]:
            self.refuse("its state has another structure or other shapes after a call in training")
        inputs = traced.jaxpr.invars[: len(jax.tree.leaves(params))]
        leaves = jax.tree_util.tree_leaves_with_path(changed)
        kept = set(map(id, inputs))
        outputs = zip(leaves, traced.jaxpr.outvars[1:], strict=True)
        frozen = [path for (path, _), variable in outputs if id(variable) in kept]
        in_state = [path for path, _ in leaves if path[0].key == STATE]
        for path in frozen:
            # A state may hold constants beside what changes.
            is_whole = path[0].key == STATE and set(in_state) <= set(frozen)
            if path[0].key in _STATISTICS or is_whole:
                self.refuse(
                    f"its statistics {path_name(path)} never change in training; `train` must "
                    "reach their layer"
                )


def _last_activation(jaxpr: Any) -> str:
    """Returns 'softmax' or 'sigmoid' where the logits come straight from it; "" otherwise."""
    producers = {id(variable): eqn for eqn in jaxpr.eqns for variable in eqn.outvars}
    if isinstance(jaxpr.outvars[0], Literal):
        return ""
    equation = producers.get(id(jaxpr.outvars[0]))
    while equation is not None and equation.primitive.name in ("convert_element_type", "reshape"):
        equation = producers.get(id(equation.invars[0]))
    if equation is None:
        return ""
    if equation.primitive.name == "logistic":
        return "sigmoid"
    if equation.primitive.name == "div":
        numerator, denominator = (producers.get(id(v)) for v in equation.invars)
        while denominator is not None and denominator.primitive.name in (
            "broadcast_in_dim",
            "reshape",
            "stop_gradient",
        ):
            denominator = producers.get(id(denominator.invars[0]))
        is_exp = numerator is not None and numerator.primitive.name == "exp"
        is_sum = denominator is not None and denominator.primitive.name == "reduce_sum"
        return "softmax" if is_exp and is_sum else ""
    inner = list(jaxprs_in_params(equation.params))
    is_call = len(inner) == 1 and len(inner[0].outvars) == len(equation.outvars) == 1
    return _last_activation(inner[0]) if is_call else ""


def _ignores_padding(model: Model, image_shape: tuple[int, ...], batch_size: int) -> bool:
    """Returns whether the padded rows of a batch change nothing but themselves."""
    keys = jax.random.split(jax.random.key(0), 4)
    images = jax.random.normal(keys[0], (batch_size, *image_shape))
    others = images.at[-1].set(3 * jax.random.normal(keys[1], image_shape))
    mask = jnp.arange(batch_size) < batch_size - 1

    @jax.jit
    def make(key: jax.Array) -> Any:
        return model.init(key, images[:1])

    @jax.jit
    def real_results(params: Any, images: jax.Array) -> Any:
        rngs = dict.fromkeys(("params", "dropout", "noise"), keys[3])
        logits, changed = model.apply(params, images, train=True, rngs=rngs, mask=mask)
        return logits[:-1], changed

    params = make(keys[2])
    # A last layer that begins at zero would hide everything.
    params["params"] = jax.tree.map(
        lambda leaf: leaf + (0.1 * jax.random.normal(keys[2], leaf.shape)).astype(leaf.dtype),
        params["params"],
    )
    pairs = zip(*(jax.tree.leaves(real_results(params, x)) for x in (images, others)), strict=True)
    return all(
        bool(jnp.allclose(a.astype(jnp.float32), b.astype(jnp.float32), rtol=1e-3, atol=1e-5))
        for a, b in pairs
    )
