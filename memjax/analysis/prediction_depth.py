"""From which layer on an example is what the network says it is: its prediction depth.

Baldock, Maennel and Neyshabur 2021, "Deep learning through the lens of example difficulty".
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from memjax.analysis._layers import trace_layers
from memjax.analysis._precision import widened
from memjax.analysis.inputs import LogitsFn, as_array, check_labels, check_model
from memjax.analysis.microbatch import check_microbatch_size, check_size, over_microbatches
from memjax.errors import InputError
from memjax.memory import working_bytes


def layer_embeddings(
    logits_fn: LogitsFn, params: Any, images: jax.Array, microbatch_size: int | None = None
) -> list[jax.Array]:
    """Returns what every image is at each layer of a network: before each kernel, and at the end.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, inference mode.
      params: pytree of arrays.
      images: [n ...], float.
      microbatch_size: examples computed at once; None for all.

    Returns:
      [n size] for each kernel, what it is given (the first: the image as the network sees it), then
      the logits [n classes]. Kernels within a loop (`scan`) are not told apart.

    Raises:
      InputError: no kernel was found.

    Example:
      >>> def logits_fn(params, images):
      ...     return jax.nn.relu(images @ params["first"]) @ params["last"]
      >>> params = {"first": jnp.ones((3, 5)), "last": jnp.ones((5, 2))}
      >>> [part.shape for part in layer_embeddings(logits_fn, params, jnp.ones((4, 3)))]
      [(4, 3), (4, 5), (4, 2)]
    """
    params, images, _ = check_model(
        logits_fn, params, images, np.zeros(len(images), np.int32), by_images=True
    )
    if not any(layer.kernel for layer in trace_layers(logits_fn, params, images).layers):
        raise InputError("logits_fn: no matrix product or convolution with its parameters found")
    return _layer_embeddings(logits_fn, params, images, check_microbatch_size(microbatch_size))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _layer_embeddings(logits_fn, params, images, microbatch_size):
    trace, leaves = trace_layers(logits_fn, params, images), jax.tree.leaves(params)
    embed = jax.vmap(functools.partial(trace.embeddings, leaves))
    return over_microbatches(embed, images, microbatch_size=microbatch_size)


def nearest_classes(
    embeddings: jax.Array,
    support: jax.Array,
    labels: ArrayLike,
    num_classes: int,
    num_neighbors: int = 30,
    own_rows: ArrayLike | None = None,
) -> jax.Array:
    """Returns the class that most of the nearest neighbours of each point have.

    Args:
      embeddings: [n size], float.
      support: [m size], the points among which neighbours are.
      labels: [m], integers in [0, num_classes).
      num_classes: number of classes.
      num_neighbors: by Euclidean distance; all, if there are fewer (less one with `own_rows`).
      own_rows: [n], where each point is in the support, so that it is no neighbour of its own; -1:
        it is not there. None: none is.

    Returns:
      int32 [n]; the smallest of the classes that are equally frequent.

    Raises:
      InputError: the shapes do not fit, a label is no class, or there is no neighbour.

    Example:
      >>> support, labels = jnp.array([[0.0], [0.1], [5.0]]), jnp.array([1, 1, 0])
      >>> nearest_classes(jnp.array([[0.2]]), support, labels, 2, num_neighbors=2).tolist()
      [1]
    """
    embeddings, support = as_array("embeddings", embeddings), as_array("support", support)
    if embeddings.ndim != 2 or support.ndim != 2 or embeddings.shape[1] != support.shape[1]:
        raise InputError(
            f"embeddings, support: shapes {embeddings.shape}, {support.shape}, must be [n size] "
            "and [m size]"
        )
    num_classes = check_size("num_classes", num_classes)
    labels = check_labels(labels, len(support), num_classes, of="the support")
    wanted = check_size("num_neighbors", num_neighbors)
    count = min(wanted, len(support) - (own_rows is not None))
    if count < 1:
        raise InputError(f"support: {len(support)} points, must have a neighbour for each point")
    own_rows = jnp.full(len(embeddings), -1) if own_rows is None else jnp.asarray(own_rows)
    if own_rows.shape != embeddings.shape[:1]:
        raise InputError(f"own_rows: shape {own_rows.shape}, must be [{len(embeddings)}]")
    row_bytes = 8 * max(1, len(support))
    size = max(1, min(len(embeddings), working_bytes() // row_bytes))
    return _nearest_classes(embeddings, own_rows, support, labels, num_classes, count, size)


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _nearest_classes(embeddings, own_rows, support, labels, num_classes, count, size):
    # About the support's mean: far from it, differences of squares would have no digit left.
    support = widened(support)
    center = jnp.mean(support, axis=0, keepdims=True, where=jnp.isfinite(support))
    embeddings, support = widened(embeddings) - center, support - center
    squares = jnp.sum(jnp.square(support), axis=1)

    def classes(points: jax.Array, own_rows: jax.Array) -> jax.Array:
        products = jnp.matmul(points, support.T, precision="highest")
        distances = squares[None] - 2 * products  # but for what is the same for all of a point's
        is_own = own_rows[:, None] == jnp.arange(len(support))[None]
        _, nearest = jax.lax.top_k(jnp.where(is_own, -jnp.inf, -distances), count)
        votes = jax.nn.one_hot(labels[nearest], num_classes, dtype=jnp.int32).sum(axis=1)
        return jnp.argmax(votes, axis=1).astype(jnp.int32)

    return over_microbatches(classes, embeddings, own_rows, microbatch_size=size)


def depth_of(neighbors: Sequence[jax.Array], predictions: jax.Array) -> jax.Array:
    """Returns from which layer on the neighbours say what the network predicts.

    Args:
      neighbors: the class by neighbours at each layer, in order, [n] each.
      predictions: [n], the network's.

    Returns:
      int32 [n], 0 to the number of layers; that number where the last layer's neighbours differ.

    Example:
      >>> depth_of([jnp.array([1, 1, 0]), jnp.array([1, 0, 0])], jnp.array([1, 1, 0])).tolist()
      [0, 2, 0]
    """
    agrees = jnp.stack([jnp.asarray(classes) == predictions for classes in neighbors])
    from_here_on = jnp.flip(jnp.cumprod(jnp.flip(agrees, 0), axis=0), 0)
    return (len(neighbors) - from_here_on.sum(axis=0)).astype(jnp.int32)
