"""What the tests of networks share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def random_variables():
    """`random_variables(model, images)`: variables in (.1, 1.1), all positive as variances must be.

    Drawn by numpy, because compiling the initialisers takes longer than most tests.
    """

    def draw(model, images):
        init = functools.partial(model.init, train=False)
        generator = np.random.default_rng(0)
        return jax.tree.map(
            lambda leaf: jnp.asarray(generator.uniform(0.1, 1.1, leaf.shape), leaf.dtype),
            jax.eval_shape(init, jax.random.key(0), images),
        )

    return draw
