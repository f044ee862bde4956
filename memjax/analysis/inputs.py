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


class _Facts(NamedTuple):
    num_classes: int
    has_derivative: bool


# What was found out about a function, for each shape it was given: further calls cost nothing.
_known: weakref.WeakKeyDictionary[Callable, dict[Any, _Facts]] = weakref.WeakKeyDictionary()


def check_model(
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    labels: Any = None,
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
        `example_loss` than the cross-entropy, [n ...] of any kind.
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
    if labels is not None:
        is_class = example_loss is softmax_cross_entropy
        labels = check_labels(
            labels, images.shape[0], facts.num_classes if is_class else None, any_kind=not is_class
        )
    if one_device:
        check_on_one_device(*(array for array in (images, labels) if array is not None))
    return Inputs(params, images, labels)


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


def check_labels(
    labels: Any, num_examples: int, num_classes: int | None, any_kind: bool = False
) -> jax.Array:
    """Checks labels [n] (with `any_kind`, [n ...]); returns them as an array.

    Args:
      labels: integers; any numbers with `any_kind`.
      num_examples: n.
      num_classes: they must be in [0, num_classes) where they are concrete; None for no such limit.
      any_kind: they are not classes, but whatever a user's `example_loss` takes.
    """
    labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
    shape, dtype = labels.shape, labels.dtype
    if not shape or shape[0] != num_examples:
        raise InputError(
            f"labels: must be [{num_examples}], as many as images, not {list(shape)}: their "
            "lengths must be equal"
        )
    if any_kind:
        return as_array("labels", labels)
    if len(shape) != 1 or not jnp.issubdtype(dtype, jnp.integer):
        limit = "" if num_classes is None else f" in [0, {num_classes})"
        raise InputError(
            f"labels: must be [{num_examples}] integers{limit}, one an example, not "
            f"{dtype}{list(shape)}"
        )
    if num_classes is not None and _is_concrete(labels):
        values = np.asarray(labels)
        outside = (values < 0) | (values >= num_classes)
        if outside.any():
            first = int(outside.argmax())
            raise InputError(
                f"labels: {values[first]} (of example {first}) is not a class in [0, {num_classes})"
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


def _is_concrete(array: Any) -> bool:
    if isinstance(array, jax.Array):
        return not isinstance(array, jax.core.Tracer) and array.is_fully_addressable
    return True


def _facts(logits_fn: LogitsFn, params: Any, images: jax.Array) -> _Facts:
    leaves, structure = jax.tree.flatten(params)
    signature = (
        structure,
        tuple((leaf.shape, leaf.dtype) for leaf in leaves),
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
    return _Facts(logits.shape[1], has_derivative)
