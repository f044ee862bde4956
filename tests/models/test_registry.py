import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.errors import InputError
from memjax.models.adapters import adapted
from memjax.models.alexnet import AlexNet
from memjax.models.mlp import MLP
from memjax.models.registry import build_model, num_params
from memjax.models.regularizers import Regularizers

OWN = """
from flax import linen as nn
from memjax.models.regularizers import Regularizers

class Plain(nn.Module):
    num_classes: int
    width: int = 4

    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.Dense(self.width)(images.reshape(images.shape[0], -1)))
        return nn.Dense(self.num_classes)(hidden)

class Full(nn.Module):
    num_classes: int
    regularizers: Regularizers

    @nn.compact
    def __call__(self, images, train, mask=None):
        return nn.Dense(self.num_classes)(images.reshape(images.shape[0], -1))

class NoClasses(nn.Module):
    width: int = 4

class NotAModule:
    pass
"""
IMAGES = jnp.ones((3, 2, 2, 1))


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own_model.py"
    path.write_text(OWN)
    return path


def test_known_names_build_with_fields_and_regularizers():
    regularizers = Regularizers(dropout=0.5)
    model = build_model("mlp", 10, regularizers, widths=(8,))
    assert isinstance(model, MLP)
    assert (model.num_classes, model.widths, model.regularizers) == (10, (8,), regularizers)
    assert isinstance(build_model("alexnet", 10, width_factor=0.5), AlexNet)
    assert build_model("memjax.models.mlp:MLP", 10) == MLP(10)


@pytest.mark.parametrize("name", ["mlpp", "alexnett", "AlexNet", "resnet50"])
def test_unknown_name_is_refused_with_what_there_is(name):
    with pytest.raises(InputError, match=f"{name}.*mlp, alexnet"):
        build_model(name, 10)


def test_nearest_names_are_suggested():
    with pytest.raises(InputError, match="did you mean alexnet"):
        build_model("AlexNett", 10)
    with pytest.raises(InputError, match=r"width: did you mean widths.*activation.*widths"):
        build_model("mlp", 10, width=(8,))


@pytest.mark.parametrize("field", ["parent", "dropout"])
def test_unknown_field_is_refused(field):
    with pytest.raises(InputError, match=f"{field}: .*allowed: crop, initialization"):
        build_model("alexnet", 10, **{field: 1})


def test_field_out_of_range_is_one_line():
    with pytest.raises(InputError, match="widths"):
        build_model("mlp", 10, widths=(0,))
    with pytest.raises(InputError, match="width_factor='wide': must be of type float"):
        build_model("alexnet", 10, width_factor="wide")


def test_own_model_file_keeps_its_parameter_names_and_takes_what_it_takes(own):
    model = build_model(f"{own}:Plain", 5, width=6)
    own_model = adapted(model)
    variables = own_model.init(jax.random.key(0), IMAGES)
    assert set(variables["params"]) == {"Dense_0", "Dense_1"}
    assert num_params(variables) == (4 + 1) * 6 + (6 + 1) * 5
    mask = jnp.array([True, True, False])
    logits, _ = own_model.apply(variables, IMAGES, train=True, mask=mask)
    assert logits.shape == (3, 5)
    np.testing.assert_array_equal(logits, own_model.apply(variables, IMAGES, train=False)[0])


def test_own_model_gets_the_regularizers_it_has_a_field_for(own):
    regularizers = Regularizers(dropout=0.1)
    assert build_model(f"{own}:Full", 5, regularizers).regularizers == regularizers
    for hidden in (regularizers, Regularizers(hidden_noise=0.1)):
        with pytest.raises(InputError, match=r"Plain.*dropout and hidden_noise must be 0"):
            build_model(f"{own}:Plain", 5, hidden)
    build_model(f"{own}:Plain", 5, Regularizers(input_dropout=0.5, input_noise=1.0))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{own}:Missing", "Missing"),
        ("{own}:NotAModule", "NotAModule"),
        ("{own}:NoClasses", "num_classes"),
        ("{own}x.py:Plain", "no file"),
        ("no_such_package.module:Plain", "no_such_package"),
        ("{broken}:Plain", "SyntaxError"),
    ],
)
def test_own_model_that_cannot_be_loaded_is_one_line(own, tmp_path, name, message):
    broken = tmp_path / "broken.py"
    broken.write_text("def")
    with pytest.raises(InputError, match=message) as error:
        build_model(name.format(own=own, broken=broken), 5)
    assert "\n" not in str(error.value)


def test_parameters_are_counted_without_running_statistics():
    variables = {
        "params": {"a": jnp.zeros((2, 3)), "b": jnp.zeros(())},
        "batch_stats": jnp.zeros(9),
    }
    assert num_params(variables) == 7
    assert num_params([jnp.zeros(4), jnp.zeros((2, 2))]) == 8
