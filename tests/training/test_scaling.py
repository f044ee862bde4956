"""What the compiled programs send between devices, and how often the host starts them."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from memjax.analysis.gradients import gradient_norms, per_example_gradients
from memjax.analysis.losses import softmax_cross_entropy
from memjax.analysis.microbatch import over_devices
from memjax.runtime.mesh import make_mesh
from memjax.training import evaluation, group, setup as setup_lib
from memjax.training.run import run
from memjax.training.step import for_inference, make_logits_fn
from tests import command_line
from tests.training.test_program import CNN, group_of, small_setup

pytestmark = pytest.mark.campaign

COLLECTIVE = re.compile(
    r"= \(?(.*?)\)? (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)"
)


def sent(hlo):
    """Returns (operation, number of elements) for every collective in compiled HLO."""
    found = []
    for shapes, operation in COLLECTIVE.findall(hlo):
        for dims in re.findall(r"\w+\[([\d,]*)\]", shapes):
            found.append((operation, int(np.prod([int(d) for d in dims.split(",") if d] or [1]))))
    return found


def hlo_of_programs(setup):
    """Returns the compiled HLO of training and of evaluation."""
    with jax.set_mesh(setup.mesh):
        group = group_of(setup)
        group.start(range(group.size))
        evaluate = group._evaluations["train"]
        count = jnp.int32(1)
        lowered = (
            group._train.lower(
                group.states, None, group._is_alive, group.members, group._data, count, count, count
            ),
            evaluate._program.lower(
                evaluate._outcomes, group.states.params, group.members, group._data, count, count,
                count,
            ),
        )  # fmt: skip
    return [program.compile().as_text() for program in lowered]


@pytest.mark.parametrize("placement", ["replicated", "sharded"])
@pytest.mark.parametrize("model", [{}, CNN], ids=["mlp", "cnn"])
def test_no_program_puts_the_data_set_together(model, placement):
    fields = {
        "run.num_devices": 4,
        "run.data_placement": placement,
        "run.evaluation_batch_size": 16,
    }
    setup = small_setup(**model, **fields)
    num_pixels = int(np.prod(setup.image_shape))
    for hlo in hlo_of_programs(setup):
        collectives = sent(hlo)
        # A gathered batch of images, or more, would be at least so large.
        gathered = [size for name, size in collectives if name == "all-gather"]
        assert max(gathered, default=0) < setup.batches.batch_size * num_pixels
        scattered = [size for name, size in collectives if name == "reduce-scatter"]
        share = 16 // 4 * num_pixels
        assert (share in scattered) == (placement == "sharded")
        assert max(scattered, default=0) <= share


def test_members_on_devices_of_their_own_send_only_whether_they_diverged():
    setup = small_setup(**{"ensemble.size": 4, "run.num_devices": 4})
    assert setup.mesh.shape["member"] == 4
    hlo, _ = hlo_of_programs(setup)
    assert all(size <= 4 for _, size in sent(hlo))


@pytest.mark.parametrize("model", [{}, CNN], ids=["mlp", "cnn"])
def test_per_example_gradients_stay_where_they_are_made(model):
    setup = small_setup(**model)
    mesh = make_mesh(1, 4)
    params = jax.tree.map(lambda leaf: np.asarray(leaf[0]), setup_lib.init_states(setup).params)
    logits_fn = make_logits_fn(for_inference(setup.network))
    images = jnp.asarray(setup.examples.images[:16], jnp.float32)
    labels = jnp.asarray(setup.examples.labels[:16])

    def loss_fn(params, image, label):
        return softmax_cross_entropy(logits_fn(params, image[None])[0], label)

    analyses = (
        lambda params, images, labels: gradient_norms(logits_fn, params, images, labels),
        lambda params, images, labels: per_example_gradients(loss_fn, params, images, labels),
    )
    for analysis in analyses:
        hlo = over_devices(analysis, mesh).lower(params, images, labels).compile().as_text()
        assert sent(hlo) == []


@pytest.mark.parametrize("num_train", [48, 480])
def test_dispatches_of_an_epoch_do_not_grow_with_the_data(monkeypatch, tmp_path, num_train):
    setup = small_setup(
        **{
            "dataset.num_train": num_train,
            "train.num_epochs": 4,
            "checkpoint.powers_of_two": False,
            "checkpoint.every_epochs": 0,
            "run.steps_per_dispatch": 1000,
            "run.progress": False,
        }
    )
    calls = []

    def counted(kind, name):
        method = getattr(kind, name)

        def call(self, *arguments):
            calls.append(name)
            return method(self, *arguments)

        monkeypatch.setattr(kind, name, call)

    counted(group.Group, "train")
    counted(evaluation.Evaluation, "run")
    summary = run(setup, epath.Path(tmp_path))
    before_training = ["run"] * 2  # training and validation examples
    assert calls == before_training + ["train", *before_training] * 4
    assert summary["examples_per_second"] > 0


def test_one_two_four_and_eight_devices_agree():
    """Batches of 15 and a last one of 5, which no device count divides."""
    code = """
import numpy as np
from tests.training.test_program import relative_error, small_setup, trained
for placement in ("replicated", "sharded"):
    found = []
    for devices in (1, 2, 4, 8):
        fields = {"run.num_devices": devices, "run.data_placement": placement}
        setup = small_setup(**{"train.batch_size": 15, **fields})
        assert setup.mesh.size == devices
        found.append(trained(setup, 8).params)
    print(max(relative_error(other, found[0]) for other in found))
"""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=command_line.ROOT,
        env=command_line.environment(XLA_FLAGS=flags),
    )
    assert finished.returncode == 0, finished.stderr
    errors = [float(line) for line in finished.stdout.split()]
    assert len(errors) == 2
    assert max(errors) < 1e-5
