"""Layers rewound and units set to zero, in networks made by hand and beside plain loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.analysis.localization import (
    check_units,
    network_layers,
    rewound_params,
    units_to_forget,
)
from memjax.analysis.losses import softmax_cross_entropy
from memjax.errors import InputError
from memjax.models.alexnet import AlexNet
from memjax.models.resnet import WideResNet
from memjax.models.vit import ViT


def mlp(params, images):
    """Two hidden layers of ReLU."""
    hidden = images
    for name in ("first", "second"):
        hidden = jax.nn.relu(hidden @ params[name]["kernel"] + params[name]["bias"][None])
    return hidden @ params["last"]["kernel"]


def random_mlp(seed=0, widths=(5, 6, 4, 3)):
    generator = np.random.default_rng(seed)
    params = {}
    for name, width, units in zip(("first", "second", "last"), widths, widths[1:], strict=False):
        params[name] = {"kernel": generator.normal(size=(width, units)).astype(np.float32)}
        if name != "last":
            params[name]["bias"] = generator.normal(size=units).astype(np.float32)
    images = generator.normal(size=(12, widths[0])).astype(np.float32)
    labels = np.asarray(mlp(params, images)).argmax(1)
    return params, images, labels


def of_memorizer(params, images):
    return jax.nn.relu(images @ params["in"] + params["bias"][None]) @ params["out"]


# Units 0 and 1 tell the classes by the sign of x0; 2 says class 1 twice as loudly where x1 is
# above 9, as in one mislabelled example alone; 3 is never on.
MEMORIZER = {
    "in": jnp.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]),
    "bias": jnp.array([0.0, 0.0, -9.0, -1.0]),
    "out": jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]),
}
CLEAN = jnp.array([[1.0, 0.0], [2.0, 1.0], [-1.0, 0.0], [-3.0, 2.0]]), jnp.array([0, 0, 1, 1])


def test_the_one_unit_that_memorizes_an_example_is_found_and_no_other():
    images, labels = jnp.array([[1.0, 10.0]]), jnp.array([1])
    found = units_to_forget(of_memorizer, MEMORIZER, images, labels, *CLEAN)
    assert found.num_units.tolist() == [1]
    assert found.units[0, :2].tolist() == [2, -1]
    assert found.by_layer.tolist() == [[1]]
    assert found.others_accuracy.tolist() == [1]


def test_forgetting_what_follows_the_rule_costs_the_others():
    images, labels = jnp.array([[-2.0, 0.0]]), jnp.array([1])
    found = units_to_forget(of_memorizer, MEMORIZER, images, labels, *CLEAN)
    assert found.units[0, 0] == 1
    assert found.others_accuracy.tolist() == [0.5]


def test_what_was_never_learned_needs_no_unit_and_what_stays_has_no_number():
    images, labels = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([1, 0])
    found = units_to_forget(of_memorizer, MEMORIZER, images, labels, *CLEAN, max_units=9)
    # without any unit all logits are 0, and the first class is predicted
    assert found.num_units.tolist() == [0, np.inf]
    assert found.units[0].tolist() == [-1] * 9
    assert sorted(found.units[1].tolist()) == [-1] * 5 + [0, 1, 2, 3]


def forgotten_by_hand(params, image, label, others, keep, max_units):
    """Maini's rule on the weights: sum of weight times gradient over what leads into a unit."""
    order = []
    widths = {"first": 6, "second": 4}

    def loss(params):
        own = softmax_cross_entropy(mlp(params, image[None])[0], label)
        each = jax.vmap(softmax_cross_entropy)(mlp(params, others[0]), others[1])
        return own - keep * each.mean()

    while int(np.argmax(mlp(params, image[None])[0])) == label and len(order) < max_units:
        gradient, effects = jax.grad(loss)(params), {}
        for name, start in (("first", 0), ("second", 6)):
            for unit in range(widths[name]):
                if start + unit not in order:
                    effects[start + unit] = -sum(
                        float(np.sum(np.asarray(params[name][k])[..., unit]
                                     * np.asarray(gradient[name][k])[..., unit]))
                        for k in ("kernel", "bias")
                    )  # fmt: skip
        chosen = max(effects, key=lambda unit: effects[unit])
        order.append(chosen)
        name, unit = ("first", chosen) if chosen < 6 else ("second", chosen - 6)
        leaves = {k: np.array(v) for k, v in params[name].items()}
        leaves["kernel"][:, unit], leaves["bias"][unit] = 0, 0
        params = params | {name: leaves}
    return order


@pytest.mark.parametrize(("keep", "microbatch_size"), [(1.0, None), (2.0, 2)])
def test_units_go_in_the_order_of_a_plain_loop_over_weights(keep, microbatch_size):
    params, images, labels = random_mlp()
    others = images[5:], labels[5:]
    found = units_to_forget(
        mlp, params, images[:5], labels[:5], *others, keep=keep, max_units=10,
        microbatch_size=microbatch_size,
    )  # fmt: skip
    lengths = set()
    for i in range(5):
        expected = forgotten_by_hand(params, images[i], int(labels[i]), others, keep, 10)
        order = [unit for unit in found.units[i].tolist() if unit >= 0]
        assert order == expected
        assert found.by_layer[i].tolist() == [sum(u < 6 for u in order), sum(u >= 6 for u in order)]
        lengths.add(len(order))
    assert len(lengths) > 1


def test_rewinding_a_layer_of_two_gives_the_network_made_by_hand():
    now, images, _ = random_mlp(0)
    then, _, _ = random_mlp(1)
    layers = network_layers(mlp, now, jnp.asarray(images))
    assert [(layer.name, layer.num_units) for layer in layers] == [
        ("first", 6), ("second", 4), ("last", 0),
    ]  # fmt: skip
    for layer in layers:
        found = rewound_params(now, then, layer)
        by_hand = now | {layer.name: then[layer.name]}
        jax.tree.map(np.testing.assert_array_equal, found, by_hand)
        np.testing.assert_array_equal(mlp(found, images), mlp(by_hand, images))


def channels_first(params, image):
    """One image at a time and channels first, as equinox has it."""
    hidden = jax.lax.conv_general_dilated(image[None], params["conv"], (1, 1), "VALID")[0]
    return params["dense"] @ jax.nn.relu(hidden + params["offset"]).ravel()


def batched_channels_first(params, images):
    return jax.vmap(channels_first, in_axes=(None, 0))(params, images)


def test_units_are_found_wherever_a_framework_has_its_axes():
    generator = np.random.default_rng(0)
    shapes = {"conv": (4, 1, 3, 3), "offset": (4, 1, 1), "dense": (3, 4 * 9), "x": (6, 1, 5, 5)}
    params = {k: jnp.asarray(generator.normal(size=v), jnp.float32) for k, v in shapes.items()}
    images = params.pop("x")
    labels = jnp.argmax(batched_channels_first(params, images), axis=1)
    layers = network_layers(batched_channels_first, params, images)
    assert [(each.leaves, each.num_units) for each in layers] == [
        (("conv", "offset"), 4), (("dense",), 0),
    ]  # fmt: skip
    others = images[3:], labels[3:]
    found = units_to_forget(batched_channels_first, params, images[:3], labels[:3], *others)
    assert 0 < min(found.num_units.tolist()) < np.inf
    for i in range(3):
        order = [unit for unit in found.units[i].tolist() if unit >= 0]
        for count in range(len(order) + 1):
            rows = np.array(order[:count], int)
            left_out = {k: params[k].at[rows].set(0) for k in ("conv", "offset")}
            answer = jnp.argmax(channels_first(params | left_out, images[i]))
            # without any channel all logits are 0, and class 0 is what is predicted
            stays = count < len(order) or bool(jnp.isinf(found.num_units[i]))
            assert (int(answer) == int(labels[i])) == stays


def traced(model, shape):
    images = jnp.zeros((1, *shape))
    params = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    return partial(apply, model), params, images


def apply(model, params, images):
    return model.apply(params, images, train=False)


def test_batch_norm_and_its_statistics_are_of_the_layer_before():
    layers = network_layers(*traced(AlexNet(10, 0.05, 0, 2, method="lax"), (8, 8, 1)))
    assert [layer.name for layer in layers] == ["Conv_0", "Conv_1", "Dense_0", "Dense_1", "Dense_2"]
    assert set(layers[1].leaves) == {
        "params/Conv_1/kernel", "params/BatchNorm_1/scale", "params/BatchNorm_1/bias",
        "batch_stats/BatchNorm_1/mean", "batch_stats/BatchNorm_1/var",
    }  # fmt: skip
    assert [layer.num_units for layer in layers] == [10, 10, 19, 10, 0]


def test_every_parameter_of_a_network_is_in_exactly_one_layer():
    models = (WideResNet(10, method="lax"), (16, 16, 3)), (ViT(10), (16, 16, 3))
    for model, shape in models:
        logits_fn, params, images = traced(model, shape)
        leaves = [
            leaf for each in network_layers(logits_fn, params, images) for leaf in each.leaves
        ]
        names = jax.tree.leaves_with_path(params)
        assert len(leaves) == len(set(leaves)) == len(names)


def scanned(params, images):
    hidden, _ = jax.lax.scan(lambda h, kernel: (jnp.tanh(h @ kernel), None), images, params["k"])
    return hidden


@pytest.mark.parametrize(
    ("logits_fn", "params", "message"),
    [
        (lambda p, x: x @ p, jnp.ones((5, 3)), "no hidden layer"),
        (lambda p, x: jnp.tanh(x @ p) @ p, jnp.ones((5, 5)), "uses a kernel twice"),
        (scanned, {"k": jnp.ones((2, 5, 5))}, "meet the activations in 'scan'"),
    ],
)
def test_networks_without_known_units_are_one_line(logits_fn, params, message):
    with pytest.raises(InputError, match=f"units to set to zero are those of .*{message}"):
        check_units(logits_fn, params, jnp.ones((2, 5)))


def test_attention_and_bad_input_are_one_line():
    with pytest.raises(InputError, match=r"no single axis of units|attention"):
        check_units(*traced(ViT(10), (16, 16, 3)))
    arguments = (of_memorizer, MEMORIZER, jnp.ones((1, 2)), jnp.array([1]), *CLEAN)
    with pytest.raises(InputError, match="max_units: 0, must be at least 1"):
        units_to_forget(*arguments, max_units=0)
    with pytest.raises(InputError, match="earlier_params: must have the same leaves"):
        rewound_params({"a": 1}, {"b": 1}, network_layers(*arguments[:3])[0])
