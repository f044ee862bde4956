"""The leaves of `params` that have a derivative, apart from the others."""

from typing import Any

import jax
import jax.numpy as jnp

Params = Any


def split_params(params: Params) -> tuple[Params, Params]:
    """Returns `params` twice: with floating-point leaves only, and with all the others only.

    The places of the missing leaves hold None, so that both are pytrees of their own leaves.
    """
    arrays = jax.tree.map(jnp.asarray, params)
    floating = jax.tree.map(lambda leaf: leaf if is_floating(leaf) else None, arrays)
    fixed = jax.tree.map(lambda leaf: None if is_floating(leaf) else leaf, arrays)
    return floating, fixed


def merge_params(floating: Params, fixed: Params) -> Params:
    """Returns the whole params tree again, the inverse of `split_params`."""
    return jax.tree.map(
        lambda left, right: right if left is None else left,
        floating,
        fixed,
        is_leaf=lambda leaf: leaf is None,
    )


def is_floating(leaf: Any) -> bool:
    """Whether a leaf is differentiated."""
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))
