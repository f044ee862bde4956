"""What no public function of the analysis may take, and what each of them must."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.analysis import inputs
from memjax.analysis.critical import (
    critical_bounds,
    critical_bounds_over_radii,
    critical_radius,
    lass,
    pgd,
)
from memjax.analysis.difficulty import aum
from memjax.analysis.filters import filter_quality
from memjax.analysis.gradients import gradient_norms, per_example_gradients
from memjax.analysis.input_gradients import input_gradient_norms, input_loss_curvature
from memjax.analysis.jacobians import empirical_ntk, input_jacobians, parameter_jacobian_norms
from memjax.analysis.memorization import memorization_scores
from memjax.analysis.products import gradient_products, projected_gradients
from memjax.analysis.scores import example_scores
from memjax.analysis.sensitivity import loss_sensitivity
from memjax.analysis.sharpness import hessian_eigenvalue, hessian_trace
from memjax.analysis.statistics import binomial_null, bootstrap_interval, overdispersion
from memjax.errors import InputError

KEY = jax.random.key(0)
PARAMS = jax.random.normal(jax.random.key(1), (3, 4))
IMAGES = jax.random.uniform(jax.random.key(2), (5, 3))
LABELS = np.array([1, 0, 1, 2, 3])
BATCHES = np.array([[0, 1], [2, 3]])


def linear(params, images):
    return images @ params


# (logits_fn, params, images, labels) -> values
WITH_LABELS = {
    "gradient_norms": gradient_norms,
    "gradient_norms by vmap": functools.partial(gradient_norms, method="vmap"),
    "gradient_products": lambda f, p, x, y: gradient_products(f, p, x, y, x, y),
    "projected_gradients": lambda f, p, x, y: projected_gradients(KEY, f, p, x, y, 2),
    "input_gradient_norms": input_gradient_norms,
    "input_loss_curvature": lambda f, p, x, y: input_loss_curvature(KEY, f, p, x, y, 2),
    "loss_sensitivity": lambda f, p, x, y: loss_sensitivity(f, p, x, y, BATCHES, 0.1, [2]).mean,
    "hessian_eigenvalue": lambda f, p, x, y: hessian_eigenvalue(KEY, f, p, x, y).eigenvalue,
    "hessian_trace": lambda f, p, x, y: hessian_trace(KEY, f, p, x, y, num_probes=2).trace,
}
WITHOUT_LABELS = {
    "input_jacobians": lambda f, p, x, y: input_jacobians(f, p, x),
    "parameter_jacobian_norms": lambda f, p, x, y: parameter_jacobian_norms(f, p, x),
    "empirical_ntk": lambda f, p, x, y: empirical_ntk(f, p, x, x),
}
SEARCHES = {
    "lass": lambda f, p, x, y: lass(KEY, f, p, x, 0.1).adversarial,
    "pgd": lambda f, p, x, y: pgd(KEY, f, p, x, 0.1).adversarial,
    "critical_bounds": lambda f, p, x, y: critical_bounds(KEY, f, p, x, 0.1).lower,
    "critical_bounds_over_radii": lambda f, p, x, y: (
        critical_bounds_over_radii(KEY, f, p, x, [0.1, 0.2]).upper
    ),
    "critical_radius": lambda f, p, x, y: critical_radius(KEY, f, p, x).found,
}
ALL = WITH_LABELS | WITHOUT_LABELS | SEARCHES
BY_PARAMS = {
    name: fn
    for name, fn in (WITH_LABELS | WITHOUT_LABELS).items()
    if name not in {"input_jacobians"} and "input_" not in name
}


@pytest.mark.parametrize("fn", WITH_LABELS.values(), ids=WITH_LABELS)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([1, -1, 1, 2, 3]), r"labels: -1 \(of example 1\)"),
        (np.array([1, 0, 1, 2, 4]), r"labels: 4 \(of example 4\) is not a class in \[0, 4\)"),
        (LABELS[:, None], r"labels: must be \[5\] integers"),
        (np.eye(4)[LABELS], r"labels: must be \[5\] integers"),
        (LABELS.astype(np.float32), r"labels: must be \[5\] integers"),
        (np.array(list("abcde")), r"labels: must be \[5\] integers"),
        (LABELS[:4], "lengths"),
    ],
    ids=["-1", "past the last", "column", "one-hot", "float", "text", "short"],
)
def test_labels_that_are_no_classes_are_refused_by_name(fn, labels, message):
    with pytest.raises(InputError, match=message):
        fn(linear, PARAMS, IMAGES, labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([-1, 0, 1, 2, 3], "labels: -1"), ([4, 0, 1, 2, 3], "labels: 4"), (np.zeros(5), "integers")],
)
def test_scores_of_logits_refuse_labels_that_are_no_classes(labels, message):
    logits = IMAGES @ PARAMS
    with pytest.raises(InputError, match=message):
        example_scores(logits, np.asarray(labels))
    with pytest.raises(InputError, match=message):
        aum(logits[None], np.asarray(labels))


def test_traced_labels_that_are_no_classes_give_nan_for_their_examples_alone():
    labels = jnp.asarray([1, -1, 1, 4, 3])
    norms = jax.jit(lambda labels: gradient_norms(linear, PARAMS, IMAGES, labels))(labels)
    np.testing.assert_array_equal(np.isnan(norms), [False, True, False, True, False])
    scores = jax.jit(lambda labels: example_scores(IMAGES @ PARAMS, labels))(labels)
    for values in (scores.loss, scores.el2n, scores.margin):
        np.testing.assert_array_equal(np.isnan(values), [False, True, False, True, False])


MODELS = {
    "a pair": (lambda p, x: (x @ p, {}), r"float logits \[n classes\]"),
    "no classes": (lambda p, x: (x @ p)[:, 0], r"float logits \[n classes\]"),
    "integers": (lambda p, x: jnp.argmax(x @ p, 1)[:, None], r"float logits \[n classes\]"),
    "one row for all": (lambda p, x: (x @ p)[:1], r"float logits \[n classes\]"),
    "mixing": (lambda p, x: (x - x[:1]) @ p, "mixes the examples"),
}


@pytest.mark.parametrize("fn", ALL.values(), ids=ALL)
@pytest.mark.parametrize(("logits_fn", "message"), MODELS.values(), ids=MODELS)
def test_a_model_that_returns_no_logits_of_each_image_is_refused(fn, logits_fn, message):
    with pytest.raises(InputError, match=message):
        fn(logits_fn, PARAMS, IMAGES, LABELS)


@pytest.mark.parametrize("fn", BY_PARAMS.values(), ids=BY_PARAMS)
def test_parameters_without_a_derivative_are_refused(fn):
    closed = jnp.asarray(PARAMS)
    stopped = {"kernel": PARAMS}
    for logits_fn, params in (
        (lambda p, x: x @ closed, {"kernel": PARAMS}),
        (lambda p, x: x @ closed, {}),
        (lambda p, x: x @ jax.lax.stop_gradient(p["kernel"]), stopped),
    ):
        with pytest.raises(InputError, match="no leaf of params has a derivative"):
            fn(logits_fn, params, IMAGES, LABELS)


@pytest.mark.parametrize("fn", ALL.values(), ids=ALL)
def test_complex_parameters_are_refused_by_name(fn):
    with pytest.raises(InputError, match=r"params\['filter'\]: is complex64"):
        fn(lambda p, x: jnp.abs(x @ p["filter"]), {"filter": PARAMS + 1j}, IMAGES, LABELS)


@pytest.mark.parametrize("fn", ALL.values(), ids=ALL)
def test_integer_and_empty_leaves_change_nothing(fn):
    params = {"kernel": PARAMS, "steps": np.int32(3), "empty": jnp.zeros((0, 4))}

    def logits_fn(params, images):
        return images @ params["kernel"] + params["empty"].sum(0, keepdims=True)

    expected = fn(linear, PARAMS, IMAGES, LABELS)
    if fn is WITH_LABELS["projected_gradients"]:  # the signs depend on the leaves there are
        assert fn(logits_fn, params, IMAGES, LABELS).shape == expected.shape
    elif fn not in (WITH_LABELS["hessian_eigenvalue"], WITH_LABELS["hessian_trace"]):
        np.testing.assert_allclose(fn(logits_fn, params, IMAGES, LABELS), expected, rtol=1e-5)
    else:  # random starts and probes likewise
        assert np.isfinite(fn(logits_fn, params, IMAGES, LABELS))


def test_per_example_gradients_leave_integers_alone_and_refuse_the_rest():
    def loss_fn(params, image, label):
        return jnp.sum((image @ params["kernel"]) ** 2) * params["steps"]

    params = {"kernel": PARAMS, "steps": jnp.int32(2), "empty": jnp.zeros((0, 4))}
    gradients = per_example_gradients(loss_fn, params, IMAGES, LABELS)
    expected = 4 * IMAGES[:, :, None] * (IMAGES @ PARAMS)[:, None]
    np.testing.assert_allclose(gradients["kernel"], expected, rtol=1e-5)
    np.testing.assert_array_equal(gradients["steps"], np.zeros(5))
    assert gradients["empty"].shape == (5, 0, 4)
    with pytest.raises(InputError, match="complex"):
        per_example_gradients(loss_fn, {"kernel": PARAMS + 1j}, IMAGES, LABELS)
    with pytest.raises(InputError, match="no leaf of params is floating"):
        per_example_gradients(loss_fn, {"steps": jnp.int32(1)}, IMAGES, LABELS)
    with pytest.raises(InputError, match="loss_fn: must return one float"):
        per_example_gradients(lambda p, x, y: x @ p, PARAMS, IMAGES, LABELS)


def test_text_and_other_objects_are_refused_by_name():
    with pytest.raises(InputError, match="images: must be a numeric array"):
        gradient_norms(linear, PARAMS, np.array([["a"], ["b"]]), LABELS[:2])
    with pytest.raises(InputError, match=r"params\['name'\]: must be a numeric array"):
        gradient_norms(linear, {"kernel": PARAMS, "name": "linear"}, IMAGES, LABELS)
    with pytest.raises(InputError, match="logits_fn: must be a function"):
        gradient_norms([linear], PARAMS, IMAGES, LABELS)


def test_integers_of_numpy_are_sizes():
    size = np.int64(2)
    expected = gradient_norms(linear, PARAMS, IMAGES, LABELS)
    norms = gradient_norms(linear, PARAMS, IMAGES, LABELS, microbatch_size=size)
    np.testing.assert_allclose(norms, expected, rtol=1e-6)
    assert empirical_ntk(linear, PARAMS, IMAGES, IMAGES, np.int32(2)).shape == (5, 5, 4, 4)
    found = hessian_eigenvalue(
        KEY, linear, PARAMS, IMAGES, LABELS, num_iterations=size, microbatch_size=size
    )
    assert found.num_iterations <= 2
    assert projected_gradients(KEY, linear, PARAMS, IMAGES, LABELS, size).shape == (5, 2)
    with pytest.raises(InputError, match="microbatch_size: True"):
        gradient_norms(linear, PARAMS, IMAGES, LABELS, microbatch_size=True)


@pytest.mark.parametrize("fn", ALL.values(), ids=ALL)
def test_strict_promotion_changes_nothing(fn):
    expected = fn(linear, PARAMS, IMAGES, LABELS)
    jax.clear_caches()
    with jax.numpy_dtype_promotion("strict"):
        np.testing.assert_array_equal(fn(linear, PARAMS, IMAGES, LABELS), expected)


def test_strict_promotion_suits_what_takes_no_model():
    with jax.numpy_dtype_promotion("strict"):
        filter_quality(jax.random.normal(KEY, (3, 5, 5, 1)))
        correct = jax.random.bernoulli(KEY, 0.5, (6, 7))
        overdispersion(correct)
        memorization_scores(correct, ~correct)
        example_scores((IMAGES @ PARAMS).astype(jnp.bfloat16), LABELS.astype(np.uint8))


@pytest.mark.parametrize("fn", WITH_LABELS.values(), ids=WITH_LABELS)
def test_labels_of_none_or_of_unequal_lengths_are_one_clear_line(fn):
    with pytest.raises(InputError, match=r"labels: must be \[5\], as many as images, not None"):
        fn(linear, PARAMS, IMAGES, None)
    with pytest.raises(InputError, match="labels: must be an array, not a list of unequal"):
        fn(linear, PARAMS, IMAGES, [[0], [1, 2], [0], [0], [1]])


def test_a_flag_among_the_parameters_is_looked_at_again_when_it_changes():
    def logits_fn(params, images):
        mean = jnp.where(params["is_training"] > 0, images.mean(0, keepdims=True), 0.0)
        return (images - mean) @ params["kernel"]

    for on, off in ((jnp.int32(1), jnp.int32(0)), (jnp.array(True), jnp.array(False))):
        gradient_norms(logits_fn, {"kernel": PARAMS, "is_training": off}, IMAGES, LABELS)
        with pytest.raises(InputError, match="mixes the examples"):
            gradient_norms(logits_fn, {"kernel": PARAMS, "is_training": on}, IMAGES, LABELS)


def test_a_counter_among_the_parameters_is_not_looked_at_at_every_step(monkeypatch):
    looks = []
    find = inputs._find_facts
    monkeypatch.setattr(inputs, "_find_facts", lambda *given: looks.append(1) or find(*given))

    def logits_fn(params, images):
        return images @ params["kernel"]

    for step in range(100, 110):
        gradient_norms(logits_fn, {"kernel": PARAMS, "step": jnp.int32(step)}, IMAGES, LABELS)
    assert len(looks) == 1


@pytest.mark.parametrize("fn", [gradient_norms, hessian_trace], ids=["gradient_norms", "trace"])
@pytest.mark.parametrize(
    ("example_loss", "message"),
    [
        (
            lambda logits, label: logits - label,
            r"example_loss: must return one float for logits \[4\]",
        ),
        (lambda logits, label: label, "example_loss: must return one float"),
        ("cross-entropy", "example_loss: must be a function"),
    ],
)
def test_a_loss_that_is_no_number_of_one_example_is_refused(fn, example_loss, message):
    key = () if fn is gradient_norms else (KEY,)
    with pytest.raises(InputError, match=message):
        fn(*key, linear, PARAMS, IMAGES, LABELS, example_loss=example_loss)
    with pytest.raises(InputError, match=message):
        example_scores(IMAGES @ PARAMS, LABELS, example_loss=example_loss)


KEYED = {
    "lass": lambda key: lass(key, linear, PARAMS, IMAGES, 0.1).adversarial,
    "pgd": lambda key: pgd(key, linear, PARAMS, IMAGES, 0.1).adversarial,
    "critical_bounds": lambda key: critical_bounds(key, linear, PARAMS, IMAGES, 0.1).lower,
    "critical_radius": lambda key: critical_radius(key, linear, PARAMS, IMAGES).found,
    "hessian_trace": lambda key: hessian_trace(key, linear, PARAMS, IMAGES, LABELS).trace,
    "projected_gradients": lambda key: projected_gradients(key, linear, PARAMS, IMAGES, LABELS, 2),
    "input_loss_curvature": lambda key: input_loss_curvature(key, linear, PARAMS, IMAGES, LABELS),
    "binomial_null": lambda key: binomial_null(key, 5, 0.5, 3).draws,
    "bootstrap_interval": lambda key: bootstrap_interval(key, jnp.mean, jnp.arange(5.0)).lower,
}


@pytest.mark.parametrize("fn", KEYED.values(), ids=KEYED)
def test_a_seed_is_no_key_and_two_words_are_the_key_they_are(fn):
    for seed in (0, np.int32(3), jax.random.split(KEY, 3)):
        with pytest.raises(InputError, match="key: must be one typed key"):
            fn(seed)
    np.testing.assert_array_equal(fn(jax.random.PRNGKey(3)), fn(jax.random.key(3)))
