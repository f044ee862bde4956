"""Memorization and influence from networks trained on random subsets, and an exact check of them.

A label is memorized if the network gets it right only when the example is in its training set.
Source: Feldman and Zhang 2020, "What Neural Networks Memorize and Why", sections 1 and 2.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from memjax.analysis._arguments import check_members, check_number
from memjax.analysis._precision import wide_dtype, widened
from memjax.analysis.microbatch import check_size
from memjax.errors import InputError


class Memorization(NamedTuple):
    """How much each training example's label was memorized.

    Attributes:
      scores: [n], P(correct | in) - P(correct | out), in [-1, 1].
      standard_error: [n], of the scores, over the members.
      num_in: [n], int32; members trained with the example.
      num_out: [n], int32; members trained without it.
    """

    scores: jax.Array
    standard_error: jax.Array
    num_in: jax.Array
    num_out: jax.Array


class CrossInfluence(NamedTuple):
    """How much each training example helps each validation example.

    Attributes:
      influence: [n m], P(validation j correct | i in) - P(validation j correct | i out).
      standard_error: [n m], of the influence, over the members.
    """

    influence: jax.Array
    standard_error: jax.Array


class InfluencePairs(NamedTuple):
    """The strongest pairs, strongest first.

    Attributes:
      influence: [k].
      train_index: [k], int32.
      validation_index: [k], int32.
    """

    influence: jax.Array
    train_index: jax.Array
    validation_index: jax.Array


class RidgeLeaveOneOut(NamedTuple):
    """Ridge regression with and without each example.

    Attributes:
      left_out: shape of the targets; the prediction for example i of the fit without it.
      in_sample: shape of the targets; the prediction for it of the fit to all examples.
      leverage: [n], d in_sample / d target of each example, in [0, 1).
    """

    left_out: jax.Array
    in_sample: jax.Array
    leverage: jax.Array


def memorization_scores(correct: jax.Array, is_member: jax.Array) -> Memorization:
    """Returns P(correct | in the training subset) - P(correct | out of it) for every example.

    The standard error is sqrt(s_in^2 / num_in + s_out^2 / num_out) with sample variances (divisor
    count - 1). The scores are unbiased if the subsets do not depend on the outcomes.

    Args:
      correct: [members n], bool, or the probability of the label in [0, 1].
      is_member: [members n], bool; was the example in the member's training subset?

    Returns:
      A `Memorization`. An example that is in all subsets or in none has the score nan; with only
      one member on a side, the score stands and its standard error is nan.

    Raises:
      InputError: the shapes are not the same [members n].

    Example:
      >>> correct = jnp.array([[1, 1], [1, 0], [0, 1], [0, 1]], bool)
      >>> is_member = jnp.array([[1, 1], [1, 0], [0, 1], [0, 1]], bool)
      >>> memorization_scores(correct, is_member).scores
      Array([1., 1.], dtype=float32)
    """
    correct, is_member = jnp.asarray(correct), jnp.asarray(check_members(is_member))
    if correct.ndim != 2 or correct.shape != is_member.shape:
        raise InputError(
            f"correct, is_member: shapes {correct.shape}, {is_member.shape}, "
            "must be the same [members n]"
        )
    correct = widened(correct)
    mean_in, squared_error_in, num_in = _masked_mean(correct, is_member)
    mean_out, squared_error_out, num_out = _masked_mean(correct, ~is_member)
    standard_error = jnp.sqrt(squared_error_in + squared_error_out)
    return Memorization(mean_in - mean_out, standard_error, num_in, num_out)


def cross_influence(correct_validation: jax.Array, is_member: jax.Array) -> CrossInfluence:
    """Returns the influence of every training example on every validation example.

    One matrix product of memberships and outcomes gives all pairs. Time members n m, memory a few
    [n m] arrays: call it on blocks of validation examples where that is too much.

    Args:
      correct_validation: [members m], bool, or the probability of the label in [0, 1].
      is_member: [members n], bool; was the training example in the member's subset?

    Returns:
      A `CrossInfluence`; rows of training examples that are in all subsets or in none are nan, and
      standard errors are nan with only one member on a side (see `memorization_scores`).

    Raises:
      InputError: not two-dimensional, or different numbers of members.

    Example:
      >>> is_member = jnp.array([[1, 0], [1, 1], [0, 1], [0, 0]], bool)
      >>> correct_validation = jnp.array([[1], [1], [0], [0]], bool)
      >>> cross_influence(correct_validation, is_member).influence
      Array([[1.],
             [0.]], dtype=float32)
    """
    correct_validation = jnp.asarray(correct_validation)
    is_member = jnp.asarray(check_members(is_member))
    shapes = correct_validation.shape, is_member.shape
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][0] != shapes[1][0]:
        raise InputError(
            f"correct_validation, is_member: shapes {shapes[0]}, {shapes[1]}, "
            "must be [members m], [members n]"
        )
    is_binary = correct_validation.dtype == bool
    dtype = wide_dtype(correct_validation.dtype)
    outcomes = correct_validation.astype(dtype)
    if not is_binary:
        # Their squares travel in the same product, for the variances; without the means, so that
        # the variances do not cancel. Of 0 and 1 the squares are the outcomes, and sums are exact.
        outcomes = outcomes - outcomes.mean(0, keepdims=True)
        outcomes = jnp.concatenate([outcomes, outcomes**2], axis=1)
    sums_in = jnp.matmul(is_member.T.astype(dtype), outcomes, precision="highest")
    sums_out = outcomes.sum(0, keepdims=True) - sums_in
    num_in = is_member.sum(0, dtype=jnp.int32)[:, None]
    mean_in, squared_error_in = _mean_from_sums(sums_in, num_in, is_binary)
    num_out = is_member.shape[0] - num_in
    mean_out, squared_error_out = _mean_from_sums(sums_out, num_out, is_binary)
    return CrossInfluence(mean_in - mean_out, jnp.sqrt(squared_error_in + squared_error_out))


def top_influence_pairs(influence: jax.Array, num_pairs: int) -> InfluencePairs:
    """Returns the pairs of training and validation example with the largest influence.

    Args:
      influence: [n m], from `cross_influence`.
      num_pairs: k, from 1 to n m.

    Returns:
      An `InfluencePairs`, in descending order. Pairs whose influence is nan come last.

    Raises:
      InputError: `influence` is not [n m], or `num_pairs` is out of range.

    Example:
      >>> top_influence_pairs(jnp.array([[0.1, 0.9], [jnp.nan, 0.4]]), 2)
      InfluencePairs(influence=Array([0.9, 0.4], dtype=float32),
                     train_index=Array([0, 1], dtype=int32),
                     validation_index=Array([1, 1], dtype=int32))
    """
    influence = jnp.asarray(influence)
    if influence.ndim != 2 or not check_size("num_pairs", num_pairs) <= influence.size:
        raise InputError(
            f"num_pairs: {num_pairs} of influence {influence.shape}, must be from 1 to n m of [n m]"
        )
    ranked = jnp.where(jnp.isnan(influence), -jnp.inf, influence)
    # At most num_pairs of the answer share a row. Ranking the best of each row keeps the flat
    # index inside int32 for the n m of real data.
    best, best_columns = jax.lax.top_k(ranked, min(num_pairs, ranked.shape[1]))
    _, flat_index = jax.lax.top_k(best.ravel(), num_pairs)
    rows = flat_index // best.shape[1]
    columns = best_columns.ravel()[flat_index]
    return InfluencePairs(influence[rows, columns], rows, columns)


def leave_one_out_ridge(
    features: jax.Array, targets: jax.Array, ridge: jax.Array | float
) -> RidgeLeaveOneOut:
    """Returns the ridge predictions for every example with it left out, without any refit.

    The fit minimises sum_i |target_i - features_i w|^2 + ridge |w|^2, and the prediction without
    example i is target_i - residual_i / (1 - leverage_i). It is the exact counterpart of
    P(correct | out): in_sample - left_out is what a linear learner memorizes of an example.

    Source: Allen 1974 (PRESS); Hastie et al. 2009, equations 5.26 and 7.64.

    Args:
      features: [n d], float; append a column of ones for an intercept (penalised like the rest).
      targets: [n] or [n k].
      ridge: scalar >= 0, in units of features^2; above 0 where features depend on each other.

    Returns:
      A `RidgeLeaveOneOut`, float32 or wider.

    Raises:
      InputError: the shapes do not fit, or ridge is below 0.

    Example:
      >>> fit = leave_one_out_ridge(jnp.ones((3, 1)), jnp.array([0.0, 0.0, 3.0]), 1.0)
      >>> fit.left_out.round(3)
      Array([1., 1., 0.], dtype=float32)
    """
    check_number("ridge", ridge, at_least=0)
    features, targets = jnp.asarray(features), jnp.asarray(targets)
    if features.ndim != 2 or targets.ndim not in (1, 2) or len(features) != len(targets):
        raise InputError(
            f"features, targets: shapes {features.shape}, {targets.shape}, "
            "must be [n d] and [n] or [n k]"
        )
    n, d = features.shape
    dtype = max(map(wide_dtype, (features.dtype, targets.dtype)), key=lambda dtype: dtype.itemsize)
    columns = targets.astype(dtype).reshape(n, -1)
    left, singular_values, _ = jnp.linalg.svd(features.astype(dtype), full_matrices=False)
    # 1 - leverage from the complement of the shrinkage: no cancellation at a leverage near 1.
    lost = (ridge / (singular_values**2 + ridge)).astype(dtype)[None, :]
    outside = jnp.maximum(1 - (left**2).sum(1), 0) if n > d else jnp.zeros(n, dtype)
    one_minus_leverage = outside + (left**2 * lost).sum(1)
    coordinates = jnp.matmul(left.T, columns, precision="highest")
    fitted = jnp.matmul(left, coordinates, precision="highest")
    residual = jnp.matmul(left * lost, coordinates, precision="highest")
    residual = residual + (columns - fitted if n > d else 0)
    left_out = columns - residual / one_minus_leverage[:, None]
    shape = targets.shape
    in_sample = (columns - residual).reshape(shape)
    return RidgeLeaveOneOut(left_out.reshape(shape), in_sample, 1 - one_minus_leverage)


def _masked_mean(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean over the masked members, its squared standard error, and their number; each [n]."""
    count = mask.sum(0, dtype=jnp.int32)
    mean = jnp.where(mask, values, 0).sum(0) / count.astype(values.dtype)
    squares = jnp.where(mask, jnp.square(values - mean[None]), 0).sum(0)
    return mean, _squared_error(squares, count), count


def _mean_from_sums(
    sums: jax.Array, count: jax.Array, is_binary: bool
) -> tuple[jax.Array, jax.Array]:
    """Mean and its squared standard error from sums [n m], or [n 2m] with those of the squares."""
    total, total_squares = (sums, sums) if is_binary else jnp.split(sums, 2, axis=1)
    mean = total / count.astype(total.dtype)
    return mean, _squared_error(jnp.maximum(total_squares - total * mean, 0), count)


def _squared_error(squares: jax.Array, count: jax.Array) -> jax.Array:
    number = count.astype(squares.dtype)
    return jnp.where(count > 1, squares / (number - 1) / number, jnp.nan)
