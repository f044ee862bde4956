"""Interval propagation: the bounds hold, the affine end is exact, the unknown is never guessed."""

import functools
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from memjax.analysis.interval import (
    UnknownPrimitive,
    certified,
    interval_bounds,
    is_affine,
)
from memjax.errors import InputError

SHAPE = (8, 8, 1)


class Mlp(nn.Module):
    activations: tuple[str, ...] = ("relu", "relu")

    @nn.compact
    def __call__(self, images):
        hidden = images.reshape(images.shape[0], -1) * 2.0 - 1.0
        for name in self.activations:
            hidden = getattr(nn, name)(nn.Dense(16)(hidden))
        return nn.Dense(5)(hidden)


class Cnn(nn.Module):
    pool: str = "max_pool"

    @nn.compact
    def __call__(self, images):
        hidden = nn.Conv(4, (3, 3))((images - 0.5) / 0.3)
        hidden = nn.relu(nn.BatchNorm(use_running_average=True)(hidden))
        hidden = getattr(nn, self.pool)(hidden, (3, 3), strides=(2, 2), padding="SAME")
        hidden = nn.relu(nn.Conv(6, (3, 3), strides=2)(hidden))
        return nn.Dense(5)(hidden.mean((1, 2)))


def mlp_fn(params, images):
    return Mlp().apply(params, images)


SMOOTH = Mlp(("gelu", "elu", "silu", "tanh"))


def smooth_fn(params, images):
    return jnp.abs(jax.checkpoint(SMOOTH.apply)(params, images)) ** 2 - 0.3


LEAKY = Mlp(("leaky_relu", "relu6"))


def leaky_fn(params, images):
    return nn.log_softmax(LEAKY.apply(params, images))


def _statistics_fixed(params):
    return params | {"batch_stats": jax.lax.stop_gradient(params["batch_stats"])}


def max_pool_fn(params, images):
    return Cnn().apply(_statistics_fixed(params), images)


def avg_pool_fn(params, images):
    return nn.softmax(Cnn("avg_pool").apply(_statistics_fixed(params), images))


def plain_fn(params, images):
    """No framework: a reference layout of its own, a concatenation, a pad and a slice."""
    hidden = jnp.pad(images, ((0, 0), (1, 0), (0, 0), (0, 0)))[:, :-1]
    hidden = jnp.concatenate([hidden.transpose(0, 3, 1, 2).reshape(-1, 64), -hidden[:, :, 0, 0]], 1)
    hidden = jnp.clip(hidden @ params["first"], -1.0, jax.nn.softplus(params["second"][0, 0]))
    return (params["second"] @ jnp.maximum(hidden, 0.0).T).T - hidden.sum(-1, keepdims=True) / 7


FLAX = {
    mlp_fn: Mlp(),
    smooth_fn: SMOOTH,
    leaky_fn: LEAKY,
    max_pool_fn: Cnn(),
    avg_pool_fn: Cnn(),
}


@functools.cache
def abstract_params(logits_fn):
    if logits_fn is plain_fn:
        return {"first": np.zeros((72, 9)), "second": np.zeros((5, 9))}
    return jax.eval_shape(FLAX[logits_fn].init, jax.random.key(0), jnp.zeros((1, *SHAPE)))


def make_params(logits_fn, generator):
    """Random parameters; BatchNorm's running variances are positive and away from 1."""

    def draw(path, leaf):
        if "var" in jax.tree_util.keystr(path):
            return generator.uniform(0.1, 2, leaf.shape).astype(np.float32)
        fan_in = max(np.prod(leaf.shape[:-1]), 4)
        return generator.normal(0, 2 / np.sqrt(fan_in), leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(logits_fn))


@functools.partial(jax.jit, static_argnums=0)
def everything_of(logits_fn, params, images, radius, points):
    """Bounds, certificates and labels of the boxes, and the logits of `points` [k n ...]."""
    labels = logits_fn(params, images).argmax(-1)
    lower, upper = images - radius, images + radius
    bounds = interval_bounds(logits_fn, params, lower, upper)
    is_safe = certified(logits_fn, params, lower, upper, labels)
    logits = logits_fn(params, points.reshape(-1, *SHAPE)).reshape(*points.shape[:2], 5)
    refined = certified(logits_fn, params, lower, upper, labels, refine_up_to=100)
    return bounds, is_safe, refined, labels, logits


@pytest.mark.parametrize("logits_fn", [*FLAX, plain_fn])
@settings(max_examples=10)
@given(seed=st.integers(0, 1000), radius=st.sampled_from([0.0, 1e-3, 0.03, 0.5]))
def test_logits_in_the_box_lie_within_the_bounds_and_certified_classes_hold(
    logits_fn, seed, radius
):
    generator = np.random.default_rng(seed)
    images = generator.uniform(size=(4, *SHAPE)).astype(np.float32)
    radius = np.float32(radius)
    lower, upper = images - radius, images + radius
    share = generator.uniform(size=(40, *images.shape)).astype(np.float32)
    share[::2] = share[::2] > 0.5  # Corners of the box.
    points = np.clip(lower + share * (upper - lower), lower, upper)
    params = make_params(logits_fn, generator)
    bounds, is_safe, refined, labels, logits = everything_of(
        logits_fn, params, images, radius, points
    )
    logits = np.asarray(logits)
    assert (np.asarray(bounds.lower) <= logits).all()
    assert (logits <= np.asarray(bounds.upper)).all()
    changed = (logits.argmax(-1) != np.asarray(labels)).any(0)
    assert not (np.asarray(is_safe) & changed).any()
    assert not (np.asarray(refined) & changed).any()
    assert (np.asarray(is_safe) <= np.asarray(refined)).all()
    if radius == 0:
        assert np.max(bounds.upper - bounds.lower) < 1e-2 * (1 + np.abs(logits).max())


@pytest.mark.parametrize("logits_fn", [*FLAX, plain_fn])
def test_networks_are_certified_at_a_tiny_radius(logits_fn):
    generator = np.random.default_rng(0)
    images = generator.uniform(size=(4, 4, *SHAPE)).astype(np.float32)
    params, radius = make_params(logits_fn, generator), np.float32(1e-5)
    points = np.zeros((40, 4, *SHAPE), np.float32)
    is_safe = [everything_of(logits_fn, params, part, radius, points)[1] for part in images]
    assert np.mean(is_safe) > 0.7


def test_bounds_of_a_one_layer_relu_network_are_attained():
    weights = jnp.array([[1.0, -2.0], [0.5, 1.0]])

    def logits_fn(params, images):
        return jax.nn.relu(images @ params)

    lower, upper = jnp.array([[-1.0, 0.0]]), jnp.array([[1.0, 2.0]])
    bounds = interval_bounds(logits_fn, weights, lower, upper)
    np.testing.assert_allclose(bounds.lower, [[0, 0]], atol=1e-5)
    np.testing.assert_allclose(bounds.upper, [[2, 4]], atol=1e-5)


def test_the_last_layer_is_bounded_by_pairwise_differences():
    # The two logits move together: separate bounds overlap, their difference never does.
    weights = jnp.array([[10.0, 10.0], [1.0, 0.0]])

    def logits_fn(params, images):
        return nn.log_softmax(jax.nn.relu(images) @ params)

    lower, upper = jnp.array([[0.0, 0.9]]), jnp.array([[5.0, 1.0]])
    assert certified(logits_fn, weights, lower, upper, jnp.array([0])).all()


def crown_leads(params, images, radius, labels):
    """CROWN for mlp_fn's network in float64: lower bounds of z_label - z_j, [n classes]."""
    layers = [params["params"][f"Dense_{k}"] for k in range(3)]
    layers = [(np.float64(layer["kernel"]), np.float64(layer["bias"])) for layer in layers]
    images, radius = 2 * np.float64(images.reshape(len(images), -1)) - 1, 2 * np.float64(radius)

    def backwards(weights, offset, depth, boxes, image):
        """Smallest weights @ relu(layer depth) + offset, [rows]."""
        for (kernel, bias), (lower, upper) in zip(layers[:depth][::-1], boxes[::-1], strict=True):
            chord = np.clip(upper, 0, None) - np.clip(lower, 0, None)
            chord = chord / (upper - lower)
            slope = lower + upper > 0
            positive, negative = np.clip(weights, 0, None), np.clip(weights, None, 0)
            offset = offset + negative @ (np.clip(lower, 0, None) - chord * lower)
            weights = positive * slope + negative * chord
            offset, weights = offset + weights @ bias, weights @ kernel.T
        return weights @ image + offset - radius * np.abs(weights).sum(-1)

    leads = []
    for image, label in zip(images, labels, strict=True):
        boxes: list = []
        for depth, (kernel, bias) in enumerate(layers[:2]):
            lower = backwards(kernel.T, bias, depth, boxes, image)
            upper = -backwards(-kernel.T, -bias, depth, boxes, image)
            if depth:
                active = [np.clip(bound, 0, None) for bound in boxes[-1]]
                middle, half = (active[0] + active[1]) / 2, (active[1] - active[0]) / 2
                spread = half @ np.abs(kernel)
                lower = np.maximum(lower, middle @ kernel + bias - spread)
                upper = np.minimum(upper, middle @ kernel + bias + spread)
            boxes.append((lower, upper))
        kernel, bias = layers[2]
        leads.append(backwards(kernel.T[label] - kernel.T, bias[label] - bias, 2, boxes, image))
    return np.array(leads)


def test_refined_certificates_are_those_of_crown():
    generator = np.random.default_rng(5)
    params = make_params(mlp_fn, generator)
    images = generator.uniform(size=(60, *SHAPE)).astype(np.float32)
    labels = np.asarray(jax.jit(mlp_fn)(params, images)).argmax(-1)
    radius = np.float32(0.01)
    leads = crown_leads(params, images, radius, labels)
    leads[np.arange(60), labels] = np.inf
    expected, is_clear = leads.min(-1) > 0, np.abs(leads).min(-1) > 1e-3
    box = images - radius, images + radius
    refined = np.asarray(certified(mlp_fn, params, *box, labels, refine_up_to=16))
    # Intervals may certify what lines do not.
    by_intervals = np.asarray(certified(mlp_fn, params, *box, labels))
    np.testing.assert_array_equal(refined[is_clear], (expected | by_intervals)[is_clear])
    assert by_intervals.sum() < refined.sum() < 60


def affine_fn(params, images):
    return nn.log_softmax((images - 0.2) @ params + 0.2 * params.sum(0)[None])


@given(seed=st.integers(0, 1000))
def test_an_affine_network_is_certified_exactly_up_to_its_distance(seed):
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=(12, 4)).astype(np.float32)
    images = generator.normal(size=(9, 12)).astype(np.float32)
    logits = images.astype(np.float64) @ weights.astype(np.float64)
    labels = logits.argmax(-1)
    widths = np.abs(weights.T[labels][:, None] - weights.T[None]).sum(-1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.nanmin((logits.max(-1, keepdims=True) - logits) / widths, -1)

    radius = distance[:, None].astype(np.float32)
    nearer, further = radius - 2e-4, radius + 2e-4
    is_safe = certified(affine_fn, weights, images - nearer, images + nearer, labels)
    assert (np.asarray(is_safe) | (nearer[:, 0] < 0)).all()
    assert not certified(affine_fn, weights, images - further, images + further, labels).any()


def test_an_unknown_primitive_gives_no_certificate_and_is_named(caplog):
    def logits_fn(params, images):
        return jax.scipy.special.digamma(images @ params)

    images = jnp.array([[1.0, 0.0]])
    with caplog.at_level(logging.WARNING):
        is_safe = certified(logits_fn, jnp.eye(2), images, images, jnp.array([1]))
    assert not is_safe.any()
    assert "'digamma'" in caplog.text
    with pytest.raises(UnknownPrimitive, match="digamma"):
        interval_bounds(logits_fn, jnp.eye(2), images, images)


def test_an_unknown_primitive_on_params_alone_is_computed_exactly():
    def logits_fn(params, images):
        return images @ jnp.sort(params, axis=0)

    images = jnp.array([[1.0, 0.0]])
    is_safe = certified(logits_fn, jnp.eye(2), images - 0.1, images + 0.1, jnp.array([0]))
    assert not is_safe.any()  # Sorted, the identity's rows are equal: a tie everywhere.
    bounds = interval_bounds(logits_fn, jnp.eye(2), images - 0.1, images + 0.1)
    np.testing.assert_allclose(bounds.upper, [[0.1, 0.1]], atol=1e-5)


def test_division_by_an_interval_around_zero_is_unbounded():
    def logits_fn(params, images):
        return params / images

    bounds = interval_bounds(
        logits_fn, jnp.ones((1, 2)), jnp.array([[-1.0, 1]]), jnp.array([[1.0, 2]])
    )
    assert bounds.lower[0, 0] == -jnp.inf
    assert bounds.upper[0, 0] == jnp.inf
    np.testing.assert_allclose([bounds.lower[0, 1], bounds.upper[0, 1]], [0.5, 1], rtol=1e-6)


def test_overflow_gives_no_certificate():
    def logits_fn(params, images):
        return jnp.exp(images * 1e3) @ params

    images = jnp.array([[1.0, 0.0]])
    assert not certified(logits_fn, jnp.eye(2), images, images, jnp.array([0])).any()


def test_a_network_that_ignores_its_image_is_certified():
    def logits_fn(params, images):
        return jnp.broadcast_to(params[None], (images.shape[0], 3))

    images = jnp.zeros((2, 4))
    assert certified(logits_fn, jnp.arange(3.0), images - 1, images + 1, jnp.array([2, 2])).all()


@jax.custom_vjp
def _doubled(x):
    return 2 * x


_doubled.defvjp(lambda x: (2 * x, None), lambda _, g: (jnp.zeros_like(g),))


@pytest.mark.parametrize(
    ("logits_fn", "expected"),
    [
        (lambda params, images: jax.jit(jnp.matmul)(images, params) + 1, True),
        (lambda params, images: _doubled(jax.lax.stop_gradient(images)) @ params, True),
        (lambda params, images: jnp.where(params[0] > 0, images, 0) @ params, True),
        (lambda params, images: images @ params * images, False),
        (lambda params, images: jax.nn.relu(images) @ params, False),
        (lambda params, images: images.astype(jnp.bfloat16).astype(jnp.float32) @ params, False),
        (lambda params, images: params / images, False),
        (lambda params, images: jnp.where(images > 0, images, 0) @ params, False),
    ],
)
def test_affine_networks_are_recognised(logits_fn, expected):
    assert is_affine(logits_fn, jnp.eye(2), jnp.ones((3, 2))) == expected


def test_stopped_and_custom_gradients_do_not_fool_the_bound():
    images = jnp.array([[0.6, 0.5], [0.9, 0.1]])

    def logits_fn(params, images):
        return _doubled(jax.lax.stop_gradient(images)) @ params

    is_safe = certified(logits_fn, jnp.eye(2), images - 0.1, images + 0.1, jnp.array([0, 0]))
    assert is_safe.tolist() == [False, True]


def test_reduced_precision_networks_stay_within_their_bounds():
    def logits_fn(params, images):
        return (images.astype(jnp.bfloat16) @ params).astype(jnp.float32)

    weights = jax.random.normal(jax.random.key(0), (50, 3), jnp.bfloat16)
    images = jax.random.normal(jax.random.key(1), (20, 50))
    bounds = interval_bounds(logits_fn, weights, images, images)
    exact = images.astype(jnp.bfloat16).astype(jnp.float32) @ weights.astype(jnp.float32)
    for logits in (logits_fn(weights, images), exact):
        assert bool(((bounds.lower <= logits) & (logits <= bounds.upper)).all())


def _steps(weights, hidden):
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), h.sum(-1)), hidden, weights)


def _attention(weights, hidden):
    tokens = hidden.reshape(-1, 2, 3) * weights[0, 0, :3][None, None]
    scores = jnp.einsum("nik,njk->nij", tokens, tokens @ weights[1, :3, :3])
    scores = jnp.where(jnp.tri(2, dtype=bool)[None], scores, -jnp.inf)
    return (jax.nn.softmax(scores) @ tokens).reshape(hidden.shape)


def _lstm(weights, hidden):
    cell = nn.OptimizedLSTMCell(3)
    params = jax.tree.map(
        lambda leaf: jnp.sin(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape),
        jax.eval_shape(cell.init, jax.random.key(0), (jnp.ones((1, 3)),) * 2, jnp.ones((1, 2))),
    )
    state = (jnp.zeros((hidden.shape[0], 3)),) * 2

    def step(state, inputs):
        return cell.apply(params, state, inputs)

    return jax.lax.scan(step, state, hidden.reshape(-1, 3, 2).swapaxes(0, 1))[1].swapaxes(0, 1)


# (weights [2 6 6], hidden [n 6]) -> [n ...]; each is bounded on its own.
PIECES = {
    "stack": lambda w, h: jnp.stack([h, jnp.tanh(h)], 1),
    "split": lambda w, h: jnp.split(h, [1, 4], axis=1)[1],
    "tile": lambda w, h: jnp.tile(h, (1, 2)),
    "softplus": lambda w, h: jax.nn.softplus(h @ w[0]),
    "mish": lambda w, h: jax.nn.mish(h),
    "glu": lambda w, h: jax.nn.glu(h @ w[0]),
    "gelu": lambda w, h: jnp.stack([jax.nn.gelu(h), jax.nn.gelu(h, approximate=False)], 1),
    "others": lambda w, h: jnp.stack(
        [jax.nn.selu(h), jax.nn.celu(h), jax.nn.hard_swish(h), jax.nn.squareplus(h),
         jax.nn.soft_sign(h), jax.nn.log_sigmoid(h), jax.nn.hard_tanh(h), jax.nn.silu(h)], 1),
    "logsumexp": lambda w, h: h - jax.nn.logsumexp(h, axis=1, keepdims=True),
    "softmax": lambda w, h: jax.nn.softmax(3 * h),
    "wave": lambda w, h: jnp.stack([jnp.sin(7 * h), jnp.cos(9 * h)], 1),
    "powers": lambda w, h: jnp.stack(
        [jnp.abs(h) ** 1.7, (1.5 + jnp.abs(h)) ** h, h**3, h**-2.0, jnp.power(h, w[0, 0, 0]),
         jnp.power(h, 3.0 + 0 * w[0, 0, 0]), h ** jnp.float32(4)], 1),
    "nan_to_num": lambda w, h: jnp.nan_to_num(jnp.where(jnp.isfinite(h), h, 0)),
    "set and add": lambda w, h: (h * w[0, :1]).at[:, 1].set(h[:, 0]).at[:, jnp.array([1, 1])].add(
        h[:, :2]),
    "update": lambda w, h: jax.lax.dynamic_update_slice(h, 2 * h[:, :2], (0, 3)),
    "scan": lambda w, h: jnp.concatenate([_steps(w, h)[0], _steps(w, h)[1].T], 1),
    "fori_loop": lambda w, h: jax.lax.fori_loop(0, 3, lambda i, c: jnp.cos(c * i), h),
    "cond": lambda w, h: jax.lax.cond(h.sum() > w[0, 0, 0], jnp.tanh, lambda h: h * 2, h),
    "attention": _attention,
    "lstm": _lstm,
    "layer norm": lambda w, h: jax.nn.standardize(h @ w[1]),
    "norm": lambda w, h: h / jnp.linalg.norm(h, axis=1, keepdims=True),
    "order": lambda w, h: jnp.concatenate(
        [jnp.sort(h), jax.lax.top_k(h, 2)[0], jax.lax.cummax(h, axis=1)], 1),
    "experts": lambda w, h: jax.nn.one_hot(jnp.argmax(h, 1), 6) * h + jax.nn.one_hot(
        jax.lax.top_k(h, 2)[1], 6).sum(1),
    "products": lambda w, h: jnp.stack([jnp.cumprod(h, 1), h * h, h.prod(1, keepdims=True) * h], 1),
    "whole numbers": lambda w, h: jnp.stack(
        [(h * 8).astype(jnp.int32) / 8, jnp.floor(5 * h), (h * 99).astype(jnp.uint8) / 9.0,
         h.astype(bool) * 1.0, (h > 0.1) * 1.0, jnp.round(4 * h) ** 2, jnp.sign(h)], 1),
    "remainder": lambda w, h: jnp.stack([jnp.fmod(h, 0.3), h % 0.5], 1),
    "bfloat16": lambda w, h: jax.nn.relu(h.astype(jnp.bfloat16) @ w[0].astype(jnp.bfloat16)) @ (
        w[1].astype(jnp.bfloat16)),
    "float16": lambda w, h: jax.nn.gelu(h.astype(jnp.float16) @ w[0].astype(jnp.float16)).mean(
        1, keepdims=True) * h,
    "small float16": lambda w, h: (h.astype(jnp.float16) * 1e-3) ** 2 * 6e4,
    "large float16": lambda w, h: jnp.maximum((3e5 * h).astype(jnp.float16), 0),
    "there and back": lambda w, h: jax.lax.reduce_precision(h, 6, 5).astype(jnp.bfloat16).astype(
        jnp.float32) - h,
    "cancelling": lambda w, h: (h + 1e4) - 1e4,
}  # fmt: skip


@functools.partial(jax.jit, static_argnames="names")
def _bounds_and_values(names, weights, images, radius, points):
    bounds, values = {}, {}
    for name in names:

        def logits_fn(weights, images, name=name):
            out = PIECES[name](weights, images)
            return out.reshape(images.shape[0], -1)

        bounds[name] = interval_bounds(logits_fn, weights, images - radius, images + radius)
        flat = points.reshape(-1, points.shape[-1])
        values[name] = logits_fn(weights, flat[:, :]).reshape(*points.shape[:2], -1)
        if name == "cond":  # Each image alone: the branch depends on the batch.
            one = jax.vmap(lambda point: logits_fn(weights, point[None])[0])
            values[name] = one(flat).reshape(*points.shape[:2], -1)
    return bounds, values


@pytest.fixture(scope="module")
def bounded_pieces():
    """For each piece: what a wide, a narrow and a closed box give, and points of them."""
    generator = np.random.default_rng(3)
    weights = generator.normal(size=(2, 6, 6)).astype(np.float32)
    results = {}
    for radius in (0.0, 1e-3, 0.3):
        images = generator.normal(size=(20, 6)).astype(np.float32)
        images[:, 0] = np.round(images[:, 0], 1)
        share = generator.uniform(size=(60, *images.shape)).astype(np.float32)
        share[::2] = share[::2].round()
        lower, upper = images - np.float32(radius), images + np.float32(radius)
        points = np.clip(lower + share * (upper - lower), lower, upper)
        results[radius] = _bounds_and_values(
            tuple(PIECES), weights, images, np.float32(radius), points
        )
    return results


@pytest.mark.parametrize("name", PIECES)
def test_each_operation_stays_within_its_bounds_and_they_are_no_wider_than_needed(
    name, bounded_pieces
):
    for radius, (bounds, values) in bounded_pieces.items():
        low, high = np.asarray(bounds[name].lower, float), np.asarray(bounds[name].upper, float)
        value = np.asarray(values[name], float)
        is_open = (low == -np.inf) & (high == np.inf)
        assert ((low <= value) & (value <= high) | is_open).all(), radius
        if radius == 0 and name not in ("large float16", "small float16", "powers", "experts"):
            scale = 1e4 if name == "cancelling" else 1 + np.abs(value).max(0)
            narrow = "float16" in name or name == "there and back"
            closed = (high - low)[~is_open] / np.broadcast_to(scale, low.shape)[~is_open]
            assert np.median(closed) < (0.2 if narrow else 1e-4)
            assert is_open.mean() < 0.1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_certificates_of_narrow_networks_hold_for_what_they_compute(dtype):
    def logits_fn(params, images):
        hidden = images.astype(dtype)
        for weights in params[:-1]:
            hidden = jax.nn.relu(hidden @ weights.astype(dtype))
        return hidden @ params[-1].astype(dtype)

    generator = np.random.default_rng(0)
    shapes = (30, 40), (40, 40), (40, 5)
    params = [jnp.asarray(generator.normal(size=s) / np.sqrt(s[0]), jnp.float32) for s in shapes]
    images = jnp.asarray(generator.uniform(size=(80, 30)), jnp.bfloat16)
    radius = jnp.asarray(2.0**-9, jnp.bfloat16)
    lower, upper = images - radius, images + radius
    predict = jax.jit(logits_fn)
    labels = predict(params, images).argmax(-1)
    bounds = interval_bounds(logits_fn, params, lower, upper)
    is_safe = certified(logits_fn, params, lower, upper, labels)
    assert 0 < is_safe.sum() < 80
    for seed in range(6):
        share = jax.random.bernoulli(jax.random.key(seed), shape=images.shape)
        logits = predict(params, jnp.where(share, upper, lower))
        assert ((bounds.lower <= logits) & (logits <= bounds.upper)).all()
        assert not (is_safe & (logits.argmax(-1) != labels)).any()


def _shares(images):
    return images / images.sum(-1, keepdims=True)


def _shares_of_another_axis(images):
    pairs = images.reshape(-1, 2, 2)
    return (pairs / pairs.sum(2)[:, None, :]).reshape(-1, 4)


@pytest.mark.parametrize(
    ("shares", "center"),
    [
        (_shares, [[-0.5, 2.0, 0.3, 0.1]]),
        (_shares, [[0.5, 2.0, 0.3, 0.2]]),
        (_shares_of_another_axis, [[3.0, 0.5, 0.2, 0.4]]),
    ],
    ids=["a negative term", "no negative term", "another axis"],
)
def test_bounds_of_a_quotient_by_a_sum_hold_at_random_points(shares, center):
    center, radius = np.float32(center), np.float32(0.1)
    bounds = interval_bounds(
        lambda params, images: shares(images), {}, center - radius, center + radius
    )
    rng = np.random.default_rng(0)
    corners = rng.choice([-1, 1], (2000, 4))
    inside = rng.uniform(-1, 1, (2000, 4))
    points = np.float64(center) + radius * np.concatenate([corners, inside])
    values = np.asarray(shares(points))
    assert (values >= np.asarray(bounds.lower)).all()
    assert (values <= np.asarray(bounds.upper)).all()
    if shares is _shares and center.min() > 0:  # tight there: the numerator counts in the sum
        assert bounds.lower.min() >= -1e-6
        assert bounds.upper.max() <= 1 + 1e-5


def test_the_remainder_by_0_has_no_bound():
    images = jnp.array([[1.0, 3.0]])
    bounds = interval_bounds(
        lambda params, images: jax.lax.rem(images, params[None]), jnp.array([0.0, 2.0]), images,
        images + 0.5,
    )  # fmt: skip
    np.testing.assert_array_equal(bounds.lower[0, 0], -np.inf)
    np.testing.assert_array_equal(bounds.upper[0, 0], np.inf)
    assert bounds.lower[0, 1] <= 1
    assert 1.5 <= bounds.upper[0, 1] <= 2


def test_a_class_masked_by_minus_infinity_costs_no_certificate():
    images = jnp.array([[1.0, 0.1, 0.3], [0.1, 0.15, 0.9]])
    mask = jnp.array([True, True, False])
    found = [
        certified(
            lambda params, images, value=value: jnp.where(mask[None], images @ params, value),
            jnp.eye(3), images - 0.1, images + 0.1, jnp.array([0, 1]),
        )
        for value in (-jnp.inf, -1e9)
    ]  # fmt: skip
    np.testing.assert_array_equal(found[0], [True, False])
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (np.zeros((2, 3)), np.ones((1, 3)), "lower, upper: .* must be the same"),
        (np.ones((2, 3)), np.zeros((2, 3)), "lower must be at most upper"),
        (np.zeros((2, 3), int), np.ones((2, 3), int), "images: must be float"),
        ("low", np.ones((2, 3)), "lower: must be a numeric array"),
    ],
)
def test_corners_of_no_box_are_one_clear_line(lower, upper, message):
    with pytest.raises(InputError, match=message):
        interval_bounds(lambda params, images: images @ params, jnp.eye(3), lower, upper)
