"""What an audit is asked for: overrides, shapes and folders that do not go are one line."""

import dataclasses
import re

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_digits

from memjax.auditing.request import (
    FEWEST_EXAMPLES,
    Request,
    describe_cost,
    num_networks,
    prepare_request,
    training_data,
)
from memjax.auditing.run import audit
from memjax.auditing.source import load_source
from memjax.auditing.stages import EFFORTS, HARM_NETWORKS, training_config
from memjax.errors import InputError
from memjax.training.setup import prepare
from tests import command_line

RNG = np.random.default_rng(0)


def _save(path, images, labels, **more):
    np.savez(path, images=images, labels=labels, **more)
    return str(path)


def _digits(path, n=120, **more):
    digits = load_digits()
    return _save(path, (digits.images[:n] / 16).astype(np.float32), digits.target[:n], **more)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("dataset.num_validation", 60, "it looks at every example"),
        ("dataset.path", "other.npz", "--data says it"),
        ("corruption.kind", "random_labels", "trains on the labels as given"),
        ("ensemble.subset_fraction", 0.5, "70 %"),
        ("ensemble.balanced", False, "left out by as many"),
        ("checkpoint.every_epochs", 1, "saves when it needs"),
        ("ensemble.size", 3, "must be at least 4"),
    ],
)
def test_fields_that_are_the_audits_own_are_refused(tmp_path, name, value, why):
    request = Request(data=_digits(tmp_path / "d.npz"), overrides={name: value})
    with pytest.raises(InputError, match=re.escape(f"--config.{name}={value!r}: ")) as told:
        prepare_request(request)
    assert why in str(told.value)


def test_features_of_any_scale_are_standardised_and_kept_as_stored(tmp_path):
    features, labels = 1e5 + 300 * RNG.normal(size=(90, 7)), np.arange(90) % 3
    request = Request(data=_save(tmp_path / "f.npz", features, labels))
    config, dataset, stored, _ = prepare_request(request)
    assert config.dataset.standardize == "feature"
    assert np.allclose(dataset.train.images.std(axis=0), 1, atol=1e-5)
    assert np.array_equal(stored.train.images, features)
    scaled = dataclasses.replace(request, overrides={"dataset.standardize": "scalar"})
    with pytest.raises(InputError, match="standardize=feature"):  # said, and so held to
        prepare_request(scaled)


def test_stored_features_are_those_of_the_examples_that_were_drawn(tmp_path):
    features, labels = 50 * RNG.normal(size=(90, 4)), np.arange(90) % 3
    held = {"validation_images": -features[:9], "validation_labels": labels[:9]}
    path = _save(tmp_path / "f.npz", features, labels, **held)
    dataset, stored = load_source(
        {"source": "npz", "path": path, "num_train": 30, "classes": (2, 0)}
    )
    assert len(dataset.train) == 30
    assert np.array_equal(stored.train.images, features[dataset.train.index])
    assert np.array_equal(stored.validation.images, -features[dataset.validation.index])


def test_only_the_sources_own_validation_split_is_one(tmp_path):
    section = {"source": "digits", "num_train": 200}
    dataset, _ = load_source(section)
    assert (len(dataset.train), len(dataset.validation)) == (200, 0)
    path = _digits(tmp_path / "d.npz", validation_images=np.zeros((3, 8, 8), np.float32),
                   validation_labels=[0, 1, 2])  # fmt: skip
    dataset, _ = load_source({"source": "npz", "path": path})
    assert (len(dataset.train), len(dataset.validation)) == (120, 3)


def test_overrides_of_the_pictures_are_not_of_the_embeddings(tmp_path):
    for n in range(80):
        (tmp_path / "photos" / str(n % 2)).mkdir(parents=True, exist_ok=True)
        picture = PIL.Image.new("L", (8 + n % 3, 8), n)
        picture.save(tmp_path / "photos" / str(n % 2) / f"{n}.png")
    np.save(tmp_path / "e.npy", RNG.normal(size=(80, 5)))
    request = Request(
        data=str(tmp_path / "photos"),
        embeddings=str(tmp_path / "e.npy"),
        overrides={"dataset.image_size": 8, "train.num_epochs": 3},
    )
    prepared = prepare_request(request, tmp_path / "audit")
    assert prepared.config.dataset.image_size == 0
    assert prepared.config.dataset.standardize == "feature"
    assert prepared.config.train.num_epochs == 3
    assert prepared.dataset.train.images.shape == (80, 8, 8, 1)
    assert training_data(request, prepared).train.images.shape == (80, 5)


def test_a_workdir_among_the_pictures_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    for place in (tmp_path / "photos", tmp_path / "photos" / ".." / "photos" / "audit"):
        with pytest.raises(InputError, match="lies inside --data="):
            prepare_request(Request(data=str(tmp_path / "photos")), place)


def test_pictures_too_small_for_the_cnn_are_for_an_mlp():
    for shape, name in (((300, 8, 8, 3), "mlp"), ((300, 12, 40, 3), "mlp"),
                        ((300, 13, 13, 3), "alexnet"), ((300, 9), "mlp")):  # fmt: skip
        assert training_config({}, shape, EFFORTS["quick"]).model.name == name


@pytest.mark.parametrize(("n", "batch"), [(80, 20), (143, 35), (400, 100), (5000, 100)])
def test_batches_fit_the_subsets(n, batch):
    assert training_config({}, (n, 4), EFFORTS["quick"]).train.batch_size == batch


def test_the_fewest_examples_can_be_trained_on_and_what_cannot_leaves_nothing(tmp_path):
    request = Request(data=_digits(tmp_path / "d.npz", FEWEST_EXAMPLES), effort="quick")
    prepared = prepare_request(request)
    assert prepare(prepared.config, training_data(request, prepared)).num_steps > 12
    large = dataclasses.replace(request, overrides={"train.batch_size": 60})
    with pytest.raises(InputError, match="batch_size=60: must be at most 56"):
        audit(large, tmp_path / "audit", say=lambda line: None)
    assert not (tmp_path / "audit").exists()


def test_the_cost_is_that_of_what_is_trained(tmp_path):
    data = _digits(tmp_path / "d.npz")
    request = Request(data=data, effort="quick", overrides={"ensemble.size": 9})
    config = prepare_request(request).config
    assert num_networks(request, config) == 9 + 6
    with_harm = dataclasses.replace(request, check_harm=True)
    assert num_networks(with_harm, config) == 9 + 6 + HARM_NETWORKS
    given = dataclasses.replace(with_harm, pred_probs="p.npy")
    assert num_networks(given, config) == HARM_NETWORKS
    few = dataclasses.replace(request, overrides={"ensemble.size": 9, "train.num_epochs": 2})
    assert "15 networks of 85,002 parameters, 2 epochs each" in describe_cost(few)


def test_the_network_of_the_command_line_is_the_one_that_is_trained(tmp_path):
    data = _digits(tmp_path / "d.npz")
    words = f"--data={data}", f"--workdir={tmp_path / 'audit'}", "--effort=quick", "--dry_run"
    done = command_line.run("memjax.audit", *words, "--config.model.widths=(16,)")
    assert f"networks of {64 * 16 + 16 + 160 + 10:,} parameters" in done.stdout, done.stderr
    own = Request(data=data, overrides={"model.name": "resnet"})
    assert prepare_request(own).config.model == type(prepare_request(own).config.model)("resnet")
