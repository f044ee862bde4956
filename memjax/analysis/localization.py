"""Where in a network an example is memorized: layers rewound, and the fewest units that forget it.

Source: Maini et al. 2023, "Can neural network memorization be localized?", sections 4 and 5.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from memjax.analysis._layers import leaf_names, trace_layers, unit_layers
from memjax.analysis.inputs import ExampleLoss, LogitsFn, check_model
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.microbatch import check_microbatch_size, over_microbatches
from memjax.errors import InputError

_AT_ONCE = 32


class Layer(NamedTuple):
    """A layer of a network.

    Attributes:
      name: the path of its kernel within params, without the name of the kernel itself.
      leaves: paths of its parameters, biases, normalisation and running statistics among them.
      num_units: neurons or channels; 0 where it has none that are known, and of the logits.
    """

    name: str
    leaves: tuple[str, ...]
    num_units: int


class ForgottenUnits(NamedTuple):
    """The units without which an example is no longer predicted as its label.

    Attributes:
      num_units: [n], float32; units set to zero, 0 if the label is not predicted to begin with, inf
        if setting `max_units` to zero did not do.
      by_layer: [n layers], int32; how many of those are in each layer of `network_layers` that
        has units.
      units: [n max_units], int32, the units in the order in which they were set to zero, numbered
        over all layers; -1 beyond.
      others_accuracy: [n], float32; share of the other examples still predicted as their label.
    """

    num_units: jax.Array
    by_layer: jax.Array
    units: jax.Array
    others_accuracy: jax.Array


def network_layers(logits_fn: LogitsFn, params: Any, images: jax.Array) -> tuple[Layer, ...]:
    """Returns the layers of a network, in the order in which they run, from its jaxpr.

    A layer begins where activations meet a kernel. What is added to its result, or scales it,
    before the next nonlinearity belongs to it: biases, BatchNorm with its running statistics.
    Parameters that meet the activations elsewhere are layers without units.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`.
      params: pytree of arrays.
      images: [n ...]; only their shape and dtype matter.

    Returns:
      The layers; parameters that meet no activation are in none of them.

    Example:
      >>> def logits_fn(params, images):
      ...     return jax.nn.relu(images @ params["a"]["w"]) @ params["b"]["w"]
      >>> params = {"a": {"w": jnp.ones((3, 5))}, "b": {"w": jnp.ones((5, 2))}}
      >>> layers = network_layers(logits_fn, params, jnp.ones((1, 3)))
      >>> [(layer.name, layer.num_units) for layer in layers]
      [('a', 5), ('b', 0)]
    """
    trace, names = trace_layers(logits_fn, params, images), leaf_names(params)
    with_units, layers = unit_layers(trace), []
    for place, found in enumerate(trace.layers):
        leaves = tuple(names[leaf] for leaf in found.leaves)
        name = leaves[0].removeprefix("params/").rpartition("/")[0] or leaves[0]
        layers.append(Layer(name, leaves, found.num_units if place in with_units else 0))
    return tuple(layers)


def rewound_params(params: Any, earlier_params: Any, layer: Layer) -> Any:
    """Returns the parameters with those of one layer as they were earlier in training.

    The accuracy that is lost on an example's group tells how much of it that layer learned since.

    Args:
      params: pytree of arrays, of the trained network.
      earlier_params: of the same structure, from an earlier checkpoint or before training.
      layer: from `network_layers`.

    Returns:
      A pytree like params.

    Raises:
      InputError: the two have different leaves.

    Example:
      >>> now, then = {"a": 1.0, "b": 2.0}, {"a": 0.0, "b": 0.0}
      >>> rewound_params(now, then, Layer("b", ("b",), 0))
      {'a': 1.0, 'b': 0.0}
    """
    names = leaf_names(params)
    if names != leaf_names(earlier_params):
        raise InputError("earlier_params: must have the same leaves as params")
    leaves, earlier = jax.tree.leaves(params), jax.tree.leaves(earlier_params)
    chosen = [
        then if name in layer.leaves else now
        for name, now, then in zip(names, leaves, earlier, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), chosen)


def check_units(logits_fn: LogitsFn, params: Any, images: jax.Array) -> None:
    """Raises InputError, with the reason, for a network whose units are not known.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`.
      params: pytree of arrays.
      images: [n ...]; only their shape and dtype matter.
    """
    trace = trace_layers(logits_fn, params, images)
    trouble = trace.trouble
    if not trouble and not unit_layers(trace):
        trouble = "it has no hidden layer"
    if trouble:
        raise InputError(
            f"units to set to zero are those of networks of dense and convolution layers (MLP, "
            f"CNN), not of this one: {trouble}"
        )


def units_to_forget(
    logits_fn: LogitsFn,
    params: Any,
    images: jax.Array,
    labels: jax.Array,
    other_images: jax.Array,
    other_labels: jax.Array,
    *,
    max_units: int = 100,
    keep: float = 1.0,
    microbatch_size: int | None = None,
    example_loss: ExampleLoss = softmax_cross_entropy,
) -> ForgottenUnits:
    """Sets units to zero, one by one, until an example is no longer predicted as its label.

    Each time that unit goes whose removal raises the example's loss most, less `keep` times the
    mean loss of the other examples, both to first order: minus the unit's result times the
    derivative by it, summed over positions. The result of a unit is what it is before its
    nonlinearity, bias and normalisation included. Few units: the example is memorized in a few
    places.

    Args:
      logits_fn: `logits_fn(params, images [n ...]) -> logits [n classes]`, in inference mode.
      params: pytree of arrays.
      images: [n ...].
      labels: [n], integers in [0, classes).
      other_images: [m ...], examples whose loss is to stay; the same for all, and none of images.
      other_labels: [m].
      max_units: at which to stop.
      keep: weight of the other examples.
      microbatch_size: examples computed at once; None for 32. Changes nothing but rounding.
      example_loss: `example_loss(logits [classes], label) -> scalar`.

    Returns:
      A `ForgottenUnits`; its layers are those of `network_layers` that have units.

    Raises:
      InputError: as `check_units`; shapes or labels that do not fit; max_units below 1.

    Example:
      >>> def logits_fn(params, images):
      ...     return jax.nn.relu(images @ params["a"]) @ params["b"]
      >>> params = {"a": jnp.eye(3), "b": jnp.array([[3.0, 0.0], [0.0, 1.0], [2.0, 0.0]])}
      >>> images, others = jnp.array([[1.0, 1.0, 1.0]]), jnp.array([[0.0, 1.0, 0.0]])
      >>> found = units_to_forget(
      ...     logits_fn, params, images, jnp.array([0]), others, jnp.array([1]), max_units=3)
      >>> found.num_units, found.units
      (Array([2.], dtype=float32), Array([[ 0,  2, -1]], dtype=int32))
    """
    params, images, labels = check_model(
        logits_fn, params, images, labels, example_loss=example_loss, by_params=True
    )
    _, other_images, other_labels = check_model(
        logits_fn, params, other_images, other_labels, example_loss=example_loss
    )
    if max_units < 1:
        raise InputError(f"max_units: {max_units}, must be at least 1")
    check_units(logits_fn, params, images)
    size = check_microbatch_size(microbatch_size) or _AT_ONCE
    others = other_images, other_labels
    return _units_to_forget(
        logits_fn, params, images, labels, others, jnp.float32(keep), max_units, size, example_loss
    )


@functools.partial(jax.jit, static_argnums=(0, 6, 7, 8))
def _units_to_forget(
    logits_fn, params, images, labels, others, keep, max_units, microbatch_size, example_loss
):
    trace, leaves = trace_layers(logits_fn, params, images), jax.tree.leaves(params)
    layers = unit_layers(trace)
    widths = [trace.layers[layer].num_units for layer in layers]
    starts = [sum(widths[:place]) for place in range(len(widths) + 1)]
    num_steps = min(max_units, starts[-1])

    def logits(mask: jax.Array, image: jax.Array) -> jax.Array:
        ends = zip(layers, starts, starts[1:], strict=False)
        return trace.logits(leaves, {k: mask[start:end] for k, start, end in ends}, image)

    def objective(mask: jax.Array, image: jax.Array, label: jax.Array):
        own = logits(mask, image)
        of_others = jax.vmap(logits, in_axes=(None, 0))(mask, others[0])
        others_loss = jax.vmap(example_loss)(of_others, others[1]).mean()
        is_right = jnp.argmax(of_others, axis=1).astype(jnp.int32) == others[1].astype(jnp.int32)
        is_own_right = jnp.argmax(own).astype(jnp.int32) == label.astype(jnp.int32)
        answers = is_own_right, is_right.astype(jnp.float32).mean()
        return example_loss(own, label) - keep * others_loss, answers

    def forget(image: jax.Array, label: jax.Array) -> ForgottenUnits:
        def evaluate(mask: jax.Array):
            gradient, answers = jax.grad(objective, has_aux=True)(mask, image, label)
            return gradient, *answers

        def goes_on(state):
            _, _, count, _, is_right, _ = state
            return is_right & (count < num_steps)

        def zero_next(state):
            mask, order, count, gradient, _, _ = state
            unit = jnp.argmax(jnp.where(mask > 0, -gradient, -jnp.inf)).astype(jnp.int32)
            mask = mask.at[unit].set(0)
            return mask, order.at[count].set(unit), count + 1, *evaluate(mask)

        full = jnp.ones(starts[-1])
        order = jnp.full(max_units, -1, jnp.int32)
        state = full, order, jnp.int32(0), *evaluate(full)
        mask, order, count, _, is_right, accuracy = jax.lax.while_loop(goes_on, zero_next, state)
        ends = itertools.pairwise(starts)
        zeroed = [(1 - mask[start:end]).sum().astype(jnp.int32) for start, end in ends]
        number = jnp.where(is_right, jnp.inf, count.astype(jnp.float32))
        return ForgottenUnits(number, jnp.stack(zeroed), order, accuracy)

    return over_microbatches(jax.vmap(forget), images, labels, microbatch_size=microbatch_size)
