"""Every use of a random key has a tag of its own, so that no two uses share their bits.

A seed gives a root key, and only tags are folded into a root: `tagged(jax.random.key(seed), use)`.
What a use needs many of (a step's, an epoch's, an example's) it folds into its tagged key by
number. So the order of the examples, their noise and their labels are independent even where
`config.seed`, `config.corruption.seed` and the seed of an analysis are equal.
"""

import zlib

import jax

# A run is drawn with one version: the number that config.json has of it. To be raised whenever the
# same seed gives other parameters, orders or noise.
DRAWS_VERSION = 2

# All tags that memjax folds into a key, by the module that does.
USES = (
    *("init", "order", "step", "subset"),  # training.state
    *("input regularizers", "dropout", "noise", "other randomness"),  # training.step
    *("augmentation", "augmented images", "mixup"),  # training.step
    *("adversarial search", "adversarial pass"),  # training.step
    *("input dropout", "input noise"),  # models.regularizers
    *("corrupted examples", "gaussian inputs", "labels", "pixels"),  # data.corruption
    "held-out noise",  # data.examples
    "analysis",  # passes.base
    *("critical", "curvature", "difficulty", "eigenvalue", "trace"),  # passes
    *("lass", "pgd", "climb"),  # analysis.critical
)


def tagged(key: jax.Array, use: str) -> jax.Array:
    """Returns a key of its own for one use of a key.

    Args:
      key: a typed key.
      use: what for, static; one of `USES`.

    Example:
      >>> root = jax.random.key(0)
      >>> bool((tagged(root, "order") == tagged(root, "labels")).all())
      False
    """
    return jax.random.fold_in(key, tag(use))


def tag(use: str) -> int:
    """Returns the number of a use, 32 bits.

    Raises:
      ValueError: for a use that is not listed.
    """
    if use not in USES:
        raise ValueError(f"use {use!r} of a key: to be listed in memjax.keys.USES")
    return zlib.crc32(use.encode())
