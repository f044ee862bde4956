"""Difficulty against plain Python loops over checkpoints and members."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

from memjax.analysis import difficulty
from memjax.errors import InputError

CORRECT = hnp.arrays(bool, (6, 2, 5))


def test_probability_correct_is_the_share_of_members():
    correct = np.random.default_rng(0).random((3, 4, 5)) < 0.5
    result = jax.jit(difficulty.probability_correct)(correct)
    np.testing.assert_allclose(result, correct.mean(1), rtol=1e-6)
    assert result.dtype == jnp.float32


@given(CORRECT)
def test_first_epoch_learned_equals_a_loop(correct):
    epochs = np.array([0, 1, 2, 4, 8, 16])
    learned = difficulty.first_epoch_learned(jnp.asarray(correct), jnp.asarray(epochs))
    for place in np.ndindex(2, 5):
        history = correct[:, *place]
        first = next((e for e, right in zip(epochs, history, strict=True) if right), -1)
        for_good = next((e for i, e in enumerate(epochs) if history[i:].all()), -1)
        assert learned.first[place] == first
        assert learned.for_good[place] == for_good


def test_first_epoch_learned_counts_checkpoints_or_takes_fractions_of_an_epoch():
    correct = jnp.array([[False, False], [True, False]])
    learned = difficulty.first_epoch_learned(correct)
    np.testing.assert_array_equal(learned.first, [1, -1])
    assert learned.first.dtype == learned.for_good.dtype == jnp.int32
    learned = difficulty.first_epoch_learned(correct, jnp.array([0.0, 0.5]))
    np.testing.assert_array_equal(learned.for_good, [0.5, -1])


@given(CORRECT)
def test_forgetting_events_equal_a_loop(correct):
    forgetting = difficulty.forgetting_events(jnp.asarray(correct))
    for place in np.ndindex(2, 5):
        history = correct[:, *place].tolist()
        events = sum(a and not b for a, b in itertools.pairwise(history))
        assert forgetting.num_events[place] == events
        assert forgetting.never_learned[place] == (not any(history))


@pytest.mark.parametrize("members", [(), (2,)])
def test_aum_equals_a_loop(members):
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(3, *members, 5, 4)).astype(np.float32)
    labels = generator.integers(0, 4, 5)
    result = jax.jit(difficulty.aum)(logits, labels)
    assert result.shape == (*members, 5)
    for *member, i in np.ndindex(result.shape):
        margins = [
            z[labels[i]] - max(np.delete(z, labels[i])) for z in logits[:, *member, i].tolist()
        ]
        np.testing.assert_allclose(result[*member, i], np.mean(margins), rtol=1e-5)


def test_aum_of_half_precision_logits_is_float32():
    logits = jnp.zeros((2, 3, 4), jnp.bfloat16)
    result = difficulty.aum(logits, jnp.zeros(3, jnp.int32))
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, 0)


def test_loss_trajectory_gives_moments_of_loss_and_probability():
    losses = np.random.default_rng(2).exponential(size=(7, 2, 5)).astype(np.float32)
    trajectory = jax.jit(difficulty.loss_trajectory)(losses)
    np.testing.assert_allclose(trajectory.mean_loss, losses.mean(0), rtol=1e-5)
    np.testing.assert_allclose(trajectory.loss_variance, losses.var(0), rtol=1e-5)
    np.testing.assert_allclose(trajectory.confidence, np.exp(-losses).mean(0), rtol=1e-5)
    np.testing.assert_allclose(trajectory.variability, np.exp(-losses).std(0), rtol=1e-5)
    assert (trajectory.variability <= 0.5).all()


@given(hnp.arrays(np.int32, (4, 5, 3), elements=st.integers(0, 3)))
def test_agreement_is_the_share_of_equal_pairs(predictions):
    pairs = list(itertools.combinations(range(5), 2))
    expected = np.mean([predictions[:, i] == predictions[:, j] for i, j in pairs], 0)
    result = difficulty.agreement(jnp.asarray(predictions))
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert result.dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: difficulty.probability_correct(jnp.ones(3, bool)), "correct"),
        (lambda: difficulty.probability_correct(jnp.ones((0, 3), bool)), "correct"),
        (lambda: difficulty.first_epoch_learned(jnp.ones((0, 3), bool)), "correct"),
        (lambda: difficulty.first_epoch_learned(jnp.ones((2, 3), bool), jnp.arange(3)), "epochs"),
        (lambda: difficulty.forgetting_events(jnp.ones((0, 3), bool)), "correct"),
        (lambda: difficulty.aum(jnp.ones((2, 3, 4)), jnp.zeros(2, jnp.int32)), "labels"),
        (lambda: difficulty.aum(jnp.ones((2, 3, 1)), jnp.zeros(3, jnp.int32)), "classes"),
        (lambda: difficulty.loss_trajectory(jnp.ones(3)), "losses"),
        (lambda: difficulty.agreement(jnp.ones((1, 3), jnp.int32)), "predictions"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, field):
    with pytest.raises(InputError, match=field):
        call()
