import jax
import jax.numpy as jnp
import numpy as np

from memjax.models.fusion import apart


def _through(values, either):
    return jnp.sum(jnp.sin(apart(values, either)))


def test_values_and_derivatives_are_those_without_it_whatever_is_chosen():
    values = jnp.array([1.5, -2.0, 0.0, -0.0, jnp.inf, jnp.nan])
    finite = jnp.array([1.5, -2.0, 0.25])
    for either in (jnp.array(True), jnp.array(False)):
        kept = jax.jit(apart)(values, either)
        np.testing.assert_array_equal(kept, values)
        np.testing.assert_array_equal(jnp.signbit(kept), jnp.signbit(values))
        np.testing.assert_array_equal(jax.grad(_through)(finite, either), jnp.cos(finite))
        np.testing.assert_array_equal(
            jax.hessian(_through)(finite, either), jnp.diag(-jnp.sin(finite))
        )


def test_members_side_by_side_each_keep_theirs():
    values, either = jnp.arange(6.0).reshape(3, 2), jnp.array([True, False, True])
    np.testing.assert_array_equal(jax.jit(jax.vmap(apart))(values, either), values)


def test_only_a_cpu_is_told_to(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    program = jax.make_jaxpr(apart)(jnp.ones(3), jnp.array(True))
    assert not program.eqns
