"""Influence functions, TracIn and TRAK against closed forms and against exact attribution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.analysis.attribution import example_attribution
from memjax.analysis.attribution_estimators import log_odds, tracin, trak
from memjax.analysis.influence import influence_functions
from memjax.analysis.losses import softmax_cross_entropy
from memjax.errors import InputError


def squared_error(logits, target):
    return jnp.sum((logits[0] - target) ** 2) / 2


def linear(weights, images):
    return images @ weights[:, None]


@functools.cache
def regression():
    rng = np.random.default_rng(0)
    images, targets = rng.normal(size=(12, 4)), rng.normal(size=12)
    return images, targets, rng.normal(size=(5, 4)), rng.normal(size=5), rng.normal(size=4)


@pytest.mark.parametrize("method", ["cg", "ekfac"])
def test_a_linear_model_has_the_closed_form(method):
    """-(x_q p - y_q) x_q' (X'X / n + damping)^-1 x_i (x_i p - y_i) / n."""
    images, targets, queries, answers, weights = regression()
    hessian = images.T @ images / 12 + 0.3 * np.eye(4)
    expected = -(queries @ np.linalg.solve(hessian, images.T)) / 12
    expected *= (queries @ weights - answers)[:, None] * (images @ weights - targets)[None]
    with jax.enable_x64():
        found = influence_functions(
            linear, weights, images, targets, queries, answers, method=method, damping=0.3,
            example_loss=squared_error, tolerance=1e-12,
        )  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_where_training_has_converged_it_is_the_exact_attribution():
    images, targets, queries, answers, start = regression()
    with jax.enable_x64():
        batches = np.tile(np.arange(12), (800, 1))
        options = {"example_loss": squared_error}
        unrolled = example_attribution(
            linear, start, images, targets, batches, 0.4, queries, answers, weight_decay=0.1,
            **options,
        )  # fmt: skip
        ridge = images.T @ images / 12 + 0.1 * np.eye(4)
        minimum = np.linalg.solve(ridge, images.T @ targets / 12)
        for method in ("cg", "ekfac"):
            found = influence_functions(
                linear, minimum, images, targets, queries, answers, damping=0.1, method=method,
                tolerance=1e-12, **options,
            )  # fmt: skip
            np.testing.assert_allclose(found, unrolled, rtol=1e-6, atol=1e-9)


def mlp(params, images):
    hidden = jnp.tanh(images.reshape(images.shape[0], -1) @ params["first"] + params["bias"][None])
    return hidden @ params["second"]


def cnn(params, images):
    images = jax.lax.conv_general_dilated(
        images, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(images).reshape(images.shape[0], -1) @ params["dense"]


@functools.cache
def network(name):
    rng = np.random.default_rng(1)
    shapes = {
        "mlp": {"first": (9, 4), "bias": (4,), "second": (4, 3)},
        "cnn": {"kernel": (2, 2, 1, 2), "dense": (18, 3)},
    }[name]
    params = {leaf: 0.5 * rng.normal(size=shape) for leaf, shape in shapes.items()}
    images, queries = rng.normal(size=(8, 3, 3, 1)), rng.normal(size=(4, 3, 3, 1))
    labels, query_labels = rng.integers(3, size=8), rng.integers(3, size=4)
    return {"mlp": mlp, "cnn": cnn}[name], params, (images, labels), (queries, query_labels)


def flat_gradients(fn, logits_fn, params, images, labels):
    """Returns a dict of leaf -> [n leaf size], by a Python loop."""
    found = [
        jax.grad(lambda p, i=i, y=y: fn(logits_fn(p, i[None])[0], y))(params)
        for i, y in zip(jnp.asarray(images), labels, strict=True)
    ]
    return {leaf: np.stack([np.ravel(g[leaf]) for g in found]) for leaf in params}


def gauss_newton(logits_fn, params, images):
    """Returns leaf -> [size size], the blocks of the Gauss-Newton matrix, and the whole."""
    jacobian = jax.jacobian(lambda p: logits_fn(p, images))(params)
    probability = np.asarray(jax.nn.softmax(logits_fn(params, images)))
    curvature = np.stack([np.diag(p) - np.outer(p, p) for p in probability])
    flat = {leaf: np.asarray(j).reshape(*j.shape[:2], -1) for leaf, j in jacobian.items()}
    whole = np.concatenate([flat[leaf] for leaf in sorted(flat)], axis=2)
    product = functools.partial(np.einsum, "nca,ncd,ndb->ab")
    blocks = {leaf: product(j, curvature, j) / len(images) for leaf, j in flat.items()}
    return blocks, product(whole, curvature, whole) / len(images)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_conjugate_gradients_solve_with_the_whole_gauss_newton_matrix(name):
    with jax.enable_x64():
        logits_fn, params, (images, labels), queries = network(name)
        _, matrix = gauss_newton(logits_fn, params, images)
        gradients, asked = (
            np.concatenate(list(dict(sorted(g.items())).values()), axis=1)
            for g in (
                flat_gradients(softmax_cross_entropy, logits_fn, params, images, labels),
                flat_gradients(softmax_cross_entropy, logits_fn, params, *queries),
            )
        )
        expected = -asked @ np.linalg.solve(matrix + 0.1 * np.eye(len(matrix)), gradients.T) / 8
        found = influence_functions(
            logits_fn, params, images, labels, *queries, method="cg", damping=0.1,
            tolerance=1e-12, microbatch_size=3,
        )  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_ekfac_has_the_right_moments_in_a_kronecker_basis(name):
    """The eigenvalues are the diagonal of the true block in that basis; a bias's block is exact."""
    with jax.enable_x64():
        logits_fn, params, (images, labels), queries = network(name)
        blocks, _ = gauss_newton(logits_fn, params, images)
        gradients = flat_gradients(softmax_cross_entropy, logits_fn, params, images, labels)
        asked = flat_gradients(softmax_cross_entropy, logits_fn, params, *queries)
        bases = kronecker_bases(logits_fn, params, images)
        expected = 0.0
        for leaf, block in blocks.items():
            if leaf in bases:
                basis = bases[leaf]
                inverse = basis / (np.diag(basis.T @ block @ basis) + 0.1) @ basis.T
            else:
                inverse = np.linalg.inv(block + 0.1 * np.eye(len(block)))
            expected = expected - asked[leaf] @ inverse @ gradients[leaf].T / 8
        found = influence_functions(
            logits_fn, params, images, labels, *queries, damping=0.1, microbatch_size=4
        )
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)


def kronecker_bases(logits_fn, params, images):
    """Returns leaf -> [size size], columns the products of eigenvectors, from plain formulas."""
    probability = jax.nn.softmax(logits_fn(params, images))
    curvature = np.stack([np.diag(p) - np.outer(p, p) for p in np.asarray(probability)])
    if logits_fn is mlp:
        flat = images.reshape(8, -1)
        hidden = np.tanh(flat @ params["first"] + params["bias"])
        by_hidden = params["second"].T[None] * (1 - hidden**2)[:, None]
        factors = {
            "first": (flat.T @ flat, np.einsum("nch,ncd,ndk->hk", by_hidden, curvature, by_hidden)),
            "second": (hidden.T @ hidden, curvature.sum(0)),
        }
    else:
        padded = np.pad(images[..., 0], ((0, 0), (0, 1), (0, 1)))
        patches = np.stack(
            [padded[:, a : a + 3, b : b + 3].reshape(8, 9) for a in (0, 1) for b in (0, 1)], axis=2
        )
        kernel = params["kernel"].reshape(4, 2)
        features = np.tanh(patches @ kernel)
        by_output = params["dense"].T.reshape(1, 3, 9, 2) * (1 - features**2)[:, None]
        flat = features.reshape(8, 18)
        factors = {
            "kernel": (
                np.einsum("npr,nps->rs", patches, patches),
                np.einsum("ncph,ncd,ndpk->hk", by_output, curvature, by_output),
            ),
            "dense": (flat.T @ flat, curvature.sum(0)),
        }
    eigenvectors = {k: [np.linalg.eigh(side)[1] for side in pair] for k, pair in factors.items()}
    return {leaf: np.kron(rows, columns) for leaf, (rows, columns) in eigenvectors.items()}


def test_tracin_is_the_first_order_of_training_and_exact_for_a_single_step():
    with jax.enable_x64():
        logits_fn, params, (images, labels), queries = network("mlp")
        rate = 1e-4
        exact = example_attribution(
            logits_fn, params, images, labels, np.arange(8)[None], rate, *queries
        )
        found = tracin(logits_fn, [params], images, labels, [rate / 8], *queries)
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-10)
        twice = tracin(logits_fn, [params] * 2, images, labels, [rate / 8] * 2, *queries)
        np.testing.assert_allclose(twice, 2 * found, rtol=1e-12)


def test_trak_is_regression_on_projected_gradients_whose_dimension_grows_to_the_whole():
    """Projections of full rank cancel: it is then g_q (G'G)^-1 G' (1 - p), without projection."""
    _, params, _, queries = network("mlp")
    few = {"second": params["second"]}  # 12 parameters: 8 examples do not span them

    def last_layer(trained, images):
        hidden = jnp.tanh(images.reshape(len(images), -1) @ params["first"])
        return hidden @ trained["second"]

    rng = np.random.default_rng(3)
    many, many_labels = rng.normal(size=(60, 3, 3, 1)), rng.integers(3, size=60)
    with jax.enable_x64():
        arguments = (last_layer, few, many, many_labels)
        train = flat_gradients(log_odds, *arguments)["second"]
        asked = flat_gradients(log_odds, last_layer, few, *queries)["second"]
        # Logits are the same up to a shift of all classes: 8 of the 12 directions move the odds.
        probability = np.asarray(jax.nn.softmax(last_layer(few, many)))
        error = 1 - probability[np.arange(60), many_labels]
        expected = asked @ np.linalg.pinv(train.T @ train) @ train.T * error[None]
        found = trak(
            jax.random.key(0), last_layer, [few], many, many_labels, *queries, dimension=12,
            damping=1e-9, measure="margin",
        )  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
        of_loss = trak(
            jax.random.key(0), last_layer, [few], many, many_labels, *queries, dimension=12,
            damping=1e-9,
        )  # fmt: skip
        ratio = np.asarray(of_loss / found)
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-9)
        assert (ratio < 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda *a: influence_functions(*a, method="lissa"), "method is 'lissa', must be one of"),
        (lambda *a: influence_functions(*a, damping=-1.0), "damping: -1.0"),
        (lambda *a: influence_functions(*a, measure="none"), "measure is 'none'"),
        (
            lambda *a: influence_functions(*a[:4], np.ones((2, 5)), [0, 1]),
            "query_images have shape",
        ),
        (lambda *a: tracin(a[0], [], a[2], a[3], [], *a[4:]), "must be equally many"),
        (lambda *a: tracin(a[0], [a[1]], a[2], a[3], [1, 2], *a[4:]), "must be equally many"),
        (lambda *a: trak(jax.random.key(0), a[0], [], *a[2:]), "networks: none given"),
        (lambda *a: trak(jax.random.key(0), a[0], [a[1]], *a[2:], dimension=0), "dimension: 0"),
    ],
)
def test_bad_input_is_one_clear_line(call, message):
    logits_fn, params, (images, labels), queries = network("mlp")
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    arguments = (images.astype(np.float32), labels, queries[0].astype(np.float32), queries[1])
    with pytest.raises(InputError, match=message):
        call(logits_fn, params, *arguments)


def test_a_memorized_query_keeps_its_influence_by_conjugate_gradients():
    """For one linear layer the matrix of query and example is symmetric, whichever is memorized."""
    weights, images = jnp.eye(2) * 50, jnp.array([[1.0, 0.0], [0.0, 1.0], [0.01, 0.0]])
    labels = jnp.array([0, 1, 0])
    found = influence_functions(
        lambda weights, images: images @ weights, weights, images, labels, images, labels,
        method="cg",
    )  # fmt: skip
    assert found[2, 0] < -1e-23
    np.testing.assert_allclose(found[0, 2], found[2, 0], rtol=1e-5)


@pytest.mark.parametrize("queries", [[-1, 0], [2, 0], ["cat", "dog"]])
def test_query_labels_that_are_no_classes_are_refused_by_name(queries):
    linear_fn, weights, labels = (lambda w, x: x @ w), jnp.zeros((2, 2)), np.array([0, 1])
    examples = jnp.eye(2), labels, jnp.eye(2), queries
    batches = np.array([[0, 1]])
    calls = [
        lambda: influence_functions(linear_fn, weights, *examples),
        lambda: trak(jax.random.key(0), linear_fn, [weights], *examples, dimension=2),
        lambda: tracin(linear_fn, [weights], *examples[:2], [1.0], *examples[2:]),
        lambda: example_attribution(linear_fn, weights, *examples[:2], batches, 0.1, *examples[2:]),
        lambda: example_attribution(
            linear_fn, weights, *examples[:2], batches, 0.1, *examples[2:], measure="margin"
        ),
    ]
    for call in calls:
        with pytest.raises(InputError, match="query_labels: "):
            call()
