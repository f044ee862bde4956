"""Membership inference: was this example in the training set? Attacks, and how well they do.

Each member of an ensemble on random subsets is the target in turn, and the others are the shadow
models. Everything is told by one number for each member and example, the logit-scaled confidence.
Memory is a few arrays [members n], also over all targets: each target is a call of its own.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis._arguments import check_members
from memjax.analysis._precision import widened
from memjax.analysis.losses import label_logit, label_mask
from memjax.analysis.membership_curves import attack_auc
from memjax.analysis.microbatch import check_size
from memjax.errors import InputError


class Vulnerability(NamedTuple):
    """How much the members give away about each example.

    Attributes:
      auc: [n], chance that a member trained with the example has the larger LiRA score of it than
        one trained without; .5 gives nothing away.
      distance: [n], (mean confidence in - mean confidence out) / standard deviation, pooled over
        both sides: two Gaussians so far apart have the AUC Phi(distance / sqrt 2).
      confidence_in: [n], mean over the members trained with the example.
      confidence_out: [n], mean over those trained without it.
    """

    auc: np.ndarray
    distance: np.ndarray
    confidence_in: np.ndarray
    confidence_out: np.ndarray


def logit_confidence(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Returns the logit-scaled confidence of one example, log(p / (1 - p)), p that of the label.

    Computed as the label's logit minus the log of the sum of exp(others), which has its digits
    where p is 1 in float32. The cross-entropy is softplus(-confidence).

    Source: Carlini et al. 2022, "Membership inference attacks from first principles", section IV.B.

    Args:
      logits: [classes], float.
      label: integer scalar in [0, classes).

    Returns:
      A scalar, float32 (float64 for float64 logits).

    Example:
      >>> logit_confidence(jnp.array([40.0, 0.0]), jnp.int32(0))
      Array(40., dtype=float32)
    """
    logits = widened(logits)
    is_label = label_mask(logits, label)
    return label_logit(logits, is_label) - jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits))


def loss_scores(confidences: jax.Array, target: Any) -> jax.Array:
    """Returns the plain loss attack, which needs no shadow models: minus the target's losses.

    Source: Yeom et al. 2018, "Privacy risk in machine learning".

    Args:
      confidences: [members n], from `logit_confidence`.
      target: which member is attacked.

    Returns:
      [n], minus the cross-entropy (nats); larger says "in".

    Raises:
      InputError: no [members n], or no such member.

    Example:
      >>> loss_scores(jnp.array([[0.0, 20.0]]), 0).round(3)
      Array([-0.693, -0.   ], dtype=float32)
    """
    return jax.nn.log_sigmoid(_checked(confidences, None, target)[0][target])


def lira_scores(
    confidences: jax.Array,
    is_member: jax.Array,
    target: Any,
    *,
    online: bool = True,
    fixed_variance: bool = False,
) -> jax.Array:
    """Returns the likelihood-ratio attack (LiRA) on one member, the others being shadow models.

    Online: log N(c; mean in, variance in) - log N(c; mean out, variance out), with the moments of
    the shadow models trained with and without the example. Offline: (c - mean out) / standard
    deviation out, which orders as their equation 4 does and needs no model trained with the
    example.

    Source: Carlini et al. 2022, "Membership inference attacks from first principles", algorithm 1.

    Args:
      confidences: [members n], from `logit_confidence`. Where one is not finite (training
        diverged), that member is no shadow model.
      is_member: bool [members n]; was the example in the member's training subset?
      target: which member is attacked.
      online: whether shadow models trained with the example are used.
      fixed_variance: one variance (each for in and out) pooled over all examples, the better
        choice with fewer than about 64 shadow models.

    Returns:
      [n]; larger says "in". nan for an example with fewer than two shadow models on a side that is
      used (with `fixed_variance`, with none), or without any variance.

    Raises:
      InputError: the shapes are not the same [members n], or no such member.

    Example:
      >>> confidences = jnp.array([[2.5], [3.0], [2.0], [0.0], [-1.0]])
      >>> is_member = jnp.array([[True], [True], [True], [False], [False]])
      >>> lira_scores(confidences, is_member, 0).round(2)
      Array([9.], dtype=float32)
    """
    confidences, is_member = _checked(confidences, is_member, target)
    return _lira_scores(confidences, is_member, jnp.int32(target), online, fixed_variance)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _lira_scores(confidences, is_member, target, online, fixed_variance):
    is_in, is_out = _shadows(confidences, is_member, target)
    observed = confidences[target]
    mean_out, variance_out = _moments(confidences, is_out, fixed_variance)
    if not online:
        return (observed - mean_out) / jnp.sqrt(variance_out)
    mean_in, variance_in = _moments(confidences, is_in, fixed_variance)

    def log_likelihood(mean: jax.Array, variance: jax.Array) -> jax.Array:
        return -(jnp.square(observed - mean) / variance + jnp.log(variance)) / 2

    return log_likelihood(mean_in, variance_in) - log_likelihood(mean_out, variance_out)


def rmia_scores(
    confidences: jax.Array,
    is_member: jax.Array,
    target: Any,
    *,
    gamma: float = 2.0,
    online: bool = True,
    offline_factor: float = 0.3,
) -> jax.Array:
    """Returns the robust membership attack (RMIA) on one member, the others being shadow models.

    The ratio of an example is p(x | target) / p(x), p that of its label. Its score is the share of
    the population, here all other examples, whose ratio it exceeds gamma times. Online, p(x) is
    the mean of the mean over shadow models with x and the mean over those without. Offline the
    former is taken as offline_factor * p_out + 1 - offline_factor. For one target the score rises
    with the ratio, so that gamma changes its ROC by ties only.

    Source: Zarifzadeh et al. 2024, "Low-cost high-power membership inference attacks", equations
    5 and 10.

    Args:
      confidences: [members n], from `logit_confidence`. Where one is not finite (training
        diverged), that member is no shadow model.
      is_member: bool [members n]; was the example in the member's training subset?
      target: which member is attacked.
      gamma: above 0; how many times the ratio must exceed that of another example.
      online: whether shadow models trained with the example are used.
      offline_factor: in [0, 1); the paper has .3 for CIFAR-10.

    Returns:
      [n], in [0, 1]; larger says "in". nan for an example without shadow models on a side that is
      used.

    Raises:
      InputError: the shapes are not the same [members n], no such member, or a number out of its
        range.

    Example:
      >>> confidences = jnp.array([[3.0, 0.0], [3.0, 3.0], [0.0, 3.0], [0.0, 0.0]])
      >>> is_member = jnp.array([[True, False], [True, True], [False, True], [False, False]])
      >>> rmia_scores(confidences, is_member, 0, gamma=1.0)
      Array([1., 0.], dtype=float32)
    """
    confidences, is_member = _checked(confidences, is_member, target)
    if not 0 < gamma < np.inf:
        raise InputError(f"gamma: {gamma}, must be above 0")
    if not 0 <= offline_factor < 1:
        raise InputError(f"offline_factor: {offline_factor}, must be at least 0 and below 1")
    numbers = jnp.float32(gamma), jnp.float32(offline_factor)
    return _rmia_scores(confidences, is_member, jnp.int32(target), *numbers, online)


@functools.partial(jax.jit, static_argnums=5)
def _rmia_scores(confidences, is_member, target, gamma, offline_factor, online):
    is_in, is_out = _shadows(confidences, is_member, target)
    log_probabilities = jax.nn.log_sigmoid(confidences)
    # All of p(x) - 1, which keeps the digits of examples that every model is sure of.
    below_one = _masked_mean(jnp.expm1(log_probabilities), is_out)
    if online:
        below_one = (below_one + _masked_mean(jnp.expm1(log_probabilities), is_in)) / 2
        sides = [_log_mean(log_probabilities, mask) for mask in (is_in, is_out)]
        small = jnp.logaddexp(*sides) - jnp.log(2.0)
        log_marginal = jnp.where(below_one > -0.5, jnp.log1p(below_one), small)
    else:
        log_marginal = jnp.log1p((1 + offline_factor) / 2 * below_one)
    ratios = log_probabilities[target] - log_marginal
    # That of a label of probability 0 is -inf: a ratio too, the smallest.
    is_known = ~jnp.isnan(ratios)
    num_known = is_known.sum(dtype=jnp.int32)
    wanted = ratios - jnp.log(gamma)
    below = jnp.searchsorted(jnp.sort(ratios), wanted, side="right")
    below = below - (ratios <= wanted)  # the example itself is not of the population
    return jnp.where(is_known, below / jnp.maximum(num_known - 1, 1), jnp.nan)


def example_vulnerability(confidences: jax.Array, is_member: jax.Array) -> Vulnerability:
    """Returns how well each example's membership can be told, over the members as targets.

    The scores are those of offline LiRA with a fixed variance. (Online scores of members that take
    turns as target and as shadow model of one example are biased: with nothing to tell, their AUC
    over the members is below .5.)

    Args:
      confidences: [members n], from `logit_confidence`. One that is not finite (training diverged)
        counts in no mean and no deviation.
      is_member: bool [members n]; was the example in the member's training subset?

    Returns:
      A `Vulnerability`, float64; nan for an example in all subsets or in none.

    Raises:
      InputError: the shapes are not the same [members n].

    Example:
      >>> confidences = jnp.array([[6.0], [5.0], [7.0], [0.0], [-1.0], [1.0]])
      >>> is_member = jnp.array([[True], [True], [True], [False], [False], [False]])
      >>> found = example_vulnerability(confidences, is_member)
      >>> print(found.auc, found.distance.round(2))
      [1.] [6.]
    """
    confidences, is_member = _checked(confidences, is_member, 0)
    scores = [
        np.asarray(lira_scores(confidences, is_member, t, online=False, fixed_variance=True))
        for t in range(len(confidences))
    ]
    values = np.asarray(confidences, np.float64)
    auc = attack_auc(np.stack(scores), np.asarray(is_member), axis=0)
    is_known = np.isfinite(values)
    inside, outside = is_known & np.asarray(is_member), is_known & ~np.asarray(is_member)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0: no member on that side
        means = [np.where(side, values, 0).sum(0) / side.sum(0) for side in (inside, outside)]
        from_mean = values - np.where(inside, *(mean[None] for mean in means))
        squares = np.square(np.where(is_known, from_mean, 0)).sum(0)
        distance = (means[0] - means[1]) / np.sqrt(squares / (is_known.sum(0) - 2))
    return Vulnerability(auc, distance, *means)


def _checked(confidences: Any, is_member: Any, target: Any) -> tuple[jax.Array, jax.Array]:
    confidences = widened(jnp.asarray(confidences))
    is_member = jnp.zeros(confidences.shape, bool) if is_member is None else is_member
    is_member = jnp.asarray(check_members(is_member))
    if confidences.ndim != 2 or confidences.shape != is_member.shape:
        raise InputError(
            f"confidences, is_member: shapes {confidences.shape}, {is_member.shape}, "
            "must be the same [members n]"
        )
    if not check_size("target", target, at_least=0) < len(confidences):
        raise InputError(f"target: {target}, must be from 0 to {len(confidences) - 1}")
    return confidences, is_member


def _shadows(confidences, is_member, target):
    """Which members are shadow models with, and without, each example; bool [members n]."""
    others = jnp.arange(len(confidences), dtype=jnp.int32)[:, None] != target
    is_shadow = others & jnp.isfinite(confidences)
    return is_shadow & is_member, is_shadow & ~is_member


def _masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, values, 0).sum(0) / mask.sum(0, dtype=jnp.int32)


def _log_mean(log_values: jax.Array, mask: jax.Array) -> jax.Array:
    count = mask.sum(0, dtype=jnp.int32)
    return jax.nn.logsumexp(jnp.where(mask, log_values, -jnp.inf), axis=0) - jnp.log(count)


def _moments(values, mask, fixed_variance):
    """Mean [n] and variance [n] over the masked members; nan where there are too few."""
    mean, count = _masked_mean(values, mask), mask.sum(0, dtype=jnp.int32)
    squares = jnp.where(mask, jnp.square(values - mean[None]), 0).sum(0)
    degrees = jnp.maximum(count - 1, 0)
    if fixed_variance:
        squares, degrees = squares.sum(), degrees.sum(dtype=jnp.int32)
    variance = squares / degrees
    variance = jnp.where(variance > 0, variance, jnp.nan)
    return mean, jnp.broadcast_to(variance, mean.shape)
