import functools

import jax
import jax.numpy as jnp
import numpy as np

from memjax.models.fusion import gradient_apart


def _through(values, either):
    return jnp.sum(jnp.sin(gradient_apart(values, either)))


def test_values_and_derivatives_are_those_without_it_whatever_is_chosen():
    values = jnp.array([1.5, -2.0, 0.25])
    for either in (jnp.array(True), jnp.array(False)):
        np.testing.assert_array_equal(jax.jit(gradient_apart)(values, either), values)
        np.testing.assert_array_equal(jax.grad(_through)(values, either), jnp.cos(values))
        hessian = jax.hessian(_through)(values, either)
        np.testing.assert_array_equal(hessian, jnp.diag(-jnp.sin(values)))


def test_a_gradient_that_is_not_finite_or_zero_passes_bit_by_bit():
    cotangent = jnp.array([0.0, -0.0, jnp.inf, -jnp.inf, jnp.nan])
    for either in (jnp.array(True), jnp.array(False)):
        through = functools.partial(gradient_apart, either=either)
        _, pull = jax.vjp(through, jnp.ones(5))
        np.testing.assert_array_equal(pull(cotangent)[0], cotangent)
        np.testing.assert_array_equal(jnp.signbit(pull(cotangent)[0]), jnp.signbit(cotangent))


def test_members_side_by_side_each_have_theirs():
    values, either = jnp.arange(6.0).reshape(3, 2), jnp.array([True, False, True])
    gradients = jax.jit(jax.vmap(jax.grad(_through)))(values, either)
    np.testing.assert_array_equal(gradients, jnp.cos(values))


def test_only_a_cpu_is_told_to(monkeypatch):
    def branches():
        gradient = jax.make_jaxpr(jax.grad(_through))(jnp.ones(3), jnp.array(True))
        return "cond" in str(gradient)

    assert branches()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not branches()
