"""The loss-sensitivity against finite differences, a closed form, and unrolled training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.sensitivity import loss_sensitivity, run_sgd
from memjax.errors import InputError

NUM_EXAMPLES, NUM_PIXELS, NUM_CLASSES = 7, 5, 3
LABELS = np.array([0, 2, 1, 0, 0, 2, 1], np.int32)
# An epoch whose last batch is padded, part of another, and a batch that holds an example twice.
BATCHES = np.array([[3, 1, 5], [0, 4, 2], [6, -1, -1], [5, 6, 0], [4, 2, 4]], np.int32)
NUM_STEPS = len(BATCHES)
PROBES = [2, 5, 0, 5]
# One entry a step: a schedule.
LEARNING_RATES = np.linspace(0.6, 0.2, NUM_STEPS)


def mlp(params, images):
    hidden = jnp.tanh(images @ params["first"] + params["bias"][None])
    return hidden @ params["second"]


def mlp_inputs(dtype=np.float64):
    rng = np.random.default_rng(0)
    params = {
        "first": rng.normal(size=(NUM_PIXELS, 4)).astype(dtype),
        "bias": rng.normal(size=4).astype(dtype),
        "second": rng.normal(size=(4, NUM_CLASSES)).astype(dtype),
    }
    images = rng.uniform(size=(NUM_EXAMPLES, NUM_PIXELS)).astype(dtype)
    return jax.tree.map(jnp.asarray, params), jnp.asarray(images)


def cnn(params, images):
    for kernel in params["kernels"]:
        images = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        images = jax.nn.relu(images)
    images = jax.lax.reduce_window(
        images, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    return images.reshape(images.shape[0], -1) @ params["dense"]


def cnn_inputs():
    rng = np.random.default_rng(1)
    params = {
        "kernels": [0.5 * rng.normal(size=(3, 3, 1, 3)), 0.3 * rng.normal(size=(3, 3, 3, 4))],
        "dense": 0.3 * rng.normal(size=(16, NUM_CLASSES)),
    }
    images = rng.uniform(size=(NUM_EXAMPLES, 4, 4, 1))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, images))


def optimizer(learning_rates=LEARNING_RATES, momentum=0.0, weight_decay=0.0):
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(lambda step: jnp.asarray(learning_rates)[step], momentum=momentum),
    )


TX = optimizer(momentum=0.8, weight_decay=0.05)
OPTIONS = {"momentum": 0.8, "weight_decay": 0.05}
CNN_TX = optimizer(0.1 * LEARNING_RATES, momentum=0.8)


def unrolled_losses(logits_fn, tx, params, train_images, images, probes, num_classes=1):
    """Returns L_t [k classes], by training in a Python loop on `train_images`."""

    def example_losses(params, images, labels):
        return jax.vmap(softmax_cross_entropy)(logits_fn(params, images), labels)

    def average_loss(params):
        losses = example_losses(params, images, jnp.asarray(LABELS))
        if num_classes == 1:
            return jnp.mean(losses)[None]
        return jnp.stack([losses[i == LABELS].sum() / len(LABELS) for i in range(num_classes)])

    state = tx.init(params)
    losses = {0: average_loss(params)}
    for step, batch in enumerate(BATCHES[: max(probes)]):
        real = batch[batch >= 0]
        gradient = jax.grad(
            lambda params, real=real: jnp.mean(
                example_losses(params, train_images[real], LABELS[real])
            )
        )(params)
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        losses[step + 1] = average_loss(params)
    return jnp.stack([losses[step] for step in probes])


# An unrolled loop is long to compile and quick to run.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.partial(quick_jit, static_argnums=(0, 1, 4, 5))
def unrolled_gradients(logits_fn, tx, params, images, probes=tuple(PROBES), num_classes=1):
    """Returns dL_t/dx [k classes n pixels] through training, and the direct terms."""

    def losses(train_images, images):
        return unrolled_losses(logits_fn, tx, params, train_images, images, probes, num_classes)

    through, direct = jax.jacrev(losses, (0, 1))(images, images)
    shape = (len(probes), num_classes, NUM_EXAMPLES, -1)
    return through.reshape(shape), direct.reshape(shape)


def mlp_sensitivity(params, images, **options):
    arguments = {
        "labels": LABELS, "batches": BATCHES, "learning_rate": LEARNING_RATES,
        "probe_steps": PROBES, "num_classes": NUM_CLASSES,
    }  # fmt: skip
    return loss_sensitivity(mlp, params, images, **arguments | OPTIONS | options)


def test_equals_float64_finite_differences_to_1e_6():
    with jax.enable_x64():
        params, images = mlp_inputs()
        found = mlp_sensitivity(params, images).per_step
        step = 1e-5

        @quick_jit
        @jax.vmap
        def losses(images):
            return unrolled_losses(mlp, TX, params, images, images, PROBES)[:, 0]

        shifts = step * jnp.eye(images.size).reshape(-1, *images.shape)
        slopes = (losses(images[None] + shifts) - losses(images[None] - shifts)) / (2 * step)
        expected = jnp.abs(slopes.T.reshape(len(PROBES), *images.shape)).sum(-1)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def linear_regression_gradients(weights, images, targets, learning_rate, probe):
    """Returns dL_t/dx [n pixels] of L_t = mean (x w - y)^2 / 2, in NumPy.

    An update is w' = (I - r X'X / b) w + r X'y / b, so a change of pixel d of example i at step s
    moves w by -r / b (e_d (x_i w_s - y_i) + x_i w_sd), which later updates multiply by
    I - r X'X / b.
    """
    moved = np.zeros((weights.size, *images.shape))  # d w / d pixel
    for batch in BATCHES[:probe]:
        real = batch[batch >= 0]
        rate = learning_rate / len(real)
        moved -= rate * np.einsum("bp,bq,qnd->pnd", images[real], images[real], moved)
        gradient = np.zeros_like(weights)
        for example in real:
            residual = images[example] @ weights - targets[example]
            moved[:, example] -= rate * residual * np.eye(weights.size)
            moved[:, example] -= rate * np.outer(images[example], weights)
            gradient += residual * images[example]
        weights = weights - rate * gradient
    residuals = (images @ weights - targets) / len(images)
    return np.einsum("p,pnd->nd", residuals @ images, moved) + np.outer(residuals, weights)


def test_equals_the_closed_form_of_linear_regression_to_1e_9():
    rng = np.random.default_rng(3)
    images, targets = rng.normal(size=(NUM_EXAMPLES, NUM_PIXELS)), rng.normal(size=NUM_EXAMPLES)
    weights = rng.normal(size=NUM_PIXELS)
    with jax.enable_x64():
        found = loss_sensitivity(
            lambda weights, images: images @ weights[:, None],
            weights, images, targets, BATCHES, 0.3, PROBES, norm_order=2,
            example_loss=lambda logits, target: (logits[0] - target) ** 2 / 2,
        )  # fmt: skip
        expected = [
            np.linalg.norm(
                linear_regression_gradients(weights, images, targets, 0.3, probe), axis=-1
            )
            for probe in PROBES
        ]
        np.testing.assert_allclose(found.per_step, expected, rtol=1e-9)
        np.testing.assert_allclose(found.mean, np.mean(expected, axis=0), rtol=1e-9)


@pytest.mark.parametrize("include_direct", [True, False])
@pytest.mark.parametrize("norm_order", [1, 2, np.inf])
def test_equals_the_gradient_of_unrolled_optax_training(norm_order, include_direct):
    with jax.enable_x64():
        params, images = mlp_inputs()
        through, direct = unrolled_gradients(mlp, TX, params, images, num_classes=NUM_CLASSES)
        by_class = through + direct if include_direct else through
        norms = jnp.linalg.norm(by_class.sum(1), ord=norm_order, axis=-1)
        class_norms = jnp.linalg.norm(by_class, ord=norm_order, axis=-1).mean(0)
        per_class = [class_norms[:, j == LABELS].mean(1) for j in range(NUM_CLASSES)]
        options = {"norm_order": norm_order, "include_direct": include_direct}
        plain = mlp_sensitivity(params, images, num_classes=None, **options)
        split = mlp_sensitivity(params, images, **options)
        np.testing.assert_allclose(plain.per_step, norms, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(split.per_step, norms, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(split.per_class, np.stack(per_class, axis=1), rtol=1e-10)
        assert plain.per_class is None


@pytest.mark.parametrize("num_devices", [1, 4])
def test_cnn_equals_unrolled_training_on_every_number_of_devices(num_devices):
    params, images = cnn_inputs()
    expected = jnp.abs(sum(unrolled_gradients(cnn, CNN_TX, params, images, (3, 1)))[:, 0]).sum(-1)
    found = loss_sensitivity(
        cnn, params, images, LABELS, BATCHES, 0.1 * LEARNING_RATES, [3, 1], momentum=0.8,
        mesh=jax.make_mesh((num_devices,), ("data",)),
    )  # fmt: skip
    np.testing.assert_allclose(found.per_step, expected, rtol=2e-4)
    assert found.per_step.dtype == found.mean.dtype == jnp.float32


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_every": 2},
        {"probe_chunk_size": 1, "checkpoint_every": 3},
        {"probe_chunk_size": 3},
        {"microbatch_size": 4},
        {"mesh": (2, 2), "probe_chunk_size": 1, "checkpoint_every": 2},
    ],
)
def test_performance_options_never_change_the_result(options):
    with jax.enable_x64():
        params, images = mlp_inputs()
        expected = mlp_sensitivity(params, images)
        if "mesh" in options:
            axes = ("data", "member")[: len(options["mesh"])]
            options = options | {"mesh": jax.make_mesh(options["mesh"], axes)}
        found = mlp_sensitivity(params, images, **options)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-11), found, expected)
        if options.keys() == {"checkpoint_every"}:  # the same operations: bitwise the same
            np.testing.assert_array_equal(found.per_step, expected.per_step)


@pytest.mark.parametrize("adjoints", [1, 2, 4])
def test_whatever_memory_there_is_chunks_over_classes_change_nothing(adjoints, monkeypatch):
    """One class after the other, or some of them, and the trajectory's starts on the host."""
    with jax.enable_x64():
        params, images = mlp_inputs()
        expected = mlp_sensitivity(params, images)
        size = images.nbytes + 4 * sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        monkeypatch.setattr("memjax.memory.memory_budget", lambda device=None: 4 * adjoints * size)
        found = mlp_sensitivity(params, images, checkpoint_every=3)
        np.testing.assert_allclose(found.per_step, expected.per_step, rtol=1e-9)
        np.testing.assert_allclose(found.per_class, expected.per_class, rtol=1e-9)


def test_a_probe_at_step_0_sees_the_direct_term_only():
    with jax.enable_x64():
        params, images = mlp_inputs()
        found = mlp_sensitivity(params, images, probe_steps=[0, 0]).per_step

        @jax.jit
        def average_loss(images):
            return jnp.mean(
                jax.vmap(softmax_cross_entropy)(mlp(params, images), jnp.asarray(LABELS))
            )

        expected = jnp.abs(jax.grad(average_loss)(images)).sum(-1)
        np.testing.assert_allclose(found[0], expected, rtol=1e-12)
        without = mlp_sensitivity(params, images, probe_steps=[0, 0], include_direct=False)
        np.testing.assert_array_equal(without.mean, np.zeros(NUM_EXAMPLES))


def test_probes_come_back_in_the_order_asked_for():
    with jax.enable_x64():
        params, images = mlp_inputs()
        found = mlp_sensitivity(params, images, probe_steps=[1, 5, 0, 3]).per_step
        swapped = mlp_sensitivity(params, images, probe_steps=[3, 0, 1, 5]).per_step
        np.testing.assert_allclose(found, swapped[np.array([2, 3, 1, 0])], rtol=1e-12)
        assert not np.allclose(found[0], found[3])


def test_padding_has_no_influence():
    # Example 0 is what rows of padding are filled with; here no real batch has it.
    batches = np.where(BATCHES == 0, 1, BATCHES)
    padded = batches.copy()
    padded[2] = [-7, 6, -2]
    with jax.enable_x64():
        params, images = mlp_inputs()
        found = mlp_sensitivity(params, images, batches=padded, include_direct=False)
        expected = mlp_sensitivity(params, images, batches=batches, include_direct=False)
        np.testing.assert_allclose(found.per_step, expected.per_step, rtol=1e-11)
        np.testing.assert_array_equal(found.per_step[:, 0], 0)
        assert (found.per_step[1, 1:] > 0).all()


def test_a_class_without_images_is_nan_and_only_it():
    with jax.enable_x64():
        params, images = mlp_inputs()
        labels = np.where(LABELS == 1, 0, LABELS)
        found = mlp_sensitivity(params, images, labels=labels).per_class
        np.testing.assert_array_equal(np.isnan(found), [[False, True, False]] * 3)
        np.testing.assert_array_equal(found[1, ::2], 0)


def test_run_sgd_equals_optax_and_leaves_other_leaves_alone():
    def logits_fn(params, images):
        # Where the statistics are .5 and the count is 2, this is `mlp`.
        scale = jax.lax.stop_gradient(params["statistics"]) * params["count"]
        return mlp(params["trained"], images * scale)

    @quick_jit
    def trained_with_optax(params, images):
        state = TX.init(params)
        for batch in BATCHES:
            real = batch[batch >= 0]
            gradient = jax.grad(
                lambda params, real=real: jnp.mean(
                    jax.vmap(softmax_cross_entropy)(mlp(params, images[real]), LABELS[real])
                )
            )(params)
            updates, state = TX.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    with jax.enable_x64():
        params, images = mlp_inputs()
        tree = {"trained": params, "statistics": jnp.float32(0.5), "count": jnp.int32(2)}
        decay = {"trained": 0.05, "statistics": 0.0, "count": 0.0}
        arguments = (logits_fn, tree, images, LABELS, BATCHES, LEARNING_RATES)
        options = {"momentum": 0.8, "weight_decay": decay}
        found = run_sgd(*arguments, **options)
        expected = trained_with_optax(params, images)
        assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
        jax.tree.map(assert_close, found["trained"], expected)
        assert found["statistics"] == 0.5
        assert found["count"] == 2
        assert found["count"].dtype == jnp.int32
        sensitivity = loss_sensitivity(*arguments, probe_steps=PROBES, **options).per_step
        plain = mlp_sensitivity(params, images, num_classes=None).per_step
        np.testing.assert_allclose(sensitivity, plain, rtol=1e-11)


def test_is_the_derivative_of_the_update_also_for_custom_gradients():
    # This "gradient" is no gradient: its Jacobian is not symmetric.
    @jax.custom_vjp
    def squash(values):
        return jnp.sin(values)

    squash.defvjp(lambda values: (jnp.sin(values), values), lambda values, bar: (bar * values**2,))

    def logits_fn(params, images):
        return squash(images @ params["first"]) @ params["second"]

    with jax.enable_x64():
        params, images = mlp_inputs()
        params = {"first": params["first"], "second": params["second"]}
        expected = jnp.abs(sum(unrolled_gradients(logits_fn, TX, params, images))[:, 0]).sum(-1)
        found = loss_sensitivity(
            logits_fn, params, images, LABELS, BATCHES, LEARNING_RATES, PROBES, **OPTIONS
        )
        np.testing.assert_allclose(found.per_step, expected, rtol=1e-10)


def test_a_second_call_does_not_trace_the_network_again():
    traces = []

    def logits_fn(params, images):
        traces.append(1)
        return mlp(params, images)

    params, images = mlp_inputs(np.float32)
    arguments = (images, LABELS, BATCHES, 0.1, [2, 5])
    loss_sensitivity(logits_fn, params, *arguments)
    count = len(traces)
    loss_sensitivity(logits_fn, jax.tree.map(lambda leaf: 2 * leaf, params), *arguments)
    assert 0 < count == len(traces)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probe_steps": [9]}, "probe_steps hold 9, must be in 0..5"),
        ({"probe_steps": [-1]}, "probe_steps hold -1"),
        ({"probe_steps": []}, "probe_steps have shape"),
        ({"probe_steps": [1.5]}, "probe_steps are float64, must be integers"),
        ({"batches": [[0, 7]]}, "batches hold 7, must be below 7"),
        ({"batches": np.zeros((0, 3), int)}, "batches have shape"),
        ({"batches": [0, 1]}, "batches have shape"),
        ({"batches": [[0, 1], [-1, -1]]}, r"batches\[1\] is all padding"),
        ({"images": np.zeros((7, 5), np.uint8)}, "images are uint8"),
        ({"images": np.zeros((0, 5), np.float32)}, "images: must be"),
        ({"labels": LABELS[:3]}, r"labels: must be \[7\]"),
        ({"learning_rate": [0.1, 0.2]}, "learning_rate has shape"),
        ({"norm_order": 3}, "norm_order is 3"),
        ({"num_classes": 2}, "labels are in 0..2, must be in 0..1"),
        ({"params": {"count": np.int32(1)}}, "no leaf of params has a derivative"),
        ({"weight_decay": {"other": 0.1}}, "weight_decay must be"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"probe_chunk_size": 0}, "probe_chunk_size is 0"),
        ({"microbatch_size": -1}, "microbatch_size is -1"),
    ],
)
def test_bad_input_is_one_clear_line(change, message):
    params, images = mlp_inputs(np.float32)
    arguments = {
        "params": params, "images": images, "labels": LABELS, "batches": BATCHES,
        "learning_rate": 0.1, "probe_steps": [5],
    }  # fmt: skip
    with pytest.raises(InputError, match=message):
        loss_sensitivity(mlp, **arguments | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": None}, "learning_rate is None"),
        ({"learning_rate": np.nan}, "learning_rate is nan, must be finite"),
        ({"learning_rate": np.array([0.1, np.inf, 0.1, 0.1, 0.1])}, "learning_rate is inf"),
        ({"momentum": None}, "momentum: None, must be one number"),
        ({"weight_decay": np.nan}, "weight_decay: nan"),
        ({"labels": None}, "labels: must be"),
        ({"labels": LABELS + 1}, "labels: 3 "),
    ],
)
def test_a_training_that_is_none_is_one_clear_line(change, message):
    params, images = mlp_inputs(np.float32)
    arguments = {"labels": LABELS, "batches": BATCHES, "learning_rate": 0.1} | change
    with pytest.raises(InputError, match=message):
        run_sgd(mlp, params, images, **arguments)
    with pytest.raises(InputError, match=message):
        loss_sensitivity(mlp, params, images, probe_steps=[1], **arguments)


@pytest.mark.parametrize("size", [2.5, True, "2"])
def test_a_microbatch_of_no_whole_size_is_one_clear_line(size):
    params, images = mlp_inputs(np.float32)
    with pytest.raises(InputError, match=f"microbatch_size is {size!r}"):
        loss_sensitivity(mlp, params, images, LABELS, BATCHES, 0.1, [1], microbatch_size=size)
