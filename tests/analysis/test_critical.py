"""Critical samples: found points are real, bounds enclose, and no knob changes a result."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from memjax.analysis._search.lass_step import example_keys, inner_box, lass_samples, lass_step
from memjax.analysis.critical import (
    critical_bounds,
    critical_bounds_over_radii,
    critical_radius,
    critical_sample_ratio,
    lass,
    pgd,
)
from memjax.errors import InputError
from memjax.keys import tagged

NUM_IMAGES = 32


def mlp_fn(params, images):
    hidden = images.reshape(images.shape[0], -1)
    for weights, bias in params[:-1]:
        hidden = jax.nn.relu(hidden @ weights + bias[None])
    weights, bias = params[-1]
    return hidden @ weights + bias[None]


class Cnn(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.Conv(4, (3, 3))((images - 0.5) / 0.3))
        hidden = nn.max_pool(hidden, (2, 2), strides=(2, 2))
        hidden = nn.relu(nn.Conv(4, (3, 3), strides=2)(hidden))
        return nn.Dense(4)(hidden.reshape(hidden.shape[0], -1))


def cnn_fn(params, images):
    return Cnn().apply(params, images)


def linear_fn(params, images):
    weights, bias = params
    return (images.reshape(images.shape[0], -1) - 0.3) / 0.25 @ weights + bias[None]


def mlp_params(seed, sizes=(16, 12, 12, 4), scale=1.0):
    generator = np.random.default_rng(seed)
    return [
        (
            (scale * generator.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32),
            generator.normal(scale=0.1, size=shape[1]).astype(np.float32),
        )
        for shape in itertools.pairwise(sizes)
    ]


def cnn_params(seed):
    abstract = jax.eval_shape(Cnn().init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    generator = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: generator.normal(0, 0.3, leaf.shape).astype(np.float32), abstract
    )


def make_images(seed, n=NUM_IMAGES):
    return np.random.default_rng(seed).uniform(size=(n, 4, 4, 1)).astype(np.float32)


NETWORKS = {mlp_fn: mlp_params, cnn_fn: cnn_params}
SEARCHES = [
    lass,
    pgd,
    functools.partial(pgd, steps_per_start=7, num_starts=3),
    functools.partial(pgd, random_start=True),
]


def assert_is_found_point(logits_fn, params, images, radius, result, clip=None):
    """The definition of a critical point, checked on what a search found, without its code."""
    found, points = np.asarray(result.is_critical), np.asarray(result.adversarial)
    before = np.asarray(logits_fn(params, images)).argmax(-1)
    after = np.asarray(logits_fn(params, result.adversarial)).argmax(-1)
    np.testing.assert_array_equal(found, before != after)
    assert (np.abs(points.astype(np.float64) - images) <= radius).all()
    if clip is not None:
        assert points.min() >= clip[0]
        assert points.max() <= clip[1]


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("logits_fn", NETWORKS)
def test_found_points_change_the_class_and_lie_in_the_box(logits_fn, search):
    params, images = NETWORKS[logits_fn](0), make_images(1)
    result = search(jax.random.key(0), logits_fn, params, images, 0.1)
    assert 0.1 < critical_sample_ratio(result.is_critical) < 0.9
    assert_is_found_point(logits_fn, params, images, 0.1, result)
    assert result.num_steps.min() >= 1
    assert result.adversarial.dtype == jnp.float32


@pytest.mark.parametrize("search", [lass, pgd])
def test_clip_keeps_points_in_the_valid_range(search):
    params, images = mlp_params(0), make_images(1).round(1)
    result = search(jax.random.key(0), mlp_fn, params, images, 0.3, clip=(0.0, 1.0))
    assert_is_found_point(mlp_fn, params, images, 0.3, result, clip=(0.0, 1.0))
    free = search(jax.random.key(0), mlp_fn, params, images, 0.3)
    assert free.adversarial.min() < 0
    with pytest.raises(InputError, match="clip"):
        search(jax.random.key(0), mlp_fn, params, images, 0.3, clip=(0.2, 1.0))


def wave_fn(params, images):
    """Two classes, told apart by the sign of a wave in one dimension."""
    return jnp.concatenate([jnp.sin(params * images), 0.0 * images], 1)


def test_the_definition_in_one_dimension_by_brute_force():
    frequency, radius = np.float32(3.0), 0.2
    images = np.linspace(0.05, 6, 101, dtype=np.float32)[:, None]
    offsets = np.linspace(-radius, radius, 4001)[None]
    is_first = np.sin(frequency * images.astype(np.float64)) >= 0
    expected = ((np.sin(frequency * (images + offsets)) >= 0) != is_first).any(-1)
    for search in (lass, pgd):
        result = search(jax.random.key(0), wave_fn, frequency, images, radius)
        np.testing.assert_array_equal(result.is_critical, expected)
    bounds = critical_bounds(jax.random.key(0), wave_fn, frequency, images, radius)
    np.testing.assert_array_equal(bounds.lower, expected)
    assert (bounds.lower <= bounds.upper).all()
    assert bounds.upper.mean() < expected.mean() + 0.1


def plain_lass(key, logits_fn, params, images, radius, max_steps):
    """Algorithm 1 of the paper as a loop over examples, on the cross-entropy itself."""
    points, found, num_steps = [], [], []
    predict = jax.jit(lambda image: logits_fn(params, image[None])[0].argmax())

    @jax.jit
    def gradient_of(image, label):
        def loss(image):
            return -jax.nn.log_softmax(logits_fn(params, image[None])[0])[label]

        return jax.grad(loss)(image)

    for index, image in enumerate(images):
        label, point = predict(image), image
        for step in range(max_steps):
            step_key = jax.random.fold_in(jax.random.fold_in(key, index), step)
            noise = np.asarray(jax.random.normal(step_key, image.shape))
            sign = np.sign(gradient_of(point, label))
            point = point + np.float32(radius / 1.2) * sign + np.float32(radius / 1.5) * noise
            point = np.clip(point, image - np.float32(radius), image + np.float32(radius))
            if predict(point) != label:
                break
        points.append(point)
        found.append(predict(point) != label)
        num_steps.append(step + 1)
    return np.stack(points), np.array(found), np.array(num_steps)


def test_compaction_equals_the_plain_loop():
    params, images, radius = mlp_params(0), make_images(1, 24), 0.08
    key = jax.random.key(7)
    points, found, num_steps = plain_lass(key, mlp_fn, params, images, radius, 10)
    assert 0.1 < found.mean() < 0.9
    for microbatch_size in (5, 512):
        result = lass(
            key, mlp_fn, params, images, radius, max_steps=10, microbatch_size=microbatch_size
        )
        np.testing.assert_array_equal(result.is_critical, found)
        np.testing.assert_array_equal(result.num_steps, num_steps)
        np.testing.assert_allclose(result.adversarial, points, atol=1e-6)


def assert_same(result, expected):
    np.testing.assert_array_equal(result.is_critical, expected.is_critical)
    np.testing.assert_array_equal(result.num_steps, expected.num_steps)
    np.testing.assert_allclose(result.adversarial, expected.adversarial, atol=1e-6)


@pytest.mark.parametrize("search", SEARCHES)
def test_the_microbatch_size_changes_no_result(search):
    arguments = jax.random.key(3), mlp_fn, mlp_params(0), make_images(1, 100), 0.1
    expected = search(*arguments)
    for microbatch_size in (1, 7):
        assert_same(search(*arguments, microbatch_size=microbatch_size), expected)


def test_a_result_does_not_depend_on_the_other_examples():
    params, images = mlp_params(0), make_images(1)
    expected = lass(jax.random.key(3), mlp_fn, params, images, 0.1)
    others = np.concatenate([images[:10], make_images(5, 7)])
    result = lass(jax.random.key(3), mlp_fn, params, others, 0.1)
    assert_same(
        jax.tree.map(lambda leaf: leaf[:10], result), jax.tree.map(lambda leaf: leaf[:10], expected)
    )


def test_the_jittable_loop_gives_the_points_of_the_search():
    params, images = mlp_params(0), make_images(1)
    sample = jax.jit(lass_samples, static_argnames=("logits_fn", "num_steps"))
    samples = sample(jax.random.key(3), mlp_fn, params, images, 0.1, num_steps=12)
    result = lass(jax.random.key(3), mlp_fn, params, images, 0.1, max_steps=12)
    np.testing.assert_allclose(samples, result.adversarial, atol=1e-6)


def test_no_gradient_flows_through_lass_samples():
    params, images = mlp_params(0), make_images(1, 5)

    def loss(params, images):
        samples = lass_samples(jax.random.key(3), mlp_fn, params, images, 0.1, 2)
        return samples.sum()

    gradients = jax.grad(loss, argnums=(0, 1))(params, images)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients))


def test_a_lass_step_moves_even_where_the_softmax_is_saturated():
    params = (np.eye(2, dtype=np.float32) * 1000, np.zeros(2, np.float32))
    images = np.array([[1.0, 0.0]], np.float32)
    lower, upper = inner_box(jnp.asarray(images), 1.0)
    keys = example_keys(jax.random.key(0), 1)
    labels = jnp.array([0])
    points, changed = lass_step(keys, linear_fn, params, images, labels, lower, upper, 0.25, 0.0)
    np.testing.assert_allclose(points, [[0.75, 0.25]])
    assert not changed.any()


def test_four_devices_equal_one():
    logits_fn, params, images = cnn_fn, cnn_params(0), make_images(1)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(images, jax.NamedSharding(mesh, jax.P("data")))
    spread = jax.device_put(params, jax.NamedSharding(mesh, jax.P()))
    expected = lass(jax.random.key(3), logits_fn, params, images, 0.1)
    result = lass(jax.random.key(3), logits_fn, spread, sharded, 0.1, microbatch_size=14)
    assert_same(result, expected)
    assert len(result.adversarial.sharding.device_set) == 4
    expected = critical_bounds(jax.random.key(3), logits_fn, params, images, 0.003)
    bounds = critical_bounds(jax.random.key(3), logits_fn, spread, sharded, 0.003)
    np.testing.assert_array_equal(bounds.lower, expected.lower)
    np.testing.assert_array_equal(bounds.upper, expected.upper)
    assert expected.upper.mean() < 1
    sample = jax.jit(lass_samples, static_argnames=("logits_fn", "num_steps"))
    arguments = {"radius": 0.1, "num_steps": 4}
    np.testing.assert_allclose(
        sample(jax.random.key(3), logits_fn, spread, sharded, **arguments),
        sample(jax.random.key(3), logits_fn, params, images, **arguments),
        atol=1e-6,
    )


@pytest.mark.parametrize("logits_fn", NETWORKS)
@settings(max_examples=5)
@given(seed=st.integers(0, 1000), clip=st.sampled_from([(0.0, 1.0), (-9.0, 9.0)]))
def test_bounds_enclose_and_grow_with_the_radius(logits_fn, seed, clip):
    params, images = NETWORKS[logits_fn](seed), make_images(seed)
    radii = [0.05, 0.0, 0.003, 0.3, 0.02]
    bounds = critical_bounds_over_radii(
        jax.random.key(seed), logits_fn, params, images, radii, max_steps=10, clip=clip
    )
    lower, upper = np.asarray(bounds.lower), np.asarray(bounds.upper)
    order = np.argsort(radii)
    assert (lower <= upper).all()
    assert (np.diff(lower[order].astype(int), axis=0) >= 0).all()
    assert (np.diff(upper[order].astype(int), axis=0) >= 0).all()
    assert not upper[1].any()
    assert not upper[2].all()
    # What a search of its own finds is never certified safe.
    for k in (0, 2, 4):
        found = lass(jax.random.key(seed + 1), logits_fn, params, images, radii[k], clip=clip)
        assert (np.asarray(found.is_critical) <= upper[k]).all()


def test_the_lower_bound_is_no_less_than_its_searches():
    params, images = mlp_params(0), make_images(1)
    lass_key, pgd_key = (tagged(jax.random.key(3), use) for use in ("lass", "pgd"))
    for radius in (0.02, 0.1):
        lower = np.asarray(critical_bounds(jax.random.key(3), mlp_fn, params, images, radius).lower)
        assert (lass(lass_key, mlp_fn, params, images, radius).is_critical <= lower).all()
        assert (pgd(pgd_key, mlp_fn, params, images, radius).is_critical <= lower).all()


def test_refining_certifies_more_and_never_what_a_search_finds():
    params, images = mlp_params(0), make_images(1, 100)
    radii = [0.01, 0.02]
    arguments = jax.random.key(3), mlp_fn, params, images, radii
    refined = critical_bounds_over_radii(*arguments)
    coarse = critical_bounds_over_radii(*arguments, refine_up_to=0)
    np.testing.assert_array_equal(refined.lower, coarse.lower)
    assert (refined.lower <= refined.upper).all()
    assert (refined.upper <= coarse.upper).all()
    assert refined.upper.sum() < coarse.upper.sum()


def test_logits_of_one_class_are_refused():
    with pytest.raises(InputError, match="logits_fn"):
        lass(jax.random.key(0), lambda params, images: images[:, :1], None, jnp.ones((2, 3)), 0.1)


def test_an_unknown_primitive_makes_every_example_possibly_critical_and_is_named():
    def digamma_fn(params, images):
        return jax.scipy.special.digamma(10 + mlp_fn(params, images))

    arguments = jax.random.key(0), digamma_fn, mlp_params(0), make_images(1)
    bounds = critical_bounds(*arguments, 1e-6)
    assert bounds.upper.all()
    assert not bounds.lower.all()
    assert bounds.unknown == "digamma"
    radius = critical_radius(*arguments)
    assert radius.unknown == "digamma"
    assert (radius.certified == 0).all()
    assert np.isfinite(radius.found).any()
    assert critical_bounds(jax.random.key(0), mlp_fn, *arguments[2:], 1e-6).unknown is None


def exact_margin_distance(weights, bias, images, radius, clip):
    """Whether a linear model's class changes in the box, in float64."""
    flat = images.reshape(len(images), -1).astype(np.float64)
    lower, upper = flat - radius, flat + radius
    if clip is not None:
        lower, upper = np.maximum(lower, clip[0]), np.minimum(upper, clip[1])
    logits = flat @ weights + bias
    labels = logits.argmax(-1)
    is_critical = np.zeros(len(flat), bool)
    for other in range(weights.shape[1]):
        direction = (weights[:, labels] - weights[:, [other]]).T
        corner = np.where(direction > 0, lower, upper)
        lead = (direction * corner).sum(-1) + bias[labels] - bias[other]
        is_critical |= (lead < 0) & (labels != other)
    return is_critical


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    model = LogisticRegression(max_iter=1000, tol=1e-2).fit(images, labels)
    return model.coef_.T, model.intercept_, images


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_a_linear_model_is_decided_exactly(digits, clip):
    weights, bias, images = digits
    # linear_fn standardises: fold that into the parameters, in float64, and round once.
    params = (
        (weights * 0.25).astype(np.float32),
        (bias + 0.3 * weights.sum(0)).astype(np.float32),
    )
    exact_weights = params[0].astype(np.float64) / np.float64(np.float32(0.25))
    exact_bias = params[1] - np.float64(np.float32(0.3)) * exact_weights.sum(0)
    radii = [0.02, 0.1, 0.2]
    bounds = critical_bounds_over_radii(
        jax.random.key(0), linear_fn, params, images, radii, clip=clip
    )
    for k, radius in enumerate(radii):
        less, exact, more = [
            exact_margin_distance(exact_weights, exact_bias, images, scale * radius, clip)
            for scale in (1 - 1e-3, 1, 1 + 1e-3)
        ]
        np.testing.assert_array_equal(bounds.lower[k], exact)
        # The certificate allows for rounding.
        assert (exact <= bounds.upper[k]).all()
        assert (bounds.upper[k] <= more).all()
        assert less.sum() <= exact.sum() <= more.sum() <= less.sum() + 20
    assert 0.3 < critical_sample_ratio(bounds.lower[1]) < 0.7


def test_a_linear_model_agrees_with_its_distance_to_the_boundary(digits):
    weights, bias, images = digits
    params = (weights.astype(np.float32), bias.astype(np.float32))
    logits = images @ weights + bias
    labels = logits.argmax(-1)
    widths = np.abs(weights.T[labels][:, None] - weights.T[None]).sum(-1)
    leads = logits.max(-1, keepdims=True) - logits
    distance = np.where(widths > 0, leads / np.maximum(widths, 1e-9), np.inf).min(-1)

    def plain_linear_fn(params, images):
        return images @ params[0] + params[1][None]

    bounds = critical_bounds(jax.random.key(0), plain_linear_fn, params, images, 0.1)
    np.testing.assert_array_equal(bounds.lower, distance < 0.1)
    np.testing.assert_array_equal(bounds.upper, distance < 0.1)


def test_radius_zero_finds_nothing():
    params, images = mlp_params(0), make_images(1)
    for search in SEARCHES:
        assert not search(jax.random.key(0), mlp_fn, params, images, 0.0).is_critical.any()
    bounds = critical_bounds(jax.random.key(0), mlp_fn, params, images, 0.0)
    assert not bounds.upper.any()


def test_the_ratio_is_the_share_per_row():
    rows = np.array([[True, False, False, False], [True, True, True, False]])
    np.testing.assert_allclose(critical_sample_ratio(rows), [0.25, 0.75])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"radius": -0.1}, "radius"),
        ({"radius": float("nan")}, "radius"),
        ({"images": np.zeros((3, 4, 4, 1), np.uint8)}, "images"),
        ({"images": np.zeros((0, 4, 4, 1), np.float32)}, "images"),
        ({"microbatch_size": 0}, "microbatch_size"),
    ],
)
def test_bad_input_is_named(change, field):
    arguments = {"params": mlp_params(0), "images": make_images(0, 3), "radius": 0.1} | change
    for function in (lass, pgd, critical_bounds):
        with pytest.raises(InputError, match=f"^{field}: "):
            function(jax.random.key(0), mlp_fn, **arguments)


def test_no_radii_are_refused():
    with pytest.raises(InputError, match="radii"):
        critical_bounds_over_radii(jax.random.key(0), mlp_fn, mlp_params(0), make_images(0), [])


def pgd_distances(logits_fn, params, images, num_starts):
    """The nearest points of PGD with restarts, by bisection for all images at once."""
    low, high = np.zeros(len(images)), np.full(len(images), 0.5)
    for _ in range(7):
        middle = (low + high) / 2
        found = np.zeros(len(images), bool)
        for radius in np.unique(middle):
            rows = middle == radius
            result = pgd(
                jax.random.key(9), logits_fn, params, images, float(radius), num_starts=num_starts
            )
            found |= rows & np.asarray(result.is_critical)
        low, high = np.where(found, low, middle), np.where(found, middle, high)
    return high


@pytest.fixture(scope="module")
def mlp_radius():
    return critical_radius(jax.random.key(3), mlp_fn, mlp_params(0), make_images(1))


def test_a_critical_radius_lies_between_certificate_and_found_point(mlp_radius):
    certified, found = np.asarray(mlp_radius.certified), np.asarray(mlp_radius.found)
    assert (certified > 0).all()
    assert (certified <= found).all()
    assert np.median(certified / found) > 0.7
    for radius in (0.02, 0.05):
        hits = np.asarray(
            pgd(jax.random.key(8), mlp_fn, mlp_params(0), make_images(1), radius).is_critical
        )
        assert not (hits & (certified >= radius)).any()
        assert critical_sample_ratio(found, radius) >= hits.mean() - 1e-6


def test_a_critical_radius_is_no_larger_than_pgd_with_restarts_finds(mlp_radius):
    rows = slice(0, 8)
    expected = pgd_distances(mlp_fn, mlp_params(0), make_images(1)[rows], 20)
    assert (np.asarray(mlp_radius.found)[rows] <= expected * 1.02).all()


def test_without_polishing_the_points_are_critical_too_and_hardly_farther(mlp_radius):
    params, images = mlp_params(0), make_images(1)
    rough = critical_radius(
        jax.random.key(3), mlp_fn, params, images, polish=False, certify=False, num_starts=1
    )
    ratios = np.asarray(rough.found) / np.asarray(mlp_radius.found)
    assert ratios.min() >= 0.999
    assert np.median(ratios) < 1.05
    assert (ratios > 1.0).any()


def test_the_microbatch_size_changes_no_critical_radius(mlp_radius):
    again = critical_radius(
        jax.random.key(3), mlp_fn, mlp_params(0), make_images(1), microbatch_size=32
    )
    np.testing.assert_allclose(again.found, mlp_radius.found, rtol=1e-3)
    np.testing.assert_allclose(again.certified, mlp_radius.certified, rtol=1e-2)


@pytest.mark.parametrize("clip", [None, (0.0, 1.0)])
def test_the_critical_radius_of_a_linear_model_is_its_distance(digits, clip):
    weights, bias, images = digits
    weights, bias, images = weights.astype(np.float32), bias.astype(np.float32), images[:200]

    def plain_linear_fn(params, images):
        return images @ params[0] + params[1][None]

    radius = critical_radius(
        jax.random.key(0), plain_linear_fn, (weights, bias), images, 0.15, clip=clip
    )
    certified, found = np.asarray(radius.certified, float), np.asarray(radius.found, float)
    low, high = np.zeros(200), np.full(200, 2.0)
    for _ in range(40):
        middle = (low + high) / 2
        is_critical = exact_margin_distance(
            weights.astype(float), bias.astype(float), images, middle[:, None], clip
        )
        low, high = np.where(is_critical, low, middle), np.where(is_critical, middle, high)
    is_near = high < 0.15 - 1e-5
    assert 0.2 < is_near.mean() < 1
    np.testing.assert_allclose(found[is_near], high[is_near], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(certified[is_near], high[is_near], rtol=2e-3, atol=3e-5)
    assert (certified <= high * (1 + 1e-6)).all()
    assert np.isinf(found[high > 0.15 + 1e-5]).all()


def test_the_ratio_at_a_radius_is_the_distribution_of_distances():
    found = np.array([0.1, 0.2, np.inf, 0.4], np.float32)
    np.testing.assert_allclose(critical_sample_ratio(found, [0.05, 0.2, 9.0]), [0, 0.5, 0.75])


def test_a_largest_radius_of_no_use_is_named():
    for radius in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"^max_radius: "):
            critical_radius(jax.random.key(0), mlp_fn, mlp_params(0), make_images(0, 3), radius)


def test_the_ratio_of_what_are_no_distances_is_refused():
    with pytest.raises(InputError, match="is_critical: bool, must be float distances"):
        critical_sample_ratio(jnp.array([True, False]), 0.1)
    with pytest.raises(InputError, match=r"is_critical: shape \(0,\)"):
        critical_sample_ratio(jnp.zeros(0, bool))


@pytest.mark.parametrize(
    ("search", "change", "message"),
    [
        (pgd, {"num_starts": 0}, "num_starts: 0"),
        (pgd, {"steps_per_start": 0}, "steps_per_start: 0"),
        (pgd, {"step_size": np.nan}, "step_size: nan"),
        (lass, {"max_steps": -3}, "max_steps: -3"),
        (lass, {"noise_scale": -1.0}, "noise_scale: -1.0"),
        (critical_bounds, {"max_steps": 0}, "max_steps: 0"),
        (critical_bounds, {"radius": "a"}, "radius: 'a', must be one number"),
        (pgd, {"radius": [0.1, 0.2]}, r"radius: \[0.1, 0.2\], must be one number"),
    ],
)
def test_a_search_of_nothing_is_one_clear_line(search, change, message):
    arguments = {"params": jnp.eye(2), "images": jnp.eye(2), "radius": 0.1} | change
    with pytest.raises(InputError, match=message):
        search(jax.random.key(0), lambda params, images: images @ params, **arguments)
