"""One check for each kind of argument beside the model: keys, numbers, memberships.

Values are looked at where they are concrete; of what is traced, the shape and the dtype.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax.errors import InputError


def check_key(key: Any, num_keys: int | None = None) -> jax.Array:
    """Returns the key as a typed one; raises InputError for a seed and for whatever else is none.

    Args:
      key: a typed key, or the two words of one (of `jax.random.PRNGKey`).
      num_keys: so many typed keys [num_keys] are allowed too.
    """
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", ())
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        if shape == () or (num_keys is not None and shape == (num_keys,)):
            return key
    elif dtype == np.uint32 and shape == jax.random.key_data(jax.random.key(0)).shape:
        return jax.random.wrap_key_data(key)
    allowed = "one typed key" if num_keys is None else f"one typed key or {num_keys} of them"
    what = f"{type(key).__name__} {key!r}" if dtype is None else f"{dtype}{list(shape)}"
    raise InputError(f"key: must be {allowed}, as jax.random.key(seed) makes it, not {what}")


def check_number(
    name: str, value: Any, *, at_least: float = -math.inf, above: float = -math.inf
) -> Any:
    """Returns one finite real number as it is given; raises InputError for all else."""
    array = value if isinstance(value, jax.Array) else np.asarray(value)
    is_real = any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer))
    is_number = is_real and not array.shape
    if is_number and is_concrete(array):
        number = float(array)
        is_number = math.isfinite(number) and number >= at_least and number > above
    if not is_number:
        limit = f" and at least {at_least:g}" if at_least > -math.inf else ""
        limit += f" and above {above:g}" if above > -math.inf else ""
        raise InputError(f"{name}: {value!r}, must be one number, finite{limit}")
    return value


def check_members(is_member: Any) -> Any:
    """Returns memberships as bool; raises InputError for what is neither true nor false."""
    array = is_member if hasattr(is_member, "dtype") else np.asarray(is_member)
    if array.dtype == np.bool_:
        return array
    if not jnp.issubdtype(array.dtype, jnp.number):
        raise InputError(f"is_member: must be bool, not {array.dtype}")
    if is_concrete(array):
        values = np.asarray(array)
        others = values[(values != 0) & (values != 1)]
        if others.size:
            raise InputError(f"is_member: {others[0]}, must be bool, or 0 and 1")
    return array.astype(bool)


def is_concrete(array: Any) -> bool:
    """Whether the values of an array can be looked at here."""
    if isinstance(array, jax.Array):
        return not isinstance(array, jax.core.Tracer) and array.is_fully_addressable
    return True
