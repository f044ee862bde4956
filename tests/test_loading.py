"""A run opened for analysis is the run that was trained."""

import json

import jax
import numpy as np
import pytest

import memjax
from memjax.errors import InputError
from memjax.loading import load_run
from memjax.models.convolution import METHODS
from memjax.runtime.checkpoints import Checkpoints
from memjax.training.step import make_logits_fn
from tests.passes import runs


def test_logits_give_the_logged_accuracy_again():
    run = memjax.load_run(runs.workdir("mlp"))
    for _, line in run.metrics.iterrows():
        if line["step"] not in run.steps:
            continue
        for member in (0, 4):
            logits = run.logits_fn(run.params(int(line["step"]), member), run.validation.images)
            right = np.asarray(logits).argmax(-1) == run.validation.labels
            assert right.mean() == pytest.approx(line["validation_accuracy"][member], abs=1e-6)


def test_params_differ_from_step_to_step_and_from_member_to_member():
    run = runs.opened("mlp")
    kernels = [
        np.asarray(run.params(step, member)["params"]["Dense_0"]["kernel"]).tobytes()
        for step in (0, 9)
        for member in (0, 1)
    ]
    assert len(set(kernels)) == 4
    last = run.params()["params"]["Dense_0"]["kernel"]
    assert isinstance(last, jax.Array)
    np.testing.assert_array_equal(last, run.params(9, 0)["params"]["Dense_0"]["kernel"])


def test_data_are_as_in_the_table_of_examples():
    run = runs.opened("mlp")
    train = run.examples[run.examples["split"] == "train"]
    assert run.train.labels.tolist() == train["label"].tolist()
    assert run.train.true_labels.tolist() == train["true_label"].tolist()
    assert run.train.is_corrupted.tolist() == train["is_corrupted"].tolist()
    assert run.train.is_corrupted.sum() == 30
    assert run.train.images.shape == (60, 8, 8, 1)
    assert run.train.images.dtype == np.float32
    assert 0 <= run.train.images.min() < run.train.images.max() <= 1
    assert not run.validation.is_corrupted.any()
    some = run.train.at(slice(2, 5))
    assert some.labels.tolist() == run.train.labels[2:5].tolist()
    assert some.images.shape == (3, 8, 8, 1)


def test_convolutions_are_xla_s_own_and_equal_those_trained_with():
    run = runs.opened("cnn")
    assert run.setup.network.model.method in METHODS
    params, images = run.params(), run.validation.images
    jaxpr = str(jax.make_jaxpr(run.logits_fn)(params, images))
    assert jaxpr.count("conv_general_dilated[") == 2
    np.testing.assert_allclose(
        run.logits_fn(params, images),
        make_logits_fn(run.setup.network)(params, images),
        atol=1e-4,
    )


def test_running_statistics_have_no_gradient():
    run = runs.opened("cnn")
    params = run.params()
    gradient = jax.grad(lambda p: run.logits_fn(p, run.train.images[:3]).sum())(params)
    assert set(gradient) == {"params", "batch_stats"}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient["batch_stats"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient["params"]))


def test_a_run_of_more_devices_than_here_can_be_opened(tmp_path):
    folder = runs.copy_of("one", tmp_path / "run")
    document = json.loads((folder / "config.json").read_text())
    document["run"]["run.num_devices"] = 64
    (folder / "config.json").write_text(json.dumps(document))
    assert load_run(folder).steps == runs.opened("one").steps


def test_a_run_of_a_memjax_with_fewer_fields_can_be_opened(tmp_path):
    folder = runs.copy_of("one", tmp_path / "run")
    document = json.loads((folder / "config.json").read_text())
    del document["science"]["regularizer.hidden_noise"]
    (folder / "config.json").write_text(json.dumps(document))
    run = load_run(folder)
    assert run.config.regularizer.hidden_noise == 0
    assert run.steps == runs.opened("one").steps


def test_what_is_not_there_is_named():
    run = runs.opened("one")
    with pytest.raises(InputError, match="step 5: no such checkpoint"):
        run.params(5)
    with pytest.raises(InputError, match="member 1: must be from 0 to 0"):
        run.params(0, 1)
    with pytest.raises(InputError, match="table 'gradient': not in"):
        run.table("gradient")


@pytest.mark.parametrize("text", ["[]", "{}", '{"science": {}}'])
def test_another_config_json_is_no_run(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="not that of a memjax run"):
        load_run(tmp_path)


def test_other_data_are_refused(tmp_path):
    folder = runs.copy_of("one", tmp_path / "run")
    document = json.loads((folder / "config.json").read_text())
    document["science"]["data.fingerprint"] = "00000000"
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="fingerprint is '00000000' there"):
        load_run(folder).setup  # noqa: B018


def test_tables_and_examples_need_no_data_set(tmp_path, monkeypatch):
    folder = runs.copy_of("one", tmp_path / "run")
    monkeypatch.setattr("memjax.loading.prepare", lambda *args, **kwargs: 1 / 0)
    run = load_run(folder)
    assert run.examples["label"].tolist() == runs.opened("one").examples["label"].tolist()
    assert run.tables == []
    assert run.steps == runs.opened("one").steps
    with pytest.raises(ZeroDivisionError):
        run.setup  # noqa: B018


def test_a_checkpoint_is_read_once_for_all_passes_and_members(tmp_path, monkeypatch):
    run, read = load_run(runs.copy_of("mlp", tmp_path / "run")), []
    restore = Checkpoints.restore

    def counting(self, step, one):
        read.append(step)
        return restore(self, step, one)

    monkeypatch.setattr(Checkpoints, "restore", counting)
    for _ in range(2):
        for step in run.steps[:2]:
            for member in range(run.num_members):
                run.params(step, member)
    assert read == run.steps[:2]
