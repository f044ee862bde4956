"""What a network's logits can be in a box of images, from its jaxpr.

Any `logits_fn(params, images)` is traced for one image; what does not depend on the image is
computed exactly, the rest is bounded by the rules of `interval_rules` and the lines of
`relaxation`. A class is certified by the differences of its logit to the others, pulled back
through the affine end of the network, so that a linear model is exact up to rounding. A primitive
without a rule gives no certificate, and is named. The bounds hold for float arithmetic of the
dtypes that the network names (bfloat16, float16 and conversions among them), and for products of
TF32 or bfloat16 factors on accelerators; not for Winograd or FFT convolutions.
"""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp

from memjax.analysis._arguments import is_concrete
from memjax.analysis._certificates.interval_graph import Graph, read
from memjax.analysis._certificates.interval_rounding import widened
from memjax.analysis._certificates.interval_value import Interval, lower_of, upper_of
from memjax.analysis._certificates.relaxation import Propagation, UnknownPrimitive
from memjax.analysis.inputs import LogitsFn, as_array, check_model
from memjax.errors import InputError

_logger = logging.getLogger(__name__)


def _logit_bounds(logits_fn, params, lower, upper):
    graph = Graph(logits_fn, params, lower)
    value = read(Propagation(graph, lower, upper).values, graph.output)
    low, high = widened(lower_of(value)), widened(upper_of(value))
    return Interval(
        jnp.where(jnp.isnan(low), -jnp.inf, low), jnp.where(jnp.isnan(high), jnp.inf, high)
    )


def _smallest_leads(logits_fn, refine_up_to, use_lines, params, lower, upper, label):
    """Returns, for one example, lower bounds of z_label - z_j over the box, for every j."""
    graph = Graph(logits_fn, params, lower)
    propagation = Propagation(graph, lower, upper, refine_up_to)
    logits = read(propagation.values, graph.output)
    if not isinstance(logits, Interval):
        return logits[label] - logits
    classes = jnp.arange(logits.lower.size)

    def lead(other):
        dtype = logits.lower.dtype
        direction = (classes == label).astype(dtype) - (classes == other).astype(dtype)
        by_intervals = propagation.smallest(graph.output, direction, False)
        if not use_lines:
            return by_intervals
        by_lines = propagation.smallest(graph.output, direction, True)
        return jnp.where(by_intervals > 0, by_intervals, by_lines)

    leads = jax.lax.map(lead, classes)
    # A network that may overflow may give NaN, which lines do not know of.
    is_bounded = jnp.isfinite(logits.lower[label]) & (logits.upper < jnp.inf)
    # A class of the logit -inf is masked out: its lead, without digits, is beyond all others.
    leads = jnp.where(logits.upper == -jnp.inf, jnp.inf, leads)
    return jnp.where(is_bounded, leads, -jnp.inf)


def unknown_primitive(logits_fn: LogitsFn, params: Any, images: jax.Array) -> str | None:
    """Returns the first primitive of a network that there is no rule for, None where all have one.

    Args:
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode.
      params: the network's parameters, any pytree of arrays.
      images: [n ...], float; only shape and dtype are used.

    Example:
      >>> unknown_primitive(lambda params, images: images @ params, jnp.eye(2), jnp.ones((1, 2)))
      >>> fourier_fn = lambda params, images: jnp.abs(jnp.fft.fft(images @ params))
      >>> unknown_primitive(fourier_fn, jnp.eye(2), jnp.ones((1, 2)))
      'convert_element_type of complex64'
    """
    image = jax.ShapeDtypeStruct(images.shape[1:], images.dtype)
    try:
        jax.eval_shape(functools.partial(_logit_bounds, logits_fn), params, image, image)
    except UnknownPrimitive as error:
        return error.primitive
    return None


def interval_bounds(
    logits_fn: LogitsFn, params: Any, lower: jax.Array, upper: jax.Array
) -> Interval:
    """Returns bounds of the logits over a box around each image.

    Args:
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode; one image's logits
        depend on that image alone.
      params: the network's parameters, any pytree of arrays.
      lower: [n ...], float, the boxes' lower corners.
      upper: [n ...], float, the boxes' upper corners.

    Returns:
      Interval(lower, upper), both [n classes]: every logit of every image in the box lies between.

    Raises:
      InputError: the corners do not fit, a lower one is above an upper one, or the network has a
        primitive without a rule (`UnknownPrimitive`, which names it).

    Example:
      >>> logits_fn = lambda params, images: jax.nn.relu(images @ params)
      >>> bounds = interval_bounds(logits_fn, jnp.eye(2), jnp.full((1, 2), -1.0), jnp.ones((1, 2)))
      >>> bounds.upper.round(3).tolist()
      [[1.0, 1.0]]
    """
    lower, upper = as_array("lower", lower), as_array("upper", upper)
    if (lower.shape, lower.dtype) != (upper.shape, upper.dtype):
        raise InputError(
            f"lower, upper: {lower.dtype}{list(lower.shape)}, {upper.dtype}{list(upper.shape)}, "
            "must be the same"
        )
    params, lower, _ = check_model(logits_fn, params, lower, by_images=True, one_device=False)
    if is_concrete(lower) and is_concrete(upper) and not bool((lower <= upper).all()):
        raise InputError("lower, upper: a box is empty, lower must be at most upper everywhere")
    return _interval_bounds(logits_fn, params, lower, upper)


@functools.partial(jax.jit, static_argnames="logits_fn")
def _interval_bounds(logits_fn, params, lower, upper):
    one = functools.partial(_logit_bounds, logits_fn, params)
    return jax.vmap(one)(lower, upper)


@functools.partial(jax.jit, static_argnames=("logits_fn", "refine_up_to", "use_lines"))
def certified(
    logits_fn: LogitsFn,
    params: Any,
    lower: jax.Array,
    upper: jax.Array,
    labels: jax.Array,
    refine_up_to: int = 0,
    *,
    use_lines: bool = True,
) -> jax.Array:
    """Returns whether each box is certified to hold no image of another predicted class.

    Args:
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode; one image's logits
        depend on that image alone.
      params: the network's parameters, any pytree of arrays.
      lower: [n ...], float, the boxes' lower corners.
      upper: [n ...], float, the boxes' upper corners.
      labels: [n], int, the predicted class of each box's image.
      refine_up_to: the inputs of ReLU layers of at most so many units are bounded backwards too,
        one by one: far tighter, at the cost of two backward passes a unit.
      use_lines: whether to bound the logits' differences through ReLUs too, not only through the
        network's affine end: tighter, at the cost of a backward pass a class.

    Returns:
      [n] bool. False is no statement: also where the network has a primitive that is not known
      (which is logged).

    Example:
      >>> logits_fn = lambda params, images: images @ params
      >>> images = jnp.array([[0.6, 0.5], [0.9, 0.1]])
      >>> certified(logits_fn, jnp.eye(2), images - 0.1, images + 0.1, jnp.array([0, 0])).tolist()
      [False, True]
    """
    one = functools.partial(_smallest_leads, logits_fn, refine_up_to, use_lines, params)
    try:
        leads = jax.vmap(one)(lower, upper, labels)
    except UnknownPrimitive as error:
        _logger.warning("no upper bound: %s", error)
        return jnp.zeros(labels.shape, bool)
    is_other = jnp.arange(leads.shape[1])[None] != labels[:, None]
    # `leads` of NaN (an unbounded network) compare false: not certified.
    return ((leads > 0) | ~is_other).all(-1)


def is_affine(logits_fn: LogitsFn, params: Any, images: jax.Array) -> bool:
    """Returns whether the logits are an affine function of the image, as the jaxpr shows it.

    Args:
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode.
      params: the network's parameters, any pytree of arrays.
      images: [n ...], float; only shape and dtype are used.

    Returns:
      True only where every operation on the image is known to be affine.

    Example:
      >>> is_affine(lambda params, images: images @ params + 1, jnp.eye(2), jnp.ones((1, 2)))
      True
      >>> is_affine(lambda params, images: jnp.tanh(images @ params), jnp.eye(2), jnp.ones((1, 2)))
      False
    """
    graph = Graph(logits_fn, params, jax.ShapeDtypeStruct(images.shape[1:], images.dtype))
    return graph.is_affine_in_image(graph.output) and not graph.is_narrowed(graph.output)


def is_refinable(logits_fn: LogitsFn, params: Any, images: jax.Array, refine_up_to: int) -> bool:
    """Returns whether `certified` can do better with `refine_up_to` than without it.

    Args:
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode.
      params: the network's parameters, any pytree of arrays.
      images: [n ...], float; only shape and dtype are used.
      refine_up_to: the largest number of units of a ReLU layer that is refined.

    Returns:
      Whether there is such a layer behind another one.

    Example:
      >>> logits_fn = lambda params, images: jax.nn.relu(jax.nn.relu(images @ params) @ params)
      >>> is_refinable(logits_fn, jnp.eye(2), jnp.ones((1, 2)), 512)
      True
    """
    graph = Graph(logits_fn, params, jax.ShapeDtypeStruct(images.shape[1:], images.dtype))
    return len(graph.refinable(refine_up_to)) > 0
