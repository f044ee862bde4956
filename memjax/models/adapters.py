"""The one interface through which networks of every framework are trained and analysed."""

import abc
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

# Collection of a network's untrained arrays among its parameters: integers, masks.
FIXED = "fixed_params"


class Model(abc.ABC):
    """A network as pure functions; hashable, and equal where it computes the same.

    `params` is a dict of collections: "params" is trained, every other one (running statistics,
    constants) is carried along and has no gradient.
    """

    @abc.abstractmethod
    def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
        """Returns the network before training.

        Args:
            key: typed key.
            images: [n ...], standardised; their shape alone matters.
        """

    @abc.abstractmethod
    def apply(
        self,
        params: Mapping[str, Any],
        images: jax.Array,
        train: bool,
        rngs: Mapping[str, jax.Array] | None = None,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Returns the logits, and the collections other than "params" after the call.

        Args:
            params: as from `init`.
            images: [n ...], standardised.
            train: training mode; False is inference mode, which draws nothing.
            rngs: in training a key for each kind of randomness; "params" serves the kinds that have
                none of their own.
            mask: bool [n], False where a row is padding; None where no row is.

        Returns:
            logits [n classes], and a dict with the structure of the given collections.
        """

    def idle_dropout(self, params: Mapping[str, Any], images: jax.Array) -> str:
        """Returns the name of a dropout layer that draws nothing in training; "" if there is none.

        Args:
            params: as from `init`.
            images: [n ...].
        """
        del params, images
        return ""


def adapted(model: Model | nn.Module) -> Model:
    """Returns the model itself, or a flax linen module behind the interface.

    Example:
        >>> from memjax.models.mlp import MLP
        >>> model, images = adapted(MLP(10, widths=(4,))), jnp.zeros((2, 8, 8, 1))
        >>> params = model.init(jax.random.key(0), images)
        >>> model.apply(params, images, train=False)[0].shape
        (2, 10)
    """
    if isinstance(model, Model):
        return model
    from memjax.models.linen import LinenModel

    return LinenModel(model)


def is_trained(leaf: Any) -> bool:
    """Returns whether a parameter has a gradient: it is a floating-point array."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def split_trained(tree: Any) -> tuple[Any, dict[str, jax.Array]]:
    """Takes the arrays without a gradient out of a pytree.

    Returns:
        The pytree with None in their places, and those arrays by their paths.

    Example:
        >>> trained, fixed = split_trained({"kernel": jnp.ones(2), "order": jnp.arange(2)})
        >>> trained["order"], sorted(fixed)
        (None, ['order'])
    """
    fixed = {
        path_name(path): jnp.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if not is_trained(leaf)
    }
    trained = jax.tree.map(lambda leaf: jnp.asarray(leaf) if is_trained(leaf) else None, tree)
    return trained, fixed


def join_trained(trained: Any, fixed: Mapping[str, jax.Array]) -> Any:
    """Returns the pytree of which `split_trained` gave the parts."""
    if not fixed:
        return trained
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: fixed.get(path_name(path)) if leaf is None else leaf,
        trained,
        is_leaf=lambda leaf: leaf is None,
    )


def path_name(path: Any) -> str:
    """Returns a leaf's path as 'layers/0/weight'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def nested(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Returns nested dicts of leaves by their paths.

    Example:
        >>> nested({("a", "b"): 1, ("a", "c"): 2})
        {'a': {'b': 1, 'c': 2}}
    """
    tree: dict[str, Any] = {}
    for (*folders, name), leaf in leaves.items():
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return tree


def leaf_at(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Returns a leaf of nested dicts."""
    for name in path:
        tree = tree[name]
    return tree


def like(changed: Any, before: Any) -> Any:
    """Returns `changed` in the types of `before`, so that a loop can carry it."""
    return jax.tree.map(lambda new, old: new.astype(old.dtype), changed, before)
