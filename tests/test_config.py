"""The config is checked as a whole, with one line that names the field."""

import dataclasses
import math

import pytest

from memjax import presets
from memjax.config import (
    Config,
    default_config,
    flat_values,
    flatten,
    resolve,
    saved_science,
    unflatten,
)
from memjax.config_effects import EFFECTS, without_effect
from memjax.errors import InputError


def test_defaults_resolve_to_the_defaults():
    assert resolve(default_config()).as_dict() == Config().as_dict()


ADVERSARIAL = "has an effect only with adversarial training; here "
ADVERSARIAL += "config.regularizer.adversarial_weight=0.0"
STEP = "has an effect only with the schedule step; here config.optimizer.schedule='constant'"
DRAWS = "has an effect only with a kind of corruption that draws examples; here "
SEED = "must be an integer of at least 0, at most 2147483647"
UNIT = "must be a finite float32 number in [0, 1]"
POSITIVE = "must be a finite float32 number in (0, inf)"

# (what is set, the line that is said); the first field is the one that is named.
BAD = [
    # out of range
    ({"seed": -1}, f"config.seed=-1: {SEED}"),
    ({"seed": 2**31}, f"config.seed=2147483648: {SEED}"),
    ({"corruption.seed": 2**31, "corruption.kind": "random_labels"}, f"2147483648: {SEED}"),
    ({"corruption.seed": 2**32 + 1, "corruption.kind": "random_labels"}, f"4294967297: {SEED}"),
    ({"dataset.seed": 2**31}, f"config.dataset.seed=2147483648: {SEED}"),
    ({"seed": 2**31 - 2, "ensemble.size": 3}, "config.seed=2147483646: must be at most 2147483645"),
    ({"corruption.fraction": -0.1}, f"config.corruption.fraction=-0.1: {UNIT}"),
    ({"corruption.fraction": 1.5}, f"config.corruption.fraction=1.5: {UNIT}"),
    ({"corruption.fraction": math.nan}, f"config.corruption.fraction=nan: {UNIT}"),
    ({"train.batch_size": 0}, "config.train.batch_size=0: must be an integer of at least 1"),
    ({"train.num_epochs": 0}, "config.train.num_epochs=0: must be an integer of at least 1"),
    ({"train.num_epochs": 2**40}, "config.train.num_epochs=1099511627776: must be an integer"),
    ({"train.log_every_epochs": 0}, "config.train.log_every_epochs=0: must be"),
    ({"train.logs_per_epoch": 0}, "config.train.logs_per_epoch=0: must be"),
    (
        {"train.logs_per_epoch": 2, "train.log_every_epochs": 2},
        "config.train.logs_per_epoch=2: has an effect only with a log every epoch",
    ),
    ({"train.stop_at_train_accuracy": 1.01}, f"stop_at_train_accuracy=1.01: {UNIT}"),
    ({"checkpoint.every_epochs": -1}, "config.checkpoint.every_epochs=-1: must be an integer of"),
    ({"dataset.num_train": -1}, "config.dataset.num_train=-1: must be an integer of at least 0"),
    ({"dataset.num_validation": -2}, "config.dataset.num_validation=-2: must be an integer of at"),
    ({"dataset.image_size": -8}, "config.dataset.image_size=-8: must be an integer of at least 0"),
    ({"optimizer.learning_rate": 0.0}, f"config.optimizer.learning_rate=0.0: {POSITIVE}"),
    ({"optimizer.learning_rate": math.inf}, f"config.optimizer.learning_rate=inf: {POSITIVE}"),
    ({"optimizer.learning_rate": 1e-50}, f"config.optimizer.learning_rate=1e-50: {POSITIVE}"),
    ({"optimizer.learning_rate": 1e39}, f"config.optimizer.learning_rate=1e+39: {POSITIVE}"),
    ({"optimizer.momentum": 1.1}, f"config.optimizer.momentum=1.1: {UNIT}"),
    (
        {"optimizer.decay_factor": 0.0},
        "decay_factor=0.0: must be a finite float32 number in (0, 1]",
    ),
    ({"optimizer.decay_epochs": 0.0}, f"config.optimizer.decay_epochs=0.0: {POSITIVE}"),
    (
        {"optimizer.warmup_epochs": -1.0},
        "warmup_epochs=-1.0: must be a finite float32 number in [0",
    ),
    (
        {"regularizer.dropout": 1.0},
        "config.regularizer.dropout=1.0: must be a finite float32 number",
    ),
    ({"regularizer.weight_decay": -1e-4}, "config.regularizer.weight_decay=-0.0001: must be"),
    ({"regularizer.adversarial_weight": 2}, f"config.regularizer.adversarial_weight=2.0: {UNIT}"),
    ({"augmentation.crop": -1}, "config.augmentation.crop=-1: must be an integer of at least 0"),
    ({"augmentation.flip": 1}, "config.augmentation.flip=1: must be of type bool"),
    ({"augmentation.mixup": -0.1}, "config.augmentation.mixup=-0.1: must be a finite"),
    ({"train.label_smoothing": 1.0}, "config.train.label_smoothing=1.0: must be a finite"),
    (
        {"optimizer.betas": (0.9, 0.99)},
        "config.optimizer.betas=(0.9, 0.99): has an effect only with adam, adamw or lion; here "
        "config.optimizer.name='sgd'",
    ),
    (
        {"optimizer.eps": 1e-3, "optimizer.name": "lion"},
        "config.optimizer.eps=0.001: has an effect only with adam, adamw, rmsprop or adagrad",
    ),
    (
        {"optimizer.decay_mask": "kernels"},
        "config.optimizer.decay_mask='kernels': has an effect only with weight decay; here "
        "config.regularizer.weight_decay=0.0",
    ),
    ({"ensemble.size": 0}, "config.ensemble.size=0: must be an integer of at least 1"),
    (
        {"ensemble.subset_fraction": 0.0},
        "subset_fraction=0.0: must be a finite float32 number in (0",
    ),
    ({"run.data_memory_share": 2.0}, f"config.run.data_memory_share=2.0: {UNIT}"),
    ({"run.evaluation_batch_size": 0}, "config.run.evaluation_batch_size=0: must be an integer"),
    # of another type, or no such name
    ({"train.batch_size": 2.5}, "config.train.batch_size=2.5: must be of type int"),
    ({"train.num_epochs": True}, "config.train.num_epochs=True: must be of type int"),
    ({"seed": "7"}, "config.seed='7': must be of type int"),
    ({"seed": None}, "config.seed=None: must be of type int"),
    ({"run.deterministic": 1}, "config.run.deterministic=1: must be of type bool"),
    ({"dataset.path": 3}, "config.dataset.path=3: must be of type str"),
    ({"dataset.classes": 3}, "config.dataset.classes=3: must be of type tuple"),
    ({"dataset.source": "tdfs"}, "config.dataset.source='tdfs': did you mean tfds?"),
    ({"dataset.standardize": "pixel"}, "config.dataset.standardize='pixel': "),
    ({"optimizer.name": "sdg"}, "config.optimizer.name='sdg': did you mean sgd?"),
    ({"optimizer.schedule": "cosin"}, "config.optimizer.schedule='cosin': did you mean cosine?"),
    ({"train.compute_dtype": "float16"}, "config.train.compute_dtype='float16': did you mean"),
    ({"corruption.kind": "random_label"}, "kind='random_label': did you mean random_labels?"),
    ({"corruption.kind": ""}, "config.corruption.kind='': allowed: none, random_inputs"),
    ({"corruption.kind": "random_labels+random_labels"}, "names random_labels twice"),
    ({"corruption.kind": "random_labels+wrong_labels"}, "at most one kind may change the labels"),
    ({"corruption.kind": "none+random_labels"}, "none goes with nothing else"),
    ({"model.width": math.nan}, "config.model.width=nan: must be text, finite numbers"),
    ({"model.activation": math.tanh}, "config.model.activation=<built-in function tanh>: must be"),
    # that contradict one another
    ({"dataset.source": "npz"}, "config.dataset.path='': source npz needs the path of a .npz file"),
    ({"dataset.classes": (1, 1)}, "config.dataset.classes=(1, 1): must be different classes"),
    ({"dataset.classes": (0, -1)}, "config.dataset.classes=(0, -1): must be different classes"),
    ({"dataset.classes": ("cat", "dog")}, "classes=('cat', 'dog'): must be different classes, int"),
    (
        {"dataset.classes": (0.5, 1)},
        "config.dataset.classes=(0.5, 1): must be different classes, int",
    ),
    ({"run.member_devices": 3}, "config.run.member_devices=3: must divide config.ensemble.size=1"),
    (
        {"optimizer.warmup_epochs": 101},
        "warmup_epochs=101.0: must be at most config.train.num_epochs",
    ),
    ({"corruption.kind": "removed"}, "config.corruption.fraction=1.0: leaves no example"),
    ({"corruption.kind": "label_transition"}, "config.corruption.transition=(): label_transition"),
    (
        {"corruption.transition": ((1.0, "0"), (0.0, 1.0)), "corruption.kind": "label_transition"},
        "config.corruption.transition: row (1.0, '0'): must be a list of probabilities",
    ),
    (
        {"corruption.transition": (0.5, 0.5), "corruption.kind": "label_transition"},
        "config.corruption.transition: row 0.5: must be a list of probabilities",
    ),
    ({"corruption.kind": "unique_labels"}, "config.dataset.num_validation=-1: must be 0 with"),
    # without effect
    (
        {"dataset.name": "mnits"},
        "config.dataset.name='mnits': has an effect only with the sources tfds and "
        "huggingface; here config.dataset.source='digits'",
    ),
    (
        {"dataset.name": "mnist", "dataset.source": "npz", "dataset.path": "own.npz"},
        "config.dataset.name='mnist': has an effect only with the sources tfds and huggingface",
    ),
    (
        {"dataset.path": "own.npz"},
        "config.dataset.path='own.npz': has an effect only with the sources npz, folder, "
        "table and huggingface; here config.dataset.source='digits'",
    ),
    (
        {"dataset.seed": 1, "dataset.num_validation": 0},
        "config.dataset.seed=1: has an effect only where examples are drawn or held out; here "
        "config.dataset.num_train=0, config.dataset.num_validation=0",
    ),
    ({"corruption.fraction": 0.4}, f"fraction=0.4: {DRAWS}config.corruption.kind='none'"),
    ({"corruption.fraction": 0.0}, f"fraction=0.0: {DRAWS}config.corruption.kind='none'"),
    (
        {"corruption.seed": 1},
        "config.corruption.seed=1: has an effect only with a kind of corruption that draws "
        "examples, and some that are drawn; here config.corruption.kind='none'",
    ),
    (
        {"corruption.seed": 1, "corruption.kind": "random_labels", "corruption.fraction": 0.0},
        "here config.corruption.kind='random_labels', config.corruption.fraction=0.0",
    ),
    (
        {
            "corruption.fraction": 0.5,
            "corruption.kind": "unique_labels",
            "dataset.num_validation": 0,
        },
        f"fraction=0.5: {DRAWS}config.corruption.kind='unique_labels'",
    ),
    (
        {"corruption.noise_moments": "pixel", "corruption.kind": "random_labels"},
        "config.corruption.noise_moments='pixel': has an effect only with the kind random_inputs",
    ),
    (
        {"corruption.transition": ((0.5, 0.5), (0.5, 0.5)), "corruption.kind": "random_labels"},
        "has an effect only with the kind label_transition; here "
        "config.corruption.kind='random_labels'",
    ),
    (
        {"regularizer.dropout": 0.5, "model.widths": ()},
        "config.regularizer.dropout=0.5: has an effect only on hidden layers; here "
        "config.model.name='mlp', config.model.widths=()",
    ),
    ({"regularizer.hidden_noise": 0.5, "model.widths": ()}, "has an effect only on hidden layers"),
    ({"regularizer.adversarial_radius": 0.1}, f"adversarial_radius=0.1: {ADVERSARIAL}"),
    ({"regularizer.adversarial_steps": 3}, f"adversarial_steps=3: {ADVERSARIAL}"),
    (
        {"optimizer.momentum": 0.9, "optimizer.name": "adam"},
        "momentum=0.9: has an effect only with sgd or rmsprop; here config.optimizer.name='adam'",
    ),
    ({"optimizer.momentum": 0.9, "optimizer.name": "lion"}, "only with sgd or rmsprop"),
    (
        {"optimizer.nesterov": True},
        "config.optimizer.nesterov=True: has an effect only with the momentum of sgd or rmsprop; "
        "here config.optimizer.name='sgd', config.optimizer.momentum=0.0",
    ),
    ({"optimizer.nesterov": True, "optimizer.name": "adamw"}, "here config.optimizer.name='adamw'"),
    ({"optimizer.decay_factor": 0.1}, f"config.optimizer.decay_factor=0.1: {STEP}"),
    ({"optimizer.decay_epochs": 3}, f"config.optimizer.decay_epochs=3.0: {STEP}"),
    (
        {"optimizer.decay_epochs": 3, "optimizer.schedule": "cosine"},
        "has an effect only with the schedule step; here config.optimizer.schedule='cosine'",
    ),
]


def with_fields(changes):
    config = default_config().to_dict()
    for name, value in changes.items():
        *sections, field = name.split(".")
        place = config
        for section in sections:
            place = place[section]
        place[field] = value
    return config


@pytest.mark.parametrize(("changes", "words"), BAD)
def test_a_bad_config_is_one_line_that_says_why(changes, words):
    with pytest.raises(InputError) as error:
        resolve(with_fields(changes))
    said = str(error.value)
    assert words in said
    assert said.startswith("config.")
    assert "\n" not in said


GOOD = [
    {"seed": 2**31 - 1},
    {"seed": 2**31 - 3, "ensemble.size": 3},
    {"corruption.kind": "random_labels", "corruption.fraction": 0.0},  # level 0 of a sweep
    {"corruption.kind": "random_labels", "corruption.fraction": 0.1, "corruption.seed": 3},
    {"corruption.kind": "removed", "corruption.fraction": 0.5, "corruption.seed": 1},
    {"corruption.kind": "random_inputs+unique_labels", "corruption.fraction": 0.5}
    | {"dataset.num_validation": 0},
    {"corruption.kind": "label_transition", "corruption.transition": [[0.5, 0.5], [0, 1]]},
    {"dataset.source": "tfds", "dataset.name": "mnist", "dataset.seed": 4, "dataset.num_train": 9},
    {"dataset.source": "npz", "dataset.path": "own.npz"},
    {"dataset.seed": 3},  # the held-out examples
    {"dataset.data_dir": "/data"},  # changes no result
    {"dataset.cache_dir": "/cache"},
    {"optimizer.name": "rmsprop", "optimizer.momentum": 0.9, "optimizer.nesterov": True},
    {"optimizer.schedule": "step", "optimizer.decay_factor": 1.0, "optimizer.decay_epochs": 300},
    {"optimizer.warmup_epochs": 100},
    {"regularizer.adversarial_weight": 0.3, "regularizer.adversarial_radius": 0.1},
    {"regularizer.dropout": 0.5},
    {"regularizer.dropout": 0.5, "model.name": "alexnet"},
    {"model.name": "nets.py:Net", "model.fields": 3, "model.method": "own"},
]


@pytest.mark.parametrize("changes", GOOD)
def test_a_field_that_has_an_effect_is_accepted(changes):
    assert resolve(with_fields(changes))


def test_the_config_of_a_run_that_is_there_is_not_judged_again():
    config = with_fields({"optimizer.decay_factor": 0.1})
    assert resolve(config, check_effects=False).optimizer.decay_factor == 0.1


def test_the_table_of_effects_names_fields_and_passes_every_default():
    defaults = flat_values(Config())
    for name, effect in EFFECTS.items():
        assert name in defaults
        assert not name.startswith("run.")  # changes no result, so it may stand there unused
        for other in effect.others:
            assert other in defaults or other.startswith("model.fields.")
    assert without_effect(defaults, defaults) == {}


def test_where_files_lie_is_not_science():
    here = with_fields({"dataset.source": "npz", "dataset.path": "/here/own.npz"})
    here["model"] = {"name": "/here/nets.py:Net"}
    there = with_fields({"dataset.source": "npz", "dataset.path": "/there/data.npz"})
    there["model"] = {"name": "/there/deeper/nets.py:Net"}
    one, other = resolve(here), resolve(there)
    assert one.science_hash() == other.science_hash()
    assert one.science()["model.name"] == "nets.py:Net"
    for config in (one, other):  # and yet config.json has it, for whoever opens the run
        flat = config.science() | config.without_science()
        assert resolve(unflatten(flat)) == config
    there["model"] = {"name": "/there/deeper/nets.py:Other"}
    assert resolve(there).science_hash() != one.science_hash()


def test_a_models_own_field_may_have_any_name_of_ours():
    config = resolve({"model": {"name": "nets.py:Net", "fields": 3, "method": "lax", "seed": 1}})
    assert config.model.fields == {"fields": 3, "method": "lax", "seed": 1}
    assert resolve(unflatten(config.science() | config.without_science())) == config


@pytest.mark.parametrize("config", [None, 3, [], "train"])
def test_what_is_no_config_at_all_is_refused(config):
    with pytest.raises(InputError, match="config="):
        resolve(config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"trian": {}}, "did you mean train"),
        ({"train": {"batchsize": 3}}, "did you mean batch_size"),
        ({"train": 3}, "section"),
        ({"train": None}, "section"),
        ({"train": {4: 3}}, "unknown field"),
        ({5: {}}, "unknown field"),
        ({"model": {"name": 3}}, "name"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(config, words):
    with pytest.raises(InputError, match=words):
        resolve(config)


def test_an_integer_is_taken_where_a_float_is_meant():
    assert resolve({"corruption": {"fraction": 1}}).corruption.fraction == 1.0


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


def test_a_saved_science_section_without_a_newer_field_has_its_default():
    here = Config().science() | {"data.fingerprint": "abc"}
    older = {k: v for k, v in here.items() if k != "augmentation.flip"}
    assert saved_science(older, here) == here
    changed = here | {"augmentation.flip": True}
    assert saved_science(older, changed)["augmentation.flip"] is False
    assert saved_science({"seed": 3}, {"seed": 0}) == {"seed": 3}
    without_model_field = {k: v for k, v in here.items() if k != "model.name"}
    assert "model.name" not in saved_science(without_model_field, here)
