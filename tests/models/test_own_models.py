"""Networks of the user's: every framework fits, and what does not fit is one line."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax.errors import InputError
from memjax.models import masked_batch_norm
from memjax.models.adapters import adapted
from memjax.models.checks import check_model
from memjax.models.registry import build_model
from memjax.runtime.mesh import make_mesh
from memjax.training.state import init_state
from memjax.training.step import Batch, Network, make_logits_fn, make_train_step

SOURCE = """
import functools
import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from typing import Any, Callable


class Base(nn.Module):
    num_classes: int

    def head(self, x):
        return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1))


class Pair(Base):
    @nn.compact
    def __call__(self, x):
        return self.head(x), x


class Scalar(Base):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x.reshape(x.shape[0], -1))[:, 0]


class Seven(Base):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(7)(x.reshape(x.shape[0], -1))


class Complex(Base):
    @nn.compact
    def __call__(self, x):
        return self.head(x).astype(jnp.complex64)


class Integer(Base):
    @nn.compact
    def __call__(self, x):
        return jnp.argsort(self.head(x))


class Probabilities(Base):
    @nn.compact
    def __call__(self, x):
        return nn.softmax(self.head(x))


class Sigmoid(Base):
    @nn.compact
    def __call__(self, x):
        return nn.sigmoid(self.head(x))


class LogProbabilities(Base):
    @nn.compact
    def __call__(self, x):
        return nn.log_softmax(self.head(x))


class Training(Base):
    @nn.compact
    def __call__(self, x, training=False):
        return self.head(nn.Dropout(0.5, deterministic=not training)(x))


class IsTraining(Base):
    @nn.compact
    def __call__(self, x, is_training):
        return self.head(x)


class Deterministic(Base):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return self.head(nn.Dropout(0.5, deterministic=deterministic)(x))


class FlagField(Base):
    deterministic: bool = True

    @nn.compact
    def __call__(self, x):
        return self.head(nn.Dropout(0.5, deterministic=self.deterministic)(x))


class TrainField(Base):
    train: bool = False

    @nn.compact
    def __call__(self, x):
        return self.head(nn.Dropout(0.5, deterministic=not self.train)(x))


class NeverDropped(Base):
    @nn.compact
    def __call__(self, x, train):
        return self.head(nn.Dropout(0.5, deterministic=True)(x))


class AlwaysDropped(Base):
    @nn.compact
    def __call__(self, x, train):
        return self.head(nn.Dropout(0.5, deterministic=False)(x))


class FrozenNorm(Base):
    @nn.compact
    def __call__(self, x, train):
        return self.head(nn.BatchNorm(use_running_average=True)(x))


class ExtraArgument(Base):
    @nn.compact
    def __call__(self, x, train, temperature):
        return self.head(x) / temperature


class Crashes(Base):
    @nn.compact
    def __call__(self, x):
        return self.head(x) @ jnp.ones((3, 3))


class NoParams(Base):
    @nn.compact
    def __call__(self, x):
        return jnp.zeros((x.shape[0], self.num_classes)) + x.sum()


class FixedSize(Base):
    @nn.compact
    def __call__(self, x):
        assert x.shape[0] in (1, 4)
        return self.head(x)


class MaskIgnored(Base):
    @nn.compact
    def __call__(self, x, train, mask=None):
        return self.head(nn.BatchNorm(use_running_average=not train)(x))


class NoMask(Base):
    @nn.compact
    def __call__(self, x, train):
        return self.head(nn.BatchNorm(use_running_average=not train)(x))


class MixesWithoutState(Base):
    @nn.compact
    def __call__(self, x):
        return self.head(x - x.mean(0, keepdims=True))


class LiteralMask(Base):
    @nn.compact
    def __call__(self, x, train, mask=None):
        return self.head(nn.BatchNorm(use_running_average=not train)(x, mask=mask))


class Spectral(Base):
    @nn.compact
    def __call__(self, x, train):
        x = x.reshape(x.shape[0], -1)
        return self.head(nn.SpectralNorm(nn.Dense(4))(x, update_stats=train))


class OwnRandomness(Base):
    @nn.compact
    def __call__(self, x, train):
        layer = nn.Dropout(0.5, rng_collection="stochastic_depth", deterministic=not train)
        return self.head(layer(x))


class Sows(Base):
    @nn.compact
    def __call__(self, x, train):
        logits = self.head(x)
        self.sow("losses", "penalty", jnp.sum(logits**2))
        self.sow("intermediates", "logits", logits)
        self.sow("monitor", "last", logits.mean(), reduce_fn=lambda old, new: new)
        return logits


class Boxed(Base):
    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), ("data", None))
        return nn.Dense(self.num_classes, kernel_init=init)(x.reshape(x.shape[0], -1))


class BoxedElsewhere(Base):
    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), ("embed", None))
        return nn.Dense(self.num_classes, kernel_init=init)(x.reshape(x.shape[0], -1))


class NnxBoxed(nnx.Module):
    def __init__(self, num_classes, rngs):
        init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("embed", "data"))
        self.head = nnx.Linear(9, num_classes, kernel_init=init, rngs=rngs)

    def __call__(self, x):
        return self.head(x.reshape(x.shape[0], -1))


class HalfParams(Base):
    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(self.num_classes, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16)
        return dense(x.reshape(x.shape[0], -1))


class Buffers(Base):
    @nn.compact
    def __call__(self, x):
        order = self.param("order", lambda key: jnp.arange(self.num_classes)[::-1])
        scale = self.variable("constants", "scale", lambda: jnp.float32(2.0))
        return self.head(x)[:, order] * scale.value


class Typed(Base):
    width: int = 4
    rate: float = 0.5
    widths: tuple[int, ...] = (4,)
    act: Callable = nn.relu
    bias: bool = True
    label: str | None = None
    free: Any = None

    @nn.compact
    def __call__(self, x):
        return self.head(self.act(x))


class Required(Base):
    width: int

    @nn.compact
    def __call__(self, x):
        return self.head(x)


class NnxNet(nnx.Module):
    def __init__(self, num_classes, image_shape, rngs, width: int = 4):
        size = image_shape[0] * image_shape[1] * image_shape[2]
        self.layers = nnx.List([nnx.Linear(size, width, rngs=rngs) for _ in range(1)])
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.drop_again = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x, mask=None):
        x = self.layers[0](x.reshape(x.shape[0], -1))
        x = self.norm(x, mask=None if mask is None else mask[:, None])
        return self.head(self.drop_again(self.drop(x)))


class NnxNoise(nnx.Module):
    def __init__(self, num_classes, image_shape, rngs):
        self.head = nnx.Linear(9, num_classes, rngs=rngs)
        self.rngs = rngs

    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        return self.head(x + jax.random.normal(self.rngs.noise(), x.shape))


class NnxJitted(nnx.Module):
    def __init__(self, num_classes, rngs):
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(9, num_classes, rngs=rngs)

    @nnx.jit
    def __call__(self, x):
        return self.head(self.drop(x.reshape(x.shape[0], -1)))


class NnxRemat(NnxJitted):
    @nnx.remat
    def __call__(self, x):
        return self.head(self.drop(x.reshape(x.shape[0], -1)))


class NnxJittedNoise(NnxNoise):
    @nnx.jit
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        return self.head(x + jax.random.normal(self.rngs.noise(), x.shape))


class NnxSequential(nnx.Sequential):
    def __init__(self, num_classes, rngs):
        super().__init__(lambda x: x.reshape(x.shape[0], -1), nnx.Linear(9, num_classes, rngs=rngs))


class EqxJitted(eqx.Module):
    drop: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, num_classes, key):
        self.drop = eqx.nn.Dropout(0.5)
        self.head = eqx.nn.Linear(9, num_classes, key=key)

    @eqx.filter_jit
    def __call__(self, x, key=None):
        return self.head(self.drop(x.ravel(), key=key))


class EqxNet(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    head: eqx.nn.Linear
    order: jax.Array

    def __init__(self, num_classes, image_shape, key, width: int = 4):
        keys = jax.random.split(key)
        size = image_shape[0] * image_shape[1] * image_shape[2]
        self.first = eqx.nn.Linear(size, width, key=keys[0])
        self.norm = eqx.nn.BatchNorm(width, axis_name="examples", mode="batch")
        self.drop = eqx.nn.Dropout(0.5)
        self.head = eqx.nn.Linear(width, num_classes, key=keys[1])
        self.order = jnp.arange(size)

    def __call__(self, x, state, key=None):
        x, state = self.norm(self.first(x.ravel()[self.order]), state)
        return self.head(self.drop(x, key=key)), state


class EqxNoKey(eqx.Module):
    drop: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, num_classes, key):
        self.drop = eqx.nn.Dropout(0.5)
        self.head = eqx.nn.Linear(9, num_classes, key=key)

    def __call__(self, x):
        return self.head(self.drop(x.ravel()))


def pair(num_classes, image_shape, width: int = 4):
    def init(key, images):
        size = image_shape[0] * image_shape[1] * image_shape[2]
        first = jax.random.normal(key, (size, width)) / 3
        return [(first, jnp.zeros(width)), (jnp.ones((width, num_classes)), {"steps": 3})]

    def apply(params, images, train, key=None, mask=None):
        (first, bias), (head, _) = params
        x = jnp.tanh(images.reshape(images.shape[0], -1) @ first + bias[None])
        return x @ head

    return init, apply


def pair_with_state(num_classes):
    def init(key, images):
        return {"head": jax.random.normal(key, (9, num_classes))}, {"count": jnp.int32(0)}

    def apply(params, state, images, train):
        count = state["count"] + 1 if train else state["count"]
        return images.reshape(images.shape[0], -1) @ params["head"], {"count": count}

    return init, apply


def pair_with_constants(num_classes):
    init, apply = pair_with_state(num_classes)

    def init_both(key, images):
        params, state = init(key, images)
        return params, {**state, "scale": jnp.ones(9)}

    def apply_both(params, state, images, train):
        logits, changed = apply(params, state, images, train)
        return logits, {**changed, "scale": state["scale"]}

    return init_both, apply_both


def pair_with_frozen_state(num_classes):
    init, apply = pair_with_state(num_classes)
    return init, lambda params, state, images: apply(params, state, images, False)


class Methods:
    @functools.partial(jax.jit, static_argnums=0)
    def init(self, key, images):
        return jax.random.normal(key, (9, 5)) / 3

    @functools.partial(jax.jit, static_argnums=0)
    def apply(self, params, images):
        return images.reshape(images.shape[0], -1) @ params


def pair_of_methods(num_classes):
    return Methods().init, Methods().apply


def with_defaults(num_classes, width=4, rate: Any = 0):
    return pair(num_classes, (3, 3, 1), width)


def linen_made(num_classes):
    return TrainField(num_classes)


def nothing(num_classes):
    return 3


def no_classes():
    return None
"""
SHAPE, CLASSES = (3, 3, 1), 5


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(SOURCE)
    return path


def check(source, name, has_padding=False, **fields):
    model = adapted(build_model(f"{source}:{name}", CLASSES, **fields))
    check_model(model, name, CLASSES, SHAPE, 4, 10, has_padding)
    return model


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Pair", "returns a tuple.*logits .n 5."),
        ("Scalar", r"returns an array \[n\]"),
        ("Seven", r"returns an array \[n 7\].*\[n 5\]"),
        ("Complex", "complex64"),
        ("Integer", "int32"),
        ("Probabilities", "softmax.*logits"),
        ("Sigmoid", "sigmoid.*logits"),
        ("Training", "argument 'training'.*rename"),
        ("IsTraining", "argument 'is_training'.*rename"),
        ("Deterministic", "argument 'deterministic'.*rename"),
        ("FlagField", "field 'deterministic'.*rename"),
        ("NeverDropped", "Dropout_0 drops nothing in training"),
        ("AlwaysDropped", "inference mode.*Dropout_0"),
        ("FrozenNorm", "batch_stats/BatchNorm_0/mean never change"),
        ("ExtraArgument", "requires the argument 'temperature'"),
        ("Crashes", "fails before training.*TypeError"),
        ("NoParams", "no parameters"),
        ("FixedSize", "inference mode.*AssertionError"),
        ("NnxNoise", "random numbers in inference mode"),
        ("NnxJittedNoise", "random numbers in inference mode"),
        ("EqxNoKey", "fails in training.*key"),
        ("pair_with_frozen_state", "statistics state/count never change in training"),
        ("nothing", "returned int; must be a pair of functions"),
        ("no_classes", "an argument num_classes"),
    ],
)
def test_what_does_not_fit_is_one_line(source, name, words):
    with pytest.raises(InputError, match=words) as error:
        check(source, name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["MaskIgnored", "NoMask", "MixesWithoutState", "EqxNet"])
def test_padding_that_changes_results_is_refused_and_only_where_there_is_some(source, name):
    check(source, name)
    with pytest.raises(InputError, match=r"masked_batch_norm.*must divide 10, for example 5"):
        check(source, name, has_padding=True)


@pytest.mark.parametrize(
    "name",
    [
        *("LogProbabilities", "TrainField", "LiteralMask", "Spectral", "OwnRandomness", "Sows"),
        *("Boxed", "HalfParams", "Buffers", "NnxNet", "pair", "pair_with_state", "linen_made"),
        *("NnxJitted", "NnxRemat", "NnxSequential", "EqxJitted", "pair_with_constants"),
        "pair_of_methods",
    ],
)
def test_padding_without_effect_is_taken_and_training_goes_on(source, name):
    model = check(source, name, has_padding=True)
    losses = trained_losses(model, mask=jnp.array([True, True, True, False]))
    assert losses[-1] < losses[0]


def test_an_equinox_model_trains_without_padding(source):
    losses = trained_losses(check(source, "EqxNet"), mask=None)
    assert losses[-1] < losses[0]


def trained_losses(model, mask, num_steps=30):
    """Losses of a few steps on four examples, inference mode, as `logits_fn` computes them."""
    network, optimizer = Network(model), optax.sgd(0.05)
    state = init_state(0, model, optimizer, SHAPE)
    images = jax.random.uniform(jax.random.key(1), (4, *SHAPE))
    batch = Batch(images, jnp.array([0, 1, 2, 3]), mask)
    step = jax.jit(make_train_step(network, optimizer))
    logits_fn, losses = jax.jit(make_logits_fn(network)), []
    for number in range(num_steps):
        logits = logits_fn(state.params, images)
        assert logits.shape == (4, CLASSES)
        assert logits.dtype == jnp.float32
        losses.append(
            optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)[:3].mean()
        )
        before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
        state, _ = step(state, batch, jax.random.key(number))
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == before
    return losses


@pytest.mark.parametrize("name", ["Boxed", "BoxedElsewhere", "NnxBoxed"])
def test_a_models_own_partitioning_never_meets_memjaxs_mesh(source, name):
    model, images = check(source, name), jnp.ones((4, *SHAPE))
    alone = model.init(jax.random.key(0), images)
    with jax.set_mesh(make_mesh(1, 4)):
        params = jax.jit(model.init)(jax.random.key(0), images)
        logits = jax.jit(lambda params: model.apply(params, images, train=False)[0])(params)
    jax.tree.map(np.testing.assert_array_equal, params, alone)
    assert logits.shape == (4, CLASSES)


def params_of(source, name):
    model = check(source, name)
    return model, model.init(jax.random.key(0), jnp.ones((1, *SHAPE)))


@pytest.mark.parametrize(
    ("name", "collections"),
    [
        ("Sows", {"params"}),
        ("Spectral", {"params", "batch_stats"}),
        ("Buffers", {"params", "constants", "fixed_params"}),
        ("NnxNet", {"params", "batch_stats"}),
        ("EqxNet", {"params", "state", "fixed_params"}),
        ("pair", {"params", "fixed_params"}),
        ("pair_with_state", {"params", "state"}),
    ],
)
def test_only_what_is_read_again_is_state_and_only_floats_are_trained(source, name, collections):
    _, params = params_of(source, name)
    assert set(params) == collections
    leaves = jax.tree.leaves(params["params"])
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)


@pytest.mark.parametrize(
    "name",
    ["OwnRandomness", "TrainField", "NnxNet", "EqxNet", "NnxJitted", "NnxRemat", "EqxJitted"],
)
def test_randomness_is_drawn_in_training_by_the_steps_key_and_never_in_inference(source, name):
    model, params = params_of(source, name)
    images = jax.random.uniform(jax.random.key(2), (4, *SHAPE))

    def logits(seed):
        keys = dict.fromkeys(("params", "dropout", "noise"), jax.random.key(seed))
        return model.apply(params, images, train=True, rngs=keys)[0]

    assert not np.allclose(logits(0), logits(1))
    np.testing.assert_array_equal(logits(0), logits(0))
    frozen = [model.apply(params, images, train=False)[0] for _ in range(2)]
    np.testing.assert_array_equal(*frozen)


def test_dropout_layers_of_one_nnx_module_draw_differently(source):
    model, params = params_of(source, "NnxNet")
    params["params"]["head"]["kernel"] = jnp.eye(4, CLASSES)
    keys = dict.fromkeys(("params", "dropout"), jax.random.key(0))
    images = jax.random.uniform(jax.random.key(2), (500, *SHAPE))
    logits = model.apply(params, images, train=True, rngs=keys)[0]
    # Two independent layers keep a quarter of the units, two alike a half.
    assert 0.2 < np.mean(np.asarray(logits[:, :4]) != 0) < 0.3


def test_equinox_is_batched_as_its_own_vmap_would(source):
    import equinox as eqx

    model, params = params_of(source, "EqxNet")
    module, state = eqx.nn.make_with_state(model.make.function)(
        num_classes=CLASSES, image_shape=SHAPE, key=jax.random.key(0)
    )
    images = jax.random.uniform(jax.random.key(2), (4, *SHAPE))
    inference = eqx.nn.inference_mode(module)
    expected, _ = jax.vmap(inference, in_axes=(0, None), axis_name="examples")(images, state)
    np.testing.assert_allclose(model.apply(params, images, train=False)[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"widht": 3}, "config.model.widht: did you mean width"),
        ({"width": 2.5}, "config.model.width=2.5: must be of type int"),
        ({"width": True}, "must be of type int"),
        ({"rate": "high"}, "config.model.rate='high': must be of type float"),
        ({"widths": (1.5,)}, "must be of type tuple"),
        ({"widths": "wide"}, "must be of type tuple"),
        ({"act": "reluu"}, "config.model.act='reluu'"),
        ({"bias": 1}, "must be of type bool"),
        ({"label": 3}, "config.model.label=3"),
        ({"num_classes": 3}, "num_classes"),
    ],
)
def test_fields_are_checked_against_the_class(source, given, words):
    with pytest.raises((InputError, TypeError), match=words):
        build_model(f"{source}:Typed", CLASSES, **given)


def test_fields_take_the_types_of_the_class(source):
    given = {"width": 3, "rate": 1, "widths": 8, "act": "gelu", "bias": False, "free": {"a": 1}}
    model = build_model(f"{source}:Typed", CLASSES, **given)
    assert (model.rate, model.widths, model.act) == (1.0, (8,), jax.nn.gelu)
    with pytest.raises(InputError, match=r"config.model.width: must be given"):
        build_model(f"{source}:Required", CLASSES)
    nnx_model = build_model(f"{source}:NnxNet", CLASSES, width=7)
    assert nnx_model.make.fields == (("width", 7),)
    with pytest.raises(InputError, match=r"width=1.5: must be of type int"):
        build_model(f"{source}:EqxNet", CLASSES, width=1.5)


def test_an_integer_default_without_a_type_takes_other_numbers(source):
    model = build_model(f"{source}:with_defaults", CLASSES, width=2.5, rate=0.5)
    assert model.make.fields == (("rate", 0.5), ("width", 2.5))
    with pytest.raises(InputError, match=r"width='wide': must be of type int \| float"):
        build_model(f"{source}:with_defaults", CLASSES, width="wide")


def test_a_file_that_ends_python_is_one_line(tmp_path):
    (tmp_path / "ends.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(InputError, match=r"ends.py:Net': it calls sys.exit; .*below `if __name__"):
        build_model(f"{tmp_path / 'ends.py'}:Net", CLASSES)


def test_an_unchanged_file_gives_equal_models_and_a_changed_one_others(source):
    one, two = (build_model(f"{source}:NnxNet", CLASSES) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    source.write_text(SOURCE + "\n# changed\n")
    assert build_model(f"{source}:NnxNet", CLASSES) != one


def test_masked_batch_norm_is_batch_norm_of_the_real_examples():
    from flax import linen as nn, nnx

    x = jax.random.normal(jax.random.key(0), (4, 2, 2, 3))
    mask = jnp.array([True, True, True, False])
    expected, _ = nn.BatchNorm(use_running_average=False).init_with_output(jax.random.key(0), x[:3])

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, mask):
            return masked_batch_norm(nn.BatchNorm(use_running_average=False), x, mask)

    found, _ = Net().init_with_output(jax.random.key(0), x, mask)
    np.testing.assert_allclose(found[:3], expected, rtol=1e-4, atol=1e-5)
    found = masked_batch_norm(nnx.BatchNorm(3, rngs=nnx.Rngs(0)), x, mask)
    np.testing.assert_allclose(found[:3], expected, rtol=1e-4, atol=1e-5)
