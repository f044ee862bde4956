"""Whether a pass suits a run is known before anything runs; the others do not suffer from it."""

import types

import pytest

from memjax import analyze
from memjax.config import resolve
from memjax.errors import InputError
from memjax.loading import load_run
from memjax.passes import PASSES
from memjax.passes.base import Context, Options
from memjax.passes.runner import run_pass
from memjax.training.run import run
from memjax.training.setup import prepare
from tests.passes import runs

NETS = '''
import jax.numpy as jnp
from flax import linen as nn

class Tokens(nn.Module):
    """Attention over the rows of an image: no kernel has the image's shape."""
    num_classes: int

    @nn.compact
    def __call__(self, images, train=False):
        boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "units"))
        narrow = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
        rows = nn.Dense(4, kernel_init=boxed, **narrow)(images.reshape(len(images), -1, 8))
        rows = nn.MultiHeadDotProductAttention(num_heads=2, **narrow)(rows, rows)
        return nn.Dense(self.num_classes, **narrow)(rows.mean(1))
'''


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A run of bfloat16 and boxed parameters, with one validation example."""
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "nets.py").write_text(NETS)
    config = runs._base()
    config.model = {"name": f"{folder}/nets.py:Tokens"}
    config.dataset.num_train, config.dataset.num_validation = 40, 1
    config.train.num_epochs = 1
    run(prepare(resolve(config)), folder / "run")
    return load_run(folder / "run")


def context_of(opened, **options):
    steps = tuple(opened.steps[-1:])
    return Context(opened, Options(steps=steps, num_examples=3, num_probes=1, **options), 1)


def suiting(monkeypatch, context, passes, *names):
    monkeypatch.setattr(analyze, "FLAGS", types.SimpleNamespace(passes=list(names)))
    return [each.name for each in analyze._suiting(context, passes)]


def test_attention_without_filters_is_named_and_the_other_passes_remain(
    tokens, monkeypatch, capsys
):
    context = context_of(tokens)
    left = suiting(monkeypatch, context, list(PASSES.values()), "all")
    printed = capsys.readouterr().out
    assert "filters" not in left
    assert [line for line in printed.splitlines() if line.startswith("filters ")]
    assert {"gradients", "jacobians", "difficulty", "critical", "sharpness"} <= set(left)
    assert len(printed.splitlines()) == len(PASSES) - len(left)
    with pytest.raises(InputError, match="first"):
        suiting(monkeypatch, context, [PASSES["filters"]], "filters")
    assert not (tokens.workdir / "analysis").exists()


@pytest.mark.parametrize("name", ["gradients", "difficulty"])
def test_boxed_bfloat16_parameters_and_one_validation_example_have_their_tables(tokens, name):
    table = run_pass(context_of(tokens), PASSES[name])
    assert (table["split"] == "validation").sum() == 1
    assert (table["split"] == "train").sum() == 3
    column = {"gradients": "gradient_norm", "difficulty": "mean_loss"}[name]
    assert (table[column] > 0).all()


def test_clip_suits_pixels_and_is_refused_for_gaussian_inputs_before_anything_runs():
    PASSES["critical"].check_suits(runs.context("one", num_examples=4, clip=True))
    context = runs.changed("one", num_examples=4, clip=True)
    noisy = context.run.train
    context.run.train = noisy._replace(images=noisy.images - 0.5)
    with pytest.raises(InputError, match=r"^--clip: is for pixels in \[0, 1\]"):
        PASSES["critical"].check_suits(context)
