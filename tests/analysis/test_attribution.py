"""Attribution against finite differences, closed forms, and training without the examples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax.analysis.attribution import example_attribution, self_influence
from memjax.analysis.attribution_retrain import retrain, retrained_measures
from memjax.analysis.attribution_run import make_problem, symmetric_second_derivative
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.memorization import leave_one_out_ridge
from memjax.analysis.scores import margin
from memjax.analysis.sensitivity import run_sgd
from memjax.analysis.trust import (
    attribution_trust,
    linear_datamodeling_score,
    random_subsets,
)
from memjax.errors import InputError

NUM_EXAMPLES, NUM_PIXELS, NUM_CLASSES, NUM_QUERIES = 6, 4, 3, 5
LABELS = np.array([0, 2, 1, 0, 1, 2], np.int32)
QUERY_LABELS = np.array([1, 1, 0, 2, 0], np.int32)
# The last batch of an epoch is padded, and one batch holds an example twice.
BATCHES = np.array([[3, 1, 5], [0, 4, -1], [2, 5, 5], [1, 0, 3], [2, -1, -1], [4, 3, 0]], np.int32)
NUM_STEPS = len(BATCHES)
LEARNING_RATES = np.linspace(0.7, 0.2, NUM_STEPS)
SGD = {"momentum": 0.8, "weight_decay": 0.03}


def mlp(params, images):
    hidden = jnp.tanh(images @ params["first"] + params["bias"][None])
    return hidden @ params["second"]


def mlp_inputs(dtype=np.float64):
    rng = np.random.default_rng(4)
    params = {
        "first": rng.normal(size=(NUM_PIXELS, 4)).astype(dtype),
        "bias": rng.normal(size=4).astype(dtype),
        "second": rng.normal(size=(4, NUM_CLASSES)).astype(dtype),
    }
    images = rng.uniform(size=(NUM_EXAMPLES, NUM_PIXELS)).astype(dtype)
    queries = rng.uniform(size=(NUM_QUERIES, NUM_PIXELS)).astype(dtype)
    return jax.tree.map(jnp.asarray, (params, images, queries))


def cnn(params, images):
    images = jax.lax.conv_general_dilated(
        images, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    images = jax.lax.reduce_window(
        jax.nn.relu(images), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    return images.reshape(images.shape[0], -1) @ params["dense"]


def attribute(params, images, queries, logits_fn=mlp, **options):
    defaults = {"learning_rate": LEARNING_RATES, "query_labels": QUERY_LABELS}
    if "optimizer" not in options:
        defaults |= SGD
    return example_attribution(
        logits_fn, params, images, LABELS, BATCHES, query_images=queries, **defaults | options
    )


def python_loop(tx, params, images, queries, weights, logits_fn=mlp, measure=softmax_cross_entropy):
    """Returns the queries' measures after a plain loop of weighted optax updates."""
    state = tx.init(params)
    for batch in BATCHES:
        real = batch[batch >= 0]

        def loss(params, real=real):
            losses = jax.vmap(softmax_cross_entropy)(logits_fn(params, images[real]), LABELS[real])
            return jnp.mean(losses * weights[real])

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    return jax.vmap(measure)(logits_fn(params, queries), jnp.asarray(QUERY_LABELS))


def schedule(step):
    return jnp.asarray(LEARNING_RATES, jnp.result_type(float))[step]


def sgd(**options):
    options = SGD | options
    return optax.chain(
        optax.add_decayed_weights(options["weight_decay"]),
        optax.sgd(
            lambda step: jnp.asarray(LEARNING_RATES, jnp.result_type(float))[step],
            options["momentum"],
        ),
    )


quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def finite_differences(measures):
    """Returns d measures / d weight [queries n] by central differences in float64."""
    step = 1e-5
    shifts = step * np.eye(NUM_EXAMPLES)
    measures = quick_jit(jax.vmap(measures))
    return ((measures(1 + shifts) - measures(1 - shifts)) / (2 * step)).T


@pytest.mark.parametrize("measure", ["loss", "margin"])
def test_equals_float64_finite_differences_to_1e_6(measure):
    with jax.enable_x64():
        params, images, queries = mlp_inputs()
        of_query = {"loss": softmax_cross_entropy, "margin": margin}[measure]
        expected = finite_differences(
            lambda weights: python_loop(sgd(), params, images, queries, weights, measure=of_query)
        )
        found = attribute(params, images, queries, measure=measure)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "tx",
    [
        optax.adam(0.05),
        optax.adamw(0.05, weight_decay=0.1),
        optax.chain(optax.clip_by_global_norm(0.2), optax.sgd(0.3, momentum=0.9, nesterov=True)),
        optax.sgd(optax.cosine_decay_schedule(0.5, NUM_STEPS), momentum=0.5),
    ],
    ids=["adam", "adamw", "clipping, nesterov", "schedule"],
)
def test_any_optax_optimiser_equals_finite_differences(tx):
    with jax.enable_x64():
        params, images, queries = mlp_inputs()
        expected = finite_differences(
            lambda weights: python_loop(tx, params, images, queries, weights)
        )
        found = attribute(params, images, queries, learning_rate=None, optimizer=tx)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_the_closed_form_of_sgd_equals_the_vjp_of_the_optimiser():
    with jax.enable_x64():
        params, images, queries = mlp_inputs()
        for options in ({"momentum": 0.0}, {}):
            found = attribute(params, images, queries, **options)
            tx = sgd(**options)
            expected = attribute(params, images, queries, learning_rate=None, optimizer=tx)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


def squared_error(logits, target):
    return (logits[0] - target) ** 2 / 2


def linear(weights, images):
    return images @ weights[:, None]


def regression():
    rng = np.random.default_rng(7)
    images, targets = rng.normal(size=(NUM_EXAMPLES, NUM_PIXELS)), rng.normal(size=NUM_EXAMPLES)
    queries, answers = rng.normal(size=(NUM_QUERIES, NUM_PIXELS)), rng.normal(size=NUM_QUERIES)
    return images, targets, queries, answers, rng.normal(size=NUM_PIXELS)


def test_equals_the_closed_form_of_linear_regression_to_1e_9():
    """p' = (I - r X'X / b) p + r X'y / b, so that a weight moves p by r x_i (y_i - x_i p) / b."""
    images, targets, queries, answers, start = regression()
    weights, moved = start, np.zeros((NUM_PIXELS, NUM_EXAMPLES))
    for batch, rate in zip(BATCHES, LEARNING_RATES, strict=True):
        real = batch[batch >= 0]
        x, y = images[real], targets[real]
        moved = moved - rate * x.T @ (x @ moved) / len(real)
        for example in real:
            residual = targets[example] - images[example] @ weights
            moved[:, example] += rate * images[example] * residual / len(real)
        weights = weights + rate * x.T @ (y - x @ weights) / len(real)
    expected = (queries @ weights - answers)[:, None] * (queries @ moved)
    with jax.enable_x64():
        found = example_attribution(
            linear, start, images, targets, BATCHES, LEARNING_RATES, queries, answers,
            example_loss=squared_error,
        )  # fmt: skip
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)


def test_converged_ridge_regression_has_the_closed_form_and_predicts_leave_one_out():
    """At the minimum a weight moves the prediction of a query by x_q' H^-1 x_i (y_i - x_i p)."""
    images, targets, _, _, start = regression()
    penalty, steps = 0.5, 1000
    hessian = images.T @ images + penalty * np.eye(NUM_PIXELS)
    rate = NUM_EXAMPLES / np.linalg.eigvalsh(hessian).max()
    with jax.enable_x64():
        arguments = (images, targets, np.tile(np.arange(NUM_EXAMPLES), (steps, 1)), rate)
        options = {"weight_decay": penalty / NUM_EXAMPLES, "example_loss": squared_error}
        found = example_attribution(
            linear, start, *arguments, images, targets, measure=lambda logits, _: logits[0],
            **options,
        )  # fmt: skip
        exact = leave_one_out_ridge(jnp.asarray(images), jnp.asarray(targets), penalty)
        residuals = targets - exact.in_sample
        hat = images @ np.linalg.solve(hessian, images.T)
        np.testing.assert_allclose(found, hat * residuals[None], rtol=1e-6, atol=1e-9)
        # A rank-one downdate: to leave i out is the infinitesimal step over (1 - leverage).
        left_out = exact.in_sample - np.diag(found) / (1 - exact.leverage)
        np.testing.assert_allclose(left_out, exact.left_out, rtol=1e-6)
        # Training without it is the same again.
        without = retrained_measures(
            linear, start, *arguments, 1 - np.eye(NUM_EXAMPLES), images, targets,
            measure=lambda logits, _: logits[0], **options,
        )  # fmt: skip
        np.testing.assert_allclose(np.diag(without), exact.left_out, rtol=1e-6)


@pytest.mark.parametrize("num_devices", [1, 4])
def test_cnn_equals_reverse_mode_through_a_python_loop_on_every_number_of_devices(num_devices):
    rng = np.random.default_rng(1)
    params = {"kernel": 0.5 * rng.normal(size=(3, 3, 1, 3)), "dense": rng.normal(size=(12, 3))}
    images, queries = rng.uniform(size=(6, 4, 4, 1)), rng.uniform(size=(5, 4, 4, 1))
    as_float32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    params, images, queries = jax.tree.map(as_float32, (params, images, queries))
    loop = functools.partial(python_loop, sgd(), params, images, queries, logits_fn=cnn)
    expected = quick_jit(jax.jacrev(loop))(jnp.ones(NUM_EXAMPLES))
    mesh = jax.make_mesh((num_devices,), ("data",))
    found = attribute(params, images, queries, logits_fn=cnn, mesh=mesh)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5 * scale)
    assert found.dtype == jnp.float32
    weights = 1 - np.eye(NUM_EXAMPLES)[:5]
    arguments = (cnn, params, images, LABELS, BATCHES, LEARNING_RATES, weights)
    again = retrained_measures(*arguments, queries, QUERY_LABELS, mesh=mesh, **SGD)
    expected = quick_jit(jax.vmap(loop))(jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(again, expected, rtol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_every": 2},
        {"query_chunk_size": 2},
        {"query_chunk_size": 1, "checkpoint_every": 4},
        {"query_chunk_size": 1, "checkpoint_every": 4, "mesh": (2, 2)},
        {"optimizer": sgd(), "learning_rate": None, "checkpoint_every": 4, "mesh": (4,)},
    ],
)
def test_performance_options_never_change_the_result(options, monkeypatch):
    with jax.enable_x64():
        params, images, queries = mlp_inputs()
        probes = {"probe_steps": [NUM_STEPS, 0, 3]}
        expected = attribute(params, images, queries, **probes)
        if "mesh" in options:
            axes = ("data", "member")[: len(options["mesh"])]
            options = options | {"mesh": jax.make_mesh(options["mesh"], axes)}
        found = attribute(params, images, queries, **probes, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)
        monkeypatch.setattr("memjax.memory.memory_budget", lambda device=None: 1)
        found = attribute(params, images, queries, **probes, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-14)


def test_a_probe_is_what_a_training_that_ends_there_gives():
    with jax.enable_x64():
        params, images, queries = mlp_inputs()
        found = attribute(params, images, queries, probe_steps=[3, 0])
        expected = example_attribution(
            mlp, params, images, LABELS, BATCHES[:3], LEARNING_RATES[:3], queries, QUERY_LABELS,
            **SGD,
        )  # fmt: skip
        np.testing.assert_allclose(found[0], expected, rtol=1e-11)
        np.testing.assert_array_equal(found[1], 0)


def test_self_influence_is_the_diagonal():
    with jax.enable_x64():
        params, images, _ = mlp_inputs()
        arguments = (mlp, params, images, LABELS, BATCHES, LEARNING_RATES)
        whole = example_attribution(*arguments, images, LABELS, **SGD)
        found = self_influence(*arguments, **SGD, query_chunk_size=4)
        np.testing.assert_allclose(found, np.diag(whole), rtol=1e-11)
        some = self_influence(*arguments, **SGD, indices=[4, 1])
        np.testing.assert_allclose(some, np.diag(whole)[np.array([4, 1])], rtol=1e-11)


def test_is_right_for_custom_gradients_whose_jacobian_is_not_symmetric():
    @jax.custom_vjp
    def squash(values):
        return jnp.sin(values)

    squash.defvjp(lambda values: (jnp.sin(values), values), lambda values, bar: (bar * values**2,))

    @jax.custom_jvp
    def swap(values):
        return jnp.sin(values)

    @swap.defjvp
    def _(primals, tangents):
        return swap(primals[0]), tangents[0] * primals[0][..., ::-1]

    with jax.enable_x64():
        params, images, queries = mlp_inputs()
        # What follows a false gradient need not stay small: the rates are low here.
        rates = 0.05 * LEARNING_RATES
        tx = optax.sgd(lambda step: jnp.asarray(rates)[step])
        options = {"learning_rate": rates, "momentum": 0.0, "weight_decay": 0.0}
        for fn in (squash, swap):

            def logits_fn(params, images, fn=fn):
                return fn(images @ params["first"] + params["bias"][None]) @ params["second"]

            loop = functools.partial(python_loop, tx, params, images, queries)
            loop = functools.partial(loop, logits_fn=logits_fn)
            expected = quick_jit(jax.jacrev(loop))(jnp.ones(NUM_EXAMPLES))
            found = attribute(params, images, queries, logits_fn=logits_fn, **options)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


def test_retraining_with_weights_of_1_is_run_sgd_and_with_0_is_without_the_example():
    with jax.enable_x64():
        params, images, queries = mlp_inputs()
        weights = np.ones((3, NUM_EXAMPLES))
        weights[1, 2] = 0
        weights[2, [0, 5]] = 0
        arguments = (mlp, params, images, LABELS, BATCHES, LEARNING_RATES)
        found = retrain(*arguments, weights, **SGD, chunk_size=2)
        expected = run_sgd(*arguments, **SGD)
        for name, leaf in expected.items():
            np.testing.assert_allclose(found[name][0], leaf, rtol=1e-12)
        measures = retrained_measures(*arguments, weights, queries, QUERY_LABELS, **SGD)
        for row, loss in zip(weights, measures, strict=True):
            again = python_loop(sgd(), params, images, queries, jnp.asarray(row))
            np.testing.assert_allclose(loss, again, rtol=1e-10)


def trust_of(learning_rate, momentum, steps=60, **options):
    """A 2-layer net on 60 made-up examples; returns the Trust and what it is computed from."""
    rng = np.random.default_rng(2)
    images = rng.normal(size=(60, 8)).astype(np.float32)
    labels = rng.integers(3, size=60)
    params = {
        "first": 0.4 * rng.normal(size=(8, 16)), "bias": np.zeros(16),
        "second": 0.3 * rng.normal(size=(16, 3)),
    }  # fmt: skip
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    batches = np.stack([rng.permutation(60)[:20] for _ in range(steps)])
    queries = (rng.normal(size=(9, 8)).astype(np.float32), rng.integers(3, size=9))
    arguments = (mlp, params, images, labels, batches, learning_rate)
    found = example_attribution(*arguments, *queries, momentum=momentum)
    trust = attribution_trust(*arguments, *queries, found, momentum=momentum, fraction=0.1)
    weights = random_subsets(99, 100, 60, 0.1).astype(np.float32)
    real = retrained_measures(*arguments, weights, *queries, momentum=momentum)
    return trust, float(np.nanmean(linear_datamodeling_score(weights @ found.T, real)))


def test_trust_predicts_the_lds_of_many_other_retrainings():
    trust, lds = trust_of(0.1, 0.5)
    assert trust.verdict == "predictive"
    assert trust.correlation[0] > 0.999  # a derivative is what small differences are
    assert trust.relative_error[0] < 0.02
    assert lds > 0.8
    assert trust.lds_interval[0] - 0.05 <= lds <= trust.lds_interval[1] + 0.05
    assert str(trust).startswith("predictive: the attribution predicts removals. ")


def test_a_chaotic_training_is_said_to_be_one():
    trust, lds = trust_of(2.0, 0.9)
    assert trust.verdict == "chaotic"
    assert abs(lds) < 0.3
    assert "this training is chaotic" in str(trust)
    assert "smaller learning rate" in str(trust)


def test_a_wrong_attribution_is_not_trusted():
    rng = np.random.default_rng(0)
    params, images, queries = mlp_inputs(np.float32)
    arguments = (mlp, params, images, LABELS, BATCHES, 0.1, queries, QUERY_LABELS)
    wrong = rng.normal(size=(NUM_QUERIES, NUM_EXAMPLES))
    trust = attribution_trust(*arguments, wrong, fraction=0.3)
    assert trust.verdict == "chaotic"
    right = attribution_trust(*arguments, example_attribution(*arguments), fraction=0.3)
    assert right.lds > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_images": np.ones((2, 3))}, r"query_images have shape \(2, 3\), must be \[queri"),
        ({"query_images": np.ones((0, NUM_PIXELS))}, "query_images have shape"),
        ({"query_labels": [1]}, r"query_labels have shape \(1,\), must be \[5\]"),
        ({"images": jnp.ones((6, 4), jnp.bfloat16)}, "images are bfloat16"),
        ({"params": {"w": jnp.ones(3, jnp.bfloat16)}}, "params are bfloat16"),
        ({"query_images": jnp.ones((5, 4), jnp.bfloat16)}, "query_images are bfloat16"),
        ({"measure": "accuracy"}, "measure is 'accuracy', must be 'loss', 'margin' or"),
        ({"probe_steps": [7]}, r"probe_steps hold 7, must be in 0\.\.6"),
        ({"batches": [[0, 6]]}, "batches hold 6, must be below 6"),
        ({"learning_rate": None}, "learning_rate is None"),
        ({"learning_rate": [0.1]}, "learning_rate has shape"),
        ({"optimizer": optax.adam(0.1)}, "learning_rate is given beside optimizer"),
        (
            {"optimizer": optax.adam(0.1), "learning_rate": None, "momentum": 0.9},
            "momentum is given beside optimizer",
        ),
        ({"query_chunk_size": 0}, "query_chunk_size is 0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    params, images, queries = mlp_inputs(np.float32)
    arguments = {
        "params": params, "images": images, "labels": LABELS, "batches": BATCHES,
        "learning_rate": 0.1, "query_images": queries, "query_labels": QUERY_LABELS,
    }  # fmt: skip
    with pytest.raises(InputError, match=message) as raised:
        example_attribution(mlp, **arguments | change)
    assert "\n" not in str(raised.value)


def test_bad_weights_and_directions_are_one_clear_line():
    params, images, queries = mlp_inputs(np.float32)
    arguments = (mlp, params, images, LABELS, BATCHES, 0.1)
    asked = (*arguments, queries, QUERY_LABELS)
    for call, message in [
        (lambda: retrain(*arguments, np.ones((2, 5))), r"weights have shape \(2, 5\)"),
        (lambda: retrain(*arguments, np.full((1, 6), np.nan)), "weights are not all finite"),
        (lambda: self_influence(*arguments, indices=[6]), "indices hold 6"),
        (lambda: attribution_trust(*asked, np.ones((5, 5))), r"attribution has shape \(5, 5\)"),
        (lambda: attribution_trust(*asked, np.ones((5, 6)), fraction=0), "fraction is 0"),
        (lambda: attribution_trust(*asked, np.ones((5, 6)), num_directions=1), "num_directions"),
        (lambda: attribution_trust(*asked, np.ones((5, 6)), small_step=1), "small_step is 1"),
        (lambda: linear_datamodeling_score([1.0], [1.0]), "shapes"),
    ]:
        with pytest.raises(InputError, match=message):
            call()


@jax.custom_jvp
def relu(x):
    """A straight-through estimator, by the name of a function of JAX."""
    return jnp.where(x > 0, x, 0.0)


@relu.defjvp
def _relu_jvp(primals, tangents):
    return relu(*primals), tangents[0] * jnp.exp(-primals[0])


def test_a_custom_derivative_is_not_taken_for_jax_s_by_its_name():
    def own(params, images):
        return relu(images @ params["first"] + params["bias"][None]) @ params["second"]

    def jaxs(params, images):
        return jax.nn.relu(images @ params["first"] + params["bias"][None]) @ params["second"]

    params, images, _ = mlp_inputs(np.float32)
    for logits_fn, is_symmetric in ((own, False), (jaxs, True)):
        problem = make_problem(
            logits_fn, params, images, LABELS, BATCHES, 0.1, momentum=0.0, weight_decay=0.0,
            optimizer=None, example_loss=softmax_cross_entropy,
        )  # fmt: skip
        assert symmetric_second_derivative(problem) is is_symmetric


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_where_nothing_moves_there_is_nothing_to_trust():
    params, images, queries = mlp_inputs(np.float32)
    asked = (mlp, params, images, LABELS, BATCHES, 0.0, queries, QUERY_LABELS)
    trust = attribution_trust(*asked, np.ones((NUM_QUERIES, NUM_EXAMPLES)), num_directions=4)
    assert trust.verdict == "nothing moved"
    assert str(trust).startswith("nothing moved: no weight changes")
    with pytest.raises(InputError, match="attribution is not all finite"):
        attribution_trust(*asked, np.full((NUM_QUERIES, NUM_EXAMPLES), np.nan))


def test_a_measure_that_is_no_number_of_one_example_is_refused():
    params, images, queries = mlp_inputs(np.float32)
    with pytest.raises(InputError, match="measure: must return one float"):
        attribute(params, images, queries, measure=lambda logits, label: logits)


def test_what_is_no_array_is_refused_by_name():
    with pytest.raises(InputError, match="images: must be a numeric array"):
        example_attribution(
            mlp, mlp_inputs()[0], np.array([["x"]]), [0], [[0]], 0.1, np.ones((1, 4)), [0]
        )
    with pytest.raises(InputError, match=r"params\['name'\]: must be a numeric array"):
        example_attribution(
            mlp, {"name": "mlp"}, np.ones((2, 4)), [0, 1], [[0, 1]], 0.1, np.ones((1, 4)), [0]
        )
