import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from memjax.models.pooling import max_pool


@pytest.mark.parametrize(("size", "window"), [(9, 3), (28, 3), (8, 2), (5, 5), (4, 1)])
def test_pool_equals_that_of_flax_in_values_and_gradients(size, window):
    images = jax.random.normal(jax.random.key(0), (2, size, size + 1, 3))

    def flax(images):
        return nn.max_pool(images, (window, window), (window, window))

    def weighted(pool, images):
        pooled = pool(images)
        return jnp.sum(pooled * jnp.cos(jnp.arange(pooled.size)).reshape(pooled.shape)), pooled

    @jax.jit
    def both(images):
        return tuple(
            jax.value_and_grad(functools.partial(weighted, pool), has_aux=True)(images)
            for pool in (functools.partial(max_pool, window=window), flax)
        )

    ((_, ours), gradient), ((_, expected), expected_gradient) = both(images)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6)


def test_pool_gives_the_whole_gradient_to_the_first_of_ties():
    images = jnp.array([[1.0, 3.0], [3.0, 3.0]]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda images: max_pool(images, 2).sum())(images)
    np.testing.assert_array_equal(gradient.ravel(), [0, 1, 0, 0])


def test_pool_keeps_nan_wherever_it_is_also_under_differentiation():
    for position in range(4):
        images = jnp.arange(4.0).at[position].set(jnp.nan).reshape(1, 2, 2, 1)
        value, tangent = jax.jvp(lambda images: max_pool(images, 2), (images,), (images,))
        assert np.isnan(max_pool(images, 2)).all()
        assert np.isnan(value).all()
        assert np.isnan(tangent).all()


def test_pool_after_normalisation_has_a_finite_gradient():
    """XLA recomputes the normalised values; a gradient that compares them anew can be 0 / 0."""

    @jax.jit
    def gradient(images, scale):
        def loss(images, scale):
            normalised = (images - images.mean(0, keepdims=True)) * jax.lax.rsqrt(
                images.var(0, keepdims=True) + 1e-5
            )
            return jnp.sum(jnp.sin(max_pool(normalised * scale + 0.1, 2)))

        return jax.grad(loss, argnums=(0, 1))(images, scale)

    for seed in range(5):
        images = jax.random.normal(jax.random.key(seed), (16, 8, 8, 8))
        images_gradient, scale_gradient = gradient(images, jnp.float32(1.3))
        assert jnp.isfinite(images_gradient).all()
        assert jnp.isfinite(scale_gradient)
