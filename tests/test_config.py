"""The config is checked as a whole, with one line that names the field."""

import dataclasses
import math

import pytest

from memjax import presets
from memjax.config import Config, default_config, flatten, resolve, unflatten
from memjax.errors import InputError


def test_defaults_resolve_to_the_defaults():
    assert resolve(default_config()).as_dict() == Config().as_dict()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("corruption.fraction", -0.1, "[0, 1]"),
        ("corruption.fraction", 1.5, "[0, 1]"),
        ("corruption.fraction", math.nan, "finite"),
        ("corruption.kind", "random_label", "did you mean random_labels"),
        ("train.batch_size", 0, "at least 1"),
        ("train.batch_size", 2.5, "type int"),
        ("train.num_epochs", True, "type int"),
        ("dataset.source", "tdfs", "did you mean tfds"),
        ("dataset.source", "npz", "path"),
        ("dataset.classes", (1, 1), "different"),
        ("optimizer.name", "sdg", "did you mean sgd"),
        ("optimizer.learning_rate", 0.0, "(0, inf)"),
        ("regularizer.dropout", 1.0, "0.99"),
        ("augmentation.crop", -1, "at least 0"),
        ("augmentation.flip", 1, "type bool"),
        ("augmentation.mixup", -0.1, "[0, inf)"),
        ("train.label_smoothing", 1.0, "[0, 0.99]"),
        ("ensemble.subset_fraction", 0.0, "(0, 1]"),
        ("run.member_devices", 3, "divide"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name, value, words):
    section, field = name.split(".")
    config = default_config().to_dict()
    config[section][field] = value
    with pytest.raises(InputError) as error:
        resolve(config)
    assert section in str(error.value)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"trian": {}}, "did you mean train"),
        ({"train": {"batchsize": 3}}, "did you mean batch_size"),
        ({"train": 3}, "section"),
        ({"model": {"name": 3}}, "name"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(config, words):
    with pytest.raises(InputError, match=words):
        resolve(config)


def test_an_integer_is_taken_where_a_float_is_meant():
    assert resolve({"corruption": {"fraction": 1}}).corruption.fraction == 1.0


def test_unique_labels_allow_no_validation_examples():
    config = {"corruption": {"kind": "random_inputs+unique_labels"}}
    with pytest.raises(InputError, match="num_validation"):
        resolve(config)
    assert resolve(config | {"dataset": {"num_validation": 0}}).dataset.num_validation == 0


def test_fields_that_change_no_result_do_not_change_the_hash():
    one = resolve({"run": {"num_devices": 1}, "dataset": {"data_dir": "a"}})
    other = resolve({"run": {"num_devices": 2}, "dataset": {"data_dir": "b"}})
    assert one.science_hash() == other.science_hash()
    assert one.science_hash() != resolve({"seed": 1}).science_hash()


def test_a_config_survives_its_json_form():
    config = resolve(presets.cifar_cnn("quick"))
    flat = config.science() | config.without_science()
    assert resolve(unflatten(flat)) == config
    assert flatten(unflatten(flat)) == flat


def test_every_field_says_what_it_allows_or_has_a_plain_type():
    for section in dataclasses.fields(Config):
        default = getattr(Config(), section.name)
        if not dataclasses.is_dataclass(default):
            continue
        for field in dataclasses.fields(default):
            value = getattr(default, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                assert "allowed" in field.metadata, f"{section.name}.{field.name}"


@pytest.mark.parametrize(
    "preset",
    [
        presets.digits_mlp,
        presets.mnist_mlp,
        presets.cifar_cnn,
        presets.cifar_resnet,
        presets.cifar_vit,
    ],
)
@pytest.mark.parametrize("variant", ["", "quick"])
def test_presets_resolve(preset, variant):
    assert resolve(preset(variant)).train.num_epochs >= 1


def test_random_labels_are_to_be_learned_without_explicit_regularization():
    """What the recipe adds stays with the optimiser; the plain config's own fields come back."""
    recipe = resolve(presets.cifar_resnet())
    plain = resolve(presets.without_regularization(presets.cifar_resnet()))
    assert recipe.augmentation != plain.augmentation == Config().augmentation
    assert recipe.regularizer != plain.regularizer == Config().regularizer
    assert recipe.train.label_smoothing > plain.train.label_smoothing == 0
    assert plain.train.stop_at_train_accuracy == 1
    assert plain.model == recipe.model
    assert dataclasses.replace(plain.optimizer, decay_mask="kernels") == recipe.optimizer


def test_an_unknown_variant_is_refused():
    with pytest.raises(InputError, match="quick"):
        presets.mnist_mlp("fast")
