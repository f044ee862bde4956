"""Interval propagation over a network's jaxpr: what its logits can be in a box of images.

Any `logits_fn(params, images)` is traced for one image; what does not depend on the image is
computed exactly, the rest by the rules of `memjax.analysis.interval_rules`. The affine end of the
network (the last layer; all of a linear model) is not propagated but folded: for every pair of
classes, the smallest z_i - z_j over the box of its inputs is found exactly, up to rounding. A
primitive without a rule gives no certificate. The bounds hold for float arithmetic of the dtype
that the network names, not for TF32, Winograd or FFT products that a backend may put in its place.
"""

import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp

from memjax.analysis.interval_graph import Graph, LogitsFn, UnknownPrimitive, read
from memjax.analysis.interval_rules import Interval, center, lower_of, num_terms, upper_of

_logger = logging.getLogger(__name__)


def _logit_bounds(logits_fn, params, lower, upper):
    graph = Graph(logits_fn, params, lower)
    environment = graph.run_exact() | {graph.image: Interval(lower, upper)}
    graph.run_intervals(environment, graph.equations)
    value = read(environment, graph.output)
    return Interval(lower_of(value), upper_of(value))


def _smallest_lead(logits_fn, params, lower, upper, label):
    """Returns, for one example, a lower bound of z_label - z_j over the box, for every j."""
    graph = Graph(logits_fn, params, lower)
    exact = graph.run_exact()
    environment = exact | {graph.image: Interval(lower, upper)}
    graph.run_intervals(environment, graph.body)
    inputs = [environment[variable] for variable in graph.frontier]
    centers = [center(value) for value in inputs]
    middles = [jnp.where(jnp.isfinite(middle), middle, 0) for middle, _ in centers]
    logits, pull_back = jax.vjp(functools.partial(graph.run_tail, exact), middles)

    # What the logits could be without cancellation: the scale of their rounding errors.
    scale = dict(exact)
    for variable, value in zip(graph.frontier, inputs, strict=True):
        magnitude = jnp.maximum(jnp.abs(value.lower), jnp.abs(value.upper))
        scale[variable] = Interval(-magnitude, magnitude)
    graph.run_intervals(scale, graph.tail, symmetric=True)
    magnitude = upper_of(read(scale, graph.output))
    terms = sum(
        num_terms(equation.primitive.name, equation.params, [atom.aval for atom in equation.invars])
        for equation in graph.tail
    )
    units = float(jnp.finfo(logits.dtype).eps) * (2 * terms + 8)

    def lead(other):
        direction = jax.nn.one_hot(label, logits.size) - jax.nn.one_hot(other, logits.size)
        (coefficients,) = pull_back(direction.astype(logits.dtype))
        loss = jnp.zeros((), logits.dtype)
        for coefficient, (_, half_width) in zip(coefficients, centers, strict=True):
            # log_softmax ends in a term common to all classes, whose width must not count.
            products = jnp.where(coefficient == 0, 0, jnp.abs(coefficient) * half_width)
            loss += products.sum().astype(logits.dtype)
        return logits[label] - logits[other] - loss - units * (magnitude[label] + magnitude[other])

    return jax.lax.map(lead, jnp.arange(logits.size))


@functools.partial(jax.jit, static_argnames="logits_fn")
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
      UnknownPrimitive: names a primitive of the network that has no rule.

    Example:
      >>> logits_fn = lambda params, images: jax.nn.relu(images @ params)
      >>> bounds = interval_bounds(logits_fn, jnp.eye(2), jnp.full((1, 2), -1.0), jnp.ones((1, 2)))
      >>> bounds.upper.round(3).tolist()
      [[1.0, 1.0]]
    """
    one = functools.partial(_logit_bounds, logits_fn, params)
    return jax.vmap(one)(lower, upper)


@functools.partial(jax.jit, static_argnames="logits_fn")
def certified(
    logits_fn: LogitsFn, params: Any, lower: jax.Array, upper: jax.Array, labels: jax.Array
) -> jax.Array:
    """Returns whether each box is certified to hold no image of another predicted class.

    Args:
      logits_fn: (params, images [n ...]) -> logits [n classes], inference mode; one image's logits
        depend on that image alone.
      params: the network's parameters, any pytree of arrays.
      lower: [n ...], float, the boxes' lower corners.
      upper: [n ...], float, the boxes' upper corners.
      labels: [n], int, the predicted class of each box's image.

    Returns:
      [n] bool. False is no statement: also where the network has a primitive that is not known
      (which is logged).

    Example:
      >>> logits_fn = lambda params, images: images @ params
      >>> images = jnp.array([[0.6, 0.5], [0.9, 0.1]])
      >>> certified(logits_fn, jnp.eye(2), images - 0.1, images + 0.1, jnp.array([0, 0])).tolist()
      [False, True]
    """
    one = functools.partial(_smallest_lead, logits_fn, params)
    try:
        leads = jax.vmap(one)(lower, upper, labels)
    except UnknownPrimitive as error:
        _logger.warning("no upper bound: interval propagation has no rule for '%s'", error)
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
    return set(graph.frontier) <= {graph.image}
