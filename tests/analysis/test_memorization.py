"""Memorization against loops over members, learners that memorize by design, and refits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.analysis.memorization import (
    cross_influence,
    leave_one_out_ridge,
    memorization_scores,
    top_influence_pairs,
)
from memjax.errors import InputError


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def _difference_and_error(outcomes, is_member):
    """P(in) - P(out) of one pair of columns, by selection, in float64."""
    groups = [np.asarray(outcomes[mask], np.float64) for mask in (is_member, ~is_member)]
    error = np.sqrt(sum(group.var(ddof=1) / group.size for group in groups))
    return groups[0].mean() - groups[1].mean(), error


def _subsets(key, members, n, fraction=0.7):
    """Every member trains on exactly the same share of the examples, drawn at random."""
    order = jax.vmap(lambda k: jax.random.permutation(k, n))(jax.random.split(key, members))
    return np.asarray(order < round(fraction * n))


@pytest.mark.parametrize("as_probability", [False, True])
def test_scores_and_errors_equal_a_loop(as_probability):
    generator = np.random.default_rng(0)
    is_member = generator.random((12, 5)) < 0.6
    outcomes = generator.random((12, 5)).astype(np.float32)
    outcomes = outcomes if as_probability else outcomes < 0.5
    result = jax.jit(memorization_scores)(outcomes, is_member)
    for i in range(5):
        score, error = _difference_and_error(outcomes[:, i], is_member[:, i])
        np.testing.assert_allclose(result.scores[i], score, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(result.standard_error[i], error, rtol=1e-5)
    np.testing.assert_array_equal(result.num_in, is_member.sum(0))
    np.testing.assert_array_equal(result.num_out, (~is_member).sum(0))
    assert result.scores.dtype == result.standard_error.dtype == jnp.float32


@pytest.mark.parametrize("as_probability", [False, True])
def test_cross_influence_equals_a_loop(as_probability):
    generator = np.random.default_rng(1)
    is_member = generator.random((12, 5)) < 0.6
    # Probabilities near 1 differ in their last digits only: the variance must not cancel.
    outcomes = (1 - 1e-4 * generator.random((12, 3))).astype(np.float32)
    outcomes = outcomes if as_probability else generator.random((12, 3)) < 0.5
    influence, standard_error = jax.jit(cross_influence)(outcomes, is_member)
    assert influence.shape == standard_error.shape == (5, 3)
    for i, j in np.ndindex(5, 3):
        expected, error = _difference_and_error(outcomes[:, j], is_member[:, i])
        np.testing.assert_allclose(influence[i, j], expected, rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(standard_error[i, j], error, rtol=1e-3)


def test_influence_of_examples_on_themselves_is_their_memorization():
    generator = np.random.default_rng(2)
    is_member, correct = generator.random((2, 20, 6)) < 0.5
    memorization = memorization_scores(jnp.asarray(correct), jnp.asarray(is_member))
    influence = cross_influence(jnp.asarray(correct), jnp.asarray(is_member))
    np.testing.assert_allclose(jnp.diag(influence.influence), memorization.scores, atol=1e-6)
    np.testing.assert_allclose(
        jnp.diag(influence.standard_error), memorization.standard_error, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_an_example_in_all_or_no_subsets_has_no_score(dtype):
    is_member = jnp.array([[1, 0, 1], [1, 0, 0], [1, 0, 0]], bool)
    correct = jnp.array([[1, 0, 1], [0, 0, 0], [1, 1, 0]], dtype)
    scores, standard_error, num_in, num_out = memorization_scores(correct, is_member)
    np.testing.assert_array_equal(scores, [jnp.nan, jnp.nan, 1])
    # One member holds the last example: a score, but no standard error.
    assert jnp.isnan(standard_error).all()
    np.testing.assert_array_equal(num_in, [3, 0, 1])
    np.testing.assert_array_equal(num_out, [0, 3, 2])
    influence = cross_influence(correct, is_member)
    np.testing.assert_array_equal(jnp.isnan(influence.influence).all(1), [True, True, False])
    assert jnp.isnan(influence.standard_error).all()


def test_a_nearest_neighbour_learner_memorizes_what_it_must():
    # On a line: a crowd of class 0, a lone wrong label inside it, and a distant pair of class 1.
    crowd = np.linspace(0, 1, 40)
    positions = np.concatenate([crowd, [0.512], [9.0, 9.001]])
    labels = np.concatenate([np.zeros(40), [1], [1, 1]]).astype(int)
    is_member = _subsets(jax.random.key(0), 800, positions.size)
    distance = np.abs(positions[:, None] - positions[None])

    def predict(member):
        return labels[np.where(member[None], distance, np.inf).argmin(1)]

    correct = np.stack([predict(member) for member in is_member]) == labels[None]
    memorization = memorization_scores(jnp.asarray(correct), jnp.asarray(is_member))
    assert memorization.scores[40] == 1
    assert memorization.standard_error[40] == 0
    # Without one of the pair, the other decides: it is there for 30 of the 42 other places.
    expected = 1 - 30 / 42
    for i in (41, 42):
        assert abs(memorization.scores[i] - expected) < 4 * memorization.standard_error[i] < 0.15
    # Far from the wrong label the crowd is right with or without each of its members.
    np.testing.assert_array_equal(memorization.scores[:15], 0)
    # The pair lends each other its label: the largest influence off the diagonal.
    influence = cross_influence(jnp.asarray(correct), jnp.asarray(is_member)).influence
    pairs = top_influence_pairs(jnp.where(jnp.eye(43, dtype=bool), jnp.nan, influence), 2)
    found = {tuple(map(int, pair)) for pair in zip(*pairs[1:], strict=True)}
    assert found == {(41, 42), (42, 41)}


def test_a_lookup_learner_scores_exactly_what_guessing_leaves():
    n, classes = 60, 4
    key, *keys = jax.random.split(jax.random.key(1), 4)
    is_member = _subsets(key, 400, n)
    labels = np.asarray(jax.random.randint(keys[0], (n,), 0, classes))
    guesses = np.asarray(jax.random.randint(keys[1], (400, n), 0, classes))
    correct = is_member | (guesses == labels[None])
    scores, standard_error, *_ = memorization_scores(jnp.asarray(correct), jnp.asarray(is_member))
    z = np.asarray((scores - (1 - 1 / classes)) / standard_error)
    # 60 scores of known value: the errors have the size that is claimed for them.
    assert abs(z.mean()) < 0.5
    assert 0.75 < z.std() < 1.3


def test_top_pairs_are_those_of_a_full_sort():
    influence = np.random.default_rng(3).normal(size=(7, 5)).astype(np.float32)
    influence[2] = np.nan
    order = np.argsort(-influence, axis=None)[:30]
    pairs = jax.jit(top_influence_pairs, static_argnames="num_pairs")(influence, num_pairs=35)
    np.testing.assert_array_equal(pairs.train_index[:30], order // 5)
    np.testing.assert_array_equal(pairs.validation_index[:30], order % 5)
    np.testing.assert_array_equal(pairs.influence[:30], influence.ravel()[order])
    assert jnp.isnan(pairs.influence[30:]).all()


def _ridge_fit(features, targets, ridge):
    gram = features.T @ features + ridge * np.eye(features.shape[1])
    return np.linalg.solve(gram, features.T @ targets)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("n", "d"), [(12, 4), (6, 9), (5, 5)])
@pytest.mark.parametrize("ridge", [1e-3, 0.7])
def test_left_out_ridge_predictions_equal_refits(n, d, ridge):
    generator = np.random.default_rng(4)
    features, targets = generator.normal(size=(n, d)), generator.normal(size=(n, 2))
    result = jax.jit(leave_one_out_ridge)(features, targets, ridge)
    for i in range(n):
        others = np.arange(n) != i
        weights = _ridge_fit(features[others], targets[others], ridge)
        np.testing.assert_allclose(result.left_out[i], features[i] @ weights, rtol=1e-8)
    weights = _ridge_fit(features, targets, ridge)
    np.testing.assert_allclose(result.in_sample, features @ weights, rtol=1e-8)
    hat = features @ _ridge_fit(features, np.eye(n), ridge)
    np.testing.assert_allclose(result.leverage, np.diag(hat), rtol=1e-8)


def test_left_out_ridge_keeps_its_digits_in_float32_at_a_leverage_near_one():
    generator = np.random.default_rng(5)
    features, targets = generator.normal(size=(6, 20)), generator.normal(size=6)
    # The leverage differs from 1 by less than float32 can say.
    result = leave_one_out_ridge(jnp.float32(features), jnp.float32(targets), 1e-6)
    assert result.left_out.shape == (6,)
    assert result.left_out.dtype == jnp.float32
    for i in range(6):
        others = np.arange(6) != i
        expected = features[i] @ _ridge_fit(features[others], targets[others], 1e-6)
        np.testing.assert_allclose(result.left_out[i], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("float64")
def test_subsets_of_all_but_one_give_leave_one_out_memorization():
    generator = np.random.default_rng(6)
    n = 30
    features = generator.normal(size=(n, 10))
    targets = np.sign(features[:, 0] + generator.normal(size=n))
    fit = leave_one_out_ridge(jnp.asarray(features), jnp.asarray(targets), 0.1)
    is_member = ~np.eye(n, dtype=bool)
    predictions = np.stack(
        [features @ _ridge_fit(features[kept], targets[kept], 0.1) for kept in is_member]
    )
    # The outcome is the margin, which is linear: P(correct) without its threshold.
    estimate = memorization_scores(jnp.asarray(predictions * targets[None]), jnp.asarray(is_member))
    truth = (fit.in_sample - fit.left_out) * targets
    # Out of the subset is exactly left out; in it, another example is missing: O(1/n) away.
    np.testing.assert_allclose(estimate.scores, truth, atol=2 / n)
    assert np.corrcoef(estimate.scores, truth)[0, 1] > 0.999
    assert truth.max() > 0.4


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: memorization_scores(jnp.ones((2, 3)), jnp.ones((2, 4), bool)), "is_member"),
        (lambda: memorization_scores(jnp.ones(3), jnp.ones(3, bool)), "correct"),
        (lambda: cross_influence(jnp.ones((2, 3)), jnp.ones((3, 3), bool)), "is_member"),
        (lambda: top_influence_pairs(jnp.ones((2, 3)), 7), "num_pairs"),
        (lambda: leave_one_out_ridge(jnp.ones((3, 2)), jnp.ones(4), 1.0), "targets"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, field):
    with pytest.raises(InputError, match=field):
        call()


def test_lists_are_arrays_and_counts_are_no_memberships():
    correct, is_member = [[1, 1], [1, 0], [0, 1], [0, 1]], [[1, 1], [1, 0], [0, 1], [0, 1]]
    np.testing.assert_array_equal(memorization_scores(correct, is_member).scores, [1, 1])
    np.testing.assert_array_equal(
        cross_influence(correct, is_member).influence,
        cross_influence(jnp.asarray(correct), jnp.asarray(is_member, bool)).influence,
    )
    for fn in (memorization_scores, cross_influence):
        with pytest.raises(InputError, match="is_member: 2, must be bool, or 0 and 1"):
            fn(correct, 2 * np.asarray(is_member))


@pytest.mark.parametrize("ridge", [-1.0, np.nan, "1"])
def test_a_ridge_that_is_none_is_one_clear_line(ridge):
    with pytest.raises(InputError, match=r"ridge: .* must be one number, finite and at least 0"):
        leave_one_out_ridge(jnp.ones((3, 1)), jnp.ones(3), ridge)
