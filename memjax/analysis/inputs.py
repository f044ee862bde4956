"""What the pure functions of memjax.analysis are given: its types, and one check for all of them.

Every public function calls `check_model` (or `check_logits`) first, so that a wrong input is one
clear line that names the argument, wherever it was given.
"""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis._arguments import is_concrete
from memjax.analysis._ghost.param_uses import find_param_uses
from memjax.analysis._jaxprs import check_logits_shape
from memjax.analysis._leaves import is_floating
from memjax.analysis._mixing import check_examples_independent
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.microbatch import check_on_one_device
from memjax.errors import InputError

LogitsFn = Callable[[Any, jax.Array], jax.Array]
ExampleLoss = Callable[[jax.Array, jax.Array], jax.Array]


class Inputs(NamedTuple):
    """What was given, as arrays.

    Attributes:
      params: the pytree, its leaves arrays.
      images: [n ...].
      labels: [n], or None where none were given.
    """

    params: Any
    images: jax.Array
    labels: Any


# Of an integer or bool leaf: how many values are looked at, and how large a mode is.
_MOST_SWITCHES, _LARGEST_MODE = 16, 4
# Labels of None are given, and wrong.
_NOT_GIVEN: Any = object()


class _Facts(NamedTuple):
    logits: jax.ShapeDtypeStruct  # of one example
    has_derivative: bool


# What was found out about a function, for each shape it was given: further calls cost nothing.
_known: weakref.WeakKeyDictionary[Callable, dict[Any, _Facts]] = weakref.WeakKeyDictionary()


def check_model(
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    labels: Any = _NOT_GIVEN,
    *,
    example_loss: ExampleLoss = softmax_cross_entropy,
    by_params: bool = False,
    by_images: bool = False,
    one_device: bool = True,
) -> Inputs:
    """Checks a model and its examples; what is traced is checked as far as its shape goes.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`.
      params: pytree of arrays.
      images: [n ...].
      labels: [n] integers in [0, classes), looked at where they are concrete. For another
        `example_loss` than the cross-entropy, [n ...] of any kind. Left out where there are none.
      example_loss: the loss that they are for.
      by_params: whether `params` are differentiated.
      by_images: whether `images` are differentiated.
      one_device: whether the examples must lie on one device.

    Returns:
      The same as arrays.

    Raises:
      InputError: one line that names the argument, what it is, and what is allowed.
    """
    params = check_params(params)
    images = as_array("images", images)
    if images.ndim == 0 or not images.shape[0]:
        raise InputError(
            f"images: must be [n ...] with n at least 1, not {list(images.shape)} (their lengths "
            "and those of labels must be equal)"
        )
    if by_images and not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"images: must be float to be differentiated, not {images.dtype}")
    if by_params and not any(is_floating(leaf) for leaf in jax.tree.leaves(params)):
        raise InputError(
            "params: no leaf of params has a derivative: none is a floating-point array (does "
            "logits_fn close over its parameters?)"
        )
    facts = _facts(logits_fn, params, images)
    if by_params and not facts.has_derivative:
        raise InputError(
            "params: no leaf of params has a derivative: logits_fn uses none of the floating-point "
            "ones (does it close over its parameters, or stop every gradient?)"
        )
    if labels is _NOT_GIVEN:
        labels = None
    else:
        is_class = example_loss is softmax_cross_entropy
        num_classes = facts.logits.shape[0] if is_class else None
        labels = check_labels(labels, images.shape[0], num_classes, any_kind=not is_class)
        check_scalar("example_loss", example_loss, facts.logits, labels)
    if one_device:
        check_on_one_device(*(array for array in (images, labels) if array is not None))
    return Inputs(params, images, labels)


def logits_of_example(logits_fn: LogitsFn, params: Any, images: jax.Array) -> jax.ShapeDtypeStruct:
    """Returns the shape [classes] and dtype of one example's logits, of a model that is one."""
    return _facts(logits_fn, check_params(params), images).logits


def check_logits(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Checks logits [... n classes] of 2 classes or more and labels [n]; returns them as arrays."""
    logits = as_array("logits and labels", logits)
    if (
        logits.ndim < 2
        or np.shape(labels) != logits.shape[-2:-1]
        or logits.shape[-1] < 2
        or not jnp.issubdtype(logits.dtype, jnp.floating)
    ):
        raise InputError(
            "logits and labels: must be float [n classes], of 2 classes or more, and [n], not "
            f"{logits.dtype}{list(logits.shape)} and {list(np.shape(labels))}"
        )
    return logits, check_labels(labels, logits.shape[-2], logits.shape[-1])


def check_scalar(name: str, fn: Any, logits: Any, labels: Any) -> None:
    """Raises InputError unless `fn(logits [classes], label) -> one float`.

    Args:
      name: of the argument that `fn` is.
      fn: an `example_loss`, or a measure.
      logits: [classes], or anything with its shape and dtype.
      labels: [n ...], likewise.
    """
    if fn is softmax_cross_entropy:
        return
    if not callable(fn):
        raise InputError(
            f"{name}: must be a function (logits [classes], label) -> scalar, not {fn!r}"
        )
    label = jax.ShapeDtypeStruct(labels.shape[1:], labels.dtype)
    found = jax.eval_shape(fn, logits, label)
    is_scalar = getattr(found, "shape", None) == ()
    if not is_scalar or not jnp.issubdtype(found.dtype, jnp.floating):
        raise InputError(
            f"{name}: must return one float for logits [{logits.shape[0]}] and a label "
            f"{list(label.shape)}, not {found}"
        )


def check_labels(
    labels: Any,
    num_examples: int,
    num_classes: int | None,
    any_kind: bool = False,
    *,
    name: str = "labels",
    of: str = "images",
) -> jax.Array:
    """Checks labels [n] (with `any_kind`, [n ...]); returns them as an array.

    Args:
      labels: integers; any numbers with `any_kind`.
      num_examples: n.
      num_classes: they must be in [0, num_classes) where they are concrete; None for no such limit.
      any_kind: they are not classes, but whatever a user's `example_loss` takes.
      name: of the argument.
      of: what they are the labels of.
    """
    try:
        labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
    except ValueError:
        raise InputError(f"{name}: must be an array, not a list of unequal lengths") from None
    shape, dtype = labels.shape, labels.dtype
    if not shape or shape[0] != num_examples:
        what = labels if dtype.hasobject else list(shape)
        raise InputError(
            f"{name}: must be [{num_examples}], as many as {of}, not {what}: their lengths must be "
            "equal"
        )
    if any_kind:
        return as_array(name, labels)
    if len(shape) != 1 or not jnp.issubdtype(dtype, jnp.integer):
        limit = "" if num_classes is None else f" in [0, {num_classes})"
        raise InputError(
            f"{name}: must be [{num_examples}] integers{limit}, one an example, not "
            f"{dtype}{list(shape)}"
        )
    if num_classes is not None and is_concrete(labels):
        values = np.asarray(labels)
        outside = (values < 0) | (values >= num_classes)
        if outside.any():
            first = int(outside.argmax())
            raise InputError(
                f"{name}: {values[first]} (of example {first}) is not a class in [0, {num_classes})"
            )
    return jnp.asarray(labels)


def check_params(params: Any) -> Any:
    """Returns params with arrays as leaves; raises InputError for what is no array, or complex."""
    for path, leaf in jax.tree.leaves_with_path(params):
        name = f"params{jax.tree_util.keystr(path)}"
        array = as_array(name, leaf)
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise InputError(
                f"{name}: is {array.dtype}; complex parameters have no norm of a gradient that "
                "everyone agrees on: hold real and imaginary parts as two leaves"
            )
    return jax.tree.map(jnp.asarray, params)


def as_array(name: str, value: Any) -> jax.Array:
    """Returns the value as an array; raises InputError for text and other objects."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError):
        what = getattr(value, "dtype", type(value).__name__)
        raise InputError(f"{name}: must be a numeric array, not {what}") from None


def _facts(logits_fn: LogitsFn, params: Any, images: jax.Array) -> _Facts:
    leaves, structure = jax.tree.flatten(params)
    signature = (
        structure,
        tuple((leaf.shape, leaf.dtype, _switches(leaf)) for leaf in leaves),
        images.shape[1:],
        images.dtype,
    )
    try:
        known = _known.setdefault(logits_fn, {})
    except TypeError:
        raise InputError(
            "logits_fn: must be a function (or another hashable callable) of (params, images), not "
            f"{type(logits_fn).__name__}"
        ) from None
    if signature not in known:
        known[signature] = _find_facts(logits_fn, params, images)
    return known[signature]


def _switches(leaf: jax.Array) -> bytes | None:
    """Returns what a small integer or bool leaf may switch on in a network.

    A mode is one of a few small numbers. A counter of steps is soon none of them, and all of its
    values are then one: what was found out about a network need not be found out at every step.
    """
    is_switch = jnp.issubdtype(leaf.dtype, jnp.bool_) or jnp.issubdtype(leaf.dtype, jnp.integer)
    if not is_switch or leaf.size > _MOST_SWITCHES or not is_concrete(leaf):
        return None
    values = np.asarray(leaf).astype(np.int64)
    return np.clip(values, -1, _LARGEST_MODE).tobytes()


def _find_facts(logits_fn: LogitsFn, params: Any, images: jax.Array) -> _Facts:
    for num_examples in (images.shape[0], 1):
        batch = jax.ShapeDtypeStruct((num_examples, *images.shape[1:]), images.dtype)
        logits = jax.eval_shape(logits_fn, params, batch)
        check_logits_shape(logits, num_examples)
    check_examples_independent(logits_fn, params, images)
    has_derivative = any(is_floating(leaf) for leaf in jax.tree.leaves(params))
    if has_derivative:
        uses = find_param_uses(logits_fn, params, images)
        has_derivative = bool(uses.kernels or uses.elementwise or uses.shared or uses.other)
    return _Facts(jax.ShapeDtypeStruct(logits.shape[1:], logits.dtype), has_derivative)
