"""Small trained runs that the tests of analysis share: each is trained once a session."""

import atexit
import copy
import functools
import pathlib
import shutil
import tempfile

import jax

from memjax import presets
from memjax.config import resolve
from memjax.loading import load_run
from memjax.passes.base import Context, Options
from memjax.training.run import run
from memjax.training.setup import prepare

FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="memjax_test_runs_"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def _base():
    config = presets.digits_mlp("quick")
    config.dataset.num_train = 60
    config.dataset.num_validation = 40
    config.model.widths = (8,)
    config.corruption.kind = "random_labels"
    config.corruption.fraction = 0.5
    config.train.batch_size = 20
    config.train.num_epochs = 3
    config.checkpoint.every_epochs = 1
    config.run.num_devices = 1
    config.run.progress = False
    return config


def _mlp():
    """Five members on random subsets of 42 of the 60 examples: 3 steps an epoch, one padded."""
    config = _base()
    config.ensemble.size = 5
    config.ensemble.subset_fraction = 0.7
    config.regularizer.weight_decay = 0.01
    config.optimizer.decay_mask = "kernels"
    return config


def _cnn():
    config = _base()
    config.model = {"name": "alexnet", "width_factor": 0.04, "crop": 0, "pool": 2}
    config.train.num_epochs = 2
    return config


def _one():
    return _base()


def _noise():
    config = _base()
    config.corruption.kind = "random_inputs"
    return config


_CONFIGS = {"mlp": _mlp, "cnn": _cnn, "one": _one, "noise": _noise}


@functools.cache
def workdir(name):
    """Returns the folder of the run of a name in `_CONFIGS`; do not write there."""
    run(prepare(resolve(_CONFIGS[name]())), FOLDER / name)
    return FOLDER / name


def copy_of(name, folder):
    """Returns a copy of a run folder that a test may write in."""
    shutil.copytree(workdir(name), folder)
    return folder


@functools.cache
def opened(name):
    """Returns the Run, opened once."""
    return load_run(workdir(name))


@functools.cache
def context(name, num_devices=1, **options):
    """Returns a Context of the run; tests that ask for the same one share its programs."""
    return Context(opened(name), Options(**options), num_devices)


def one_logit_fn(context, params):
    """Returns (image) -> logits [classes] of one example."""
    return lambda image: context.run.logits_fn(params, image[None])[0]


def params_of(context, step, member=0):
    """Returns one member's params."""
    return jax.tree.map(jax.numpy.asarray, context.run.params(step, member))


def changed(name, num_devices=1, **options):
    """Returns a Context of a Run of its own, whose attributes a test may replace."""
    return Context(copy.copy(opened(name)), Options(**options), num_devices)
