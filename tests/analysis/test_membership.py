"""Membership attacks on Gaussians of a known truth, beside loops, and on overfitted networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score, roc_curve

from memjax.analysis.membership import (
    example_vulnerability,
    lira_scores,
    logit_confidence,
    loss_scores,
    rmia_scores,
)
from memjax.analysis.membership_curves import attack_auc, attack_tpr
from memjax.errors import InputError

NORMAL = scipy.stats.norm


def gaussians(members=60, n=4000, distance=1.5, spread=2.0, std=0.7, seed=0):
    """Confidences of N(mu_i + distance std, std) in and N(mu_i, std) out, mu_i of its own."""
    generator = np.random.default_rng(seed)
    is_member = generator.random((members, n)) < 0.5
    middle = spread * generator.normal(size=(1, n))
    noise = generator.normal(size=(members, n))
    confidences = middle + std * (noise + distance * is_member)
    return jnp.asarray(confidences, jnp.float32), jnp.asarray(is_member)


def small(members=7, n=9, seed=1):
    generator = np.random.default_rng(seed)
    confidences = 2 * generator.normal(size=(members, n))
    is_member = np.argsort(generator.random((members, n)), axis=0) < 4  # 4 in, 3 out
    return np.asarray(confidences, np.float32), is_member


def test_confidence_is_the_logit_of_the_label_s_probability():
    logits = np.random.default_rng(0).normal(size=(5, 4))
    probability = scipy.special.softmax(logits, axis=1)[:, 2]
    found = jax.vmap(logit_confidence)(jnp.asarray(logits), jnp.full(5, 2))
    np.testing.assert_allclose(found, scipy.special.logit(probability), rtol=1e-5)
    memorized = logit_confidence(jnp.array([60.0, 0.0, 0.0]), jnp.int32(0))
    assert float(memorized) == pytest.approx(60 - np.log(2))


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("online", [False, True])
def test_lira_equals_a_loop_over_examples(online, fixed):
    confidences, is_member = small()
    found = lira_scores(confidences, is_member, 2, online=online, fixed_variance=fixed)
    shadows = [m for m in range(7) if m != 2]
    sides = []
    for wanted in (True, False):
        groups = [
            np.array([confidences[m, i] for m in shadows if is_member[m, i] == wanted], float)
            for i in range(9)
        ]
        stds = [group.std(ddof=1) for group in groups]
        if fixed:
            squares = sum(((group - group.mean()) ** 2).sum() for group in groups)
            stds = [np.sqrt(squares / sum(len(group) - 1 for group in groups))] * 9
        sides.append([(group.mean(), std) for group, std in zip(groups, stds, strict=True)])
    for i in range(9):
        (mean_in, std_in), (mean_out, std_out) = sides[0][i], sides[1][i]
        observed = float(confidences[2, i])
        expected = (observed - mean_out) / std_out
        if online:
            expected = NORMAL.logpdf(observed, mean_in, std_in)
            expected -= NORMAL.logpdf(observed, mean_out, std_out)
        assert float(found[i]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("online", [False, True])
def test_rmia_equals_a_loop_over_pairs(online, gamma):
    confidences, is_member = small()
    found = rmia_scores(confidences, is_member, 3, gamma=gamma, online=online)
    p = scipy.special.expit(np.float64(confidences))
    shadows = [m for m in range(7) if m != 3]
    ratios = []
    for i in range(9):
        out = np.mean([p[m, i] for m in shadows if not is_member[m, i]])
        inside = np.mean([p[m, i] for m in shadows if is_member[m, i]])
        marginal = (inside + out) / 2 if online else (1.3 * out + 0.7) / 2
        ratios.append(p[3, i] / marginal)
    for i in range(9):
        others = [ratios[i] / ratios[z] >= gamma for z in range(9) if z != i]
        assert float(found[i]) == pytest.approx(np.mean(others), abs=1e-6)


def test_rmia_tells_examples_apart_that_every_model_is_sure_of_or_rejects():
    confidences = np.array([[30, 25, -40, -45], [25, 30, -45, -40]] * 2, np.float32)
    is_member = np.array([[1, 0, 1, 0], [0, 1, 0, 1]] * 2, bool)
    found = rmia_scores(confidences, is_member, 0, gamma=1.0)
    # of 25 and 30 the loss of the former is 1e-11, and of 30 1e-13: float32 has no such 1 - p
    assert found[0] > found[1]
    assert found[2] > found[3]


@pytest.mark.parametrize("distance", [0.0, 1.5])
def test_lira_has_the_power_of_the_likelihood_ratio_of_gaussians(distance):
    confidences, is_member = gaussians(distance=distance)
    for online in (False, True):
        scores = [
            np.asarray(lira_scores(confidences, is_member, t, online=online, fixed_variance=True))
            for t in range(20)
        ]
        auc = attack_auc(np.stack(scores), is_member[:20]).mean()
        assert auc == pytest.approx(NORMAL.cdf(distance / np.sqrt(2)), abs=0.01)
        rates = np.array([0.01, 0.1])
        each = [attack_tpr(s, m, rates) for s, m in zip(scores, is_member, strict=False)]
        truth = 1 - NORMAL.cdf(NORMAL.ppf(1 - rates) - distance)
        np.testing.assert_allclose(np.mean(each, axis=0), truth, atol=0.02)


def test_the_loss_attack_has_the_power_of_its_mixture():
    confidences, is_member = gaussians()
    found = attack_auc(np.stack([loss_scores(confidences, t) for t in range(20)]), is_member[:20])
    truth = NORMAL.cdf(1.5 * 0.7 / np.sqrt(2 * (0.7**2 + 2.0**2)))
    assert found.mean() == pytest.approx(truth, abs=0.01)


def test_vulnerability_of_gaussians_is_their_distance():
    for distance in (0.0, 1.5):
        found = example_vulnerability(*gaussians(n=500, distance=distance))
        assert found.auc.mean() == pytest.approx(NORMAL.cdf(distance / np.sqrt(2)), abs=0.01)
        assert found.distance.mean() == pytest.approx(distance, abs=0.05)
        difference = found.confidence_in - found.confidence_out
        assert difference.mean() == pytest.approx(0.7 * distance, abs=0.03)


def test_auc_and_rates_are_sklearn_s():
    generator = np.random.default_rng(3)
    scores = np.round(generator.normal(size=400), 1)  # with ties
    is_member = generator.random(400) < 0.4
    scores[5] = np.nan
    known = ~np.isnan(scores)
    expected = roc_auc_score(is_member[known], scores[known])
    assert attack_auc(scores, is_member) == pytest.approx(expected)
    fpr, tpr, _ = roc_curve(is_member[known], scores[known], drop_intermediate=False)
    rates = np.array([0, 0.001, 0.01, 0.1, 0.5, 1])
    found = attack_tpr(scores, is_member, rates)
    np.testing.assert_allclose(found, [tpr[fpr <= rate].max() for rate in rates])
    along = attack_auc(np.stack([scores, -scores]).T, np.stack([is_member] * 2).T, axis=0)
    np.testing.assert_allclose(along, [expected, 1 - expected])


def test_an_example_without_shadow_models_on_a_side_has_no_score():
    confidences, is_member = small()
    is_member = is_member.copy()
    is_member[:, 4] = True
    assert np.isnan(lira_scores(confidences, is_member, 0)[4])
    assert np.isnan(rmia_scores(confidences, is_member, 0, online=False)[4])
    assert np.isfinite(np.delete(lira_scores(confidences, is_member, 0), 4)).all()
    assert np.isnan(example_vulnerability(confidences, is_member).auc[4])


def test_a_diverged_member_is_no_shadow_model():
    confidences, is_member = small()
    without = lira_scores(np.delete(confidences, 6, 0), np.delete(is_member, 6, 0), 0)
    confidences = confidences.copy()
    confidences[6] = np.nan
    np.testing.assert_allclose(lira_scores(confidences, is_member, 0), without, rtol=1e-5)
    assert np.isnan(attack_auc(lira_scores(confidences, is_member, 6), is_member[6]))


@pytest.fixture(scope="module")
def networks():
    """24 linear networks on random labels, each fitted to a half of 60 examples of 60 numbers."""
    generator = np.random.default_rng(0)
    images = jnp.asarray(generator.normal(size=(60, 60)), jnp.float32)
    labels = jnp.asarray(generator.integers(0, 3, 60))
    is_member = np.argsort(generator.random((24, 60)), axis=1) < 30
    params = jnp.asarray(0.01 * generator.normal(size=(24, 60, 3)), jnp.float32)

    def loss(params, weights):
        each = jax.nn.log_softmax(images @ params) * jax.nn.one_hot(labels, 3)
        return -(weights[:, None] * each).sum() / weights.sum()

    def train(params, weights):
        step = lambda _, params: params - 0.5 * jax.grad(loss)(params, weights)  # noqa: E731
        return jax.lax.fori_loop(0, 200, step, params)

    trained = jax.jit(jax.vmap(train))(params, jnp.asarray(is_member, jnp.float32))
    confidence = jax.vmap(jax.vmap(logit_confidence), in_axes=(0, None))
    return [confidence(images[None] @ each, labels) for each in (params, trained)], is_member


def test_networks_that_memorized_random_labels_are_told_and_untrained_ones_are_not(networks):
    (untrained, trained), is_member = networks
    attacks = {
        "lira": lambda c, t: lira_scores(c, is_member, t),
        "fixed": lambda c, t: lira_scores(c, is_member, t, fixed_variance=True),
        "offline": lambda c, t: lira_scores(c, is_member, t, online=False),
        "rmia": lambda c, t: rmia_scores(c, is_member, t),
        "rmia offline": lambda c, t: rmia_scores(c, is_member, t, online=False),
        "loss": loss_scores,
    }
    for name, attack in attacks.items():
        auc = [
            attack_auc(np.stack([attack(c, t) for t in range(24)]), is_member).mean()
            for c in (untrained, trained)
        ]
        assert auc[0] == pytest.approx(0.5, abs=0.05), name
        assert auc[1] > 0.9, name
    assert example_vulnerability(trained, is_member).auc.mean() > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, m: lira_scores(c, m[:, 1:], 0), "must be the same"),
        (lambda c, m: lira_scores(c, m, 7), "target: 7, must be from 0 to 6"),
        (lambda c, m: rmia_scores(c, m, 0, gamma=0), "gamma: 0, must be above 0"),
        (lambda c, m: rmia_scores(c, m, 0, offline_factor=1), "offline_factor: 1, must be"),
        (lambda c, m: attack_tpr(c[0], m[0], [2.0]), "must be .* in .0, 1."),
        (lambda c, m: attack_auc(c[0], m[1, 1:]), "must be the same"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call(*small())


def test_an_infinite_score_is_below_no_unknown_one():
    assert attack_auc([np.inf, np.nan, 0.0], [True, False, False]) == 1.0
    assert attack_auc([-np.inf, np.nan, 0.0], [True, False, False]) == 0.0
    assert attack_auc([np.inf, np.inf], [True, False]) == 0.5


def test_rmia_scores_are_shares_where_a_label_has_no_probability():
    confidences, is_member = small()
    confidences = np.array(confidences)
    confidences[0, 2] = -np.inf
    scores = np.asarray(rmia_scores(confidences, is_member, 0, gamma=1.0))
    assert ((scores >= 0) & (scores <= 1)).all()
    assert scores[2] == 0  # nothing has a smaller ratio


def test_a_diverged_member_counts_in_no_distance():
    confidences, is_member = small()
    confidences, is_member = np.array(confidences), np.asarray(is_member)
    with_diverged = np.concatenate([confidences, np.full((1, 9), np.nan)])
    memberships = np.concatenate([is_member, np.ones((1, 9), bool)])
    expected = example_vulnerability(confidences, is_member)
    found = example_vulnerability(with_diverged, memberships)
    np.testing.assert_array_equal(found.distance, expected.distance)
    np.testing.assert_array_equal(found.confidence_in, expected.confidence_in)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, m: lira_scores(c, m, 0.7), "target: 0.7"),
        (lambda c, m: lira_scores(c, m, True), "target: True"),
        (lambda c, m: lira_scores(c, np.where(m, 0.9, 0.1), 0), r"is_member: 0\.[19]"),
        (lambda c, m: attack_auc(c, np.where(m, np.nan, 0.0)), "is_member: nan"),
    ],
)
def test_targets_and_memberships_that_are_none_are_one_line(call, message):
    confidences, is_member = small()
    with pytest.raises(InputError, match=message):
        call(np.asarray(confidences), np.asarray(is_member))
