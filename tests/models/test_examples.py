"""The examples of own networks, trained and analysed through the real command line."""

import numpy as np
import pandas as pd
import pytest

import memjax
from tests import command_line

pytestmark = pytest.mark.campaign

SMALL = [
    *("--config=configs/digits_real.py:quick", "--config.dataset.num_validation=20"),
    *("--config.dataset.num_train=60", "--config.train.batch_size=20"),
    *("--config.train.num_epochs=3", "--config.train.stop_at_train_accuracy=0"),
    *("--config.checkpoint.every_epochs=0", "--config.checkpoint.powers_of_two=False"),
]
EXAMPLES = {
    # The 16 rows of the last batch are filled up to 22 where the mask is heeded.
    "linen_model.py:Residual": ["--config.train.batch_size=22", "--config.model.width=8"],
    "nnx_model.py:ConvNet": ["--config.train.batch_size=22", "--config.model.fields.width=4"],
    "equinox_model.py:Network": ["--config.model.width=8"],
    "init_apply.py:attention": ["--config.train.batch_size=22", "--config.model.width=8"],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_trains_is_opened_and_measured(name, tmp_path):
    workdir = tmp_path / "run"
    flags = [*SMALL, f"--config.model.name=examples/{name}", *EXAMPLES[name]]
    trained = command_line.run("memjax.main", *flags, f"--workdir={workdir}")
    assert trained.returncode == 0, trained.stderr
    passes = "--passes=gradients"
    analyzed = command_line.run("memjax.analyze", f"--workdir={workdir}", passes, "--steps=last")
    assert analyzed.returncode == 0, analyzed.stderr
    table = pd.read_parquet(workdir / "analysis" / "gradients.parquet")
    assert len(table) == 80
    assert np.isfinite(table["gradient_norm"]).all()
    run = memjax.load_run(workdir)
    for step in run.steps:  # the logged loss is that of the restored checkpoint
        logits = np.asarray(run.logits_fn(run.params(step), run.train.images), np.float64)
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(60), run.train.labels]
        logged = run.metrics.set_index("step").loc[step, "train_loss"]
        assert losses.mean() == pytest.approx(logged, rel=1e-4)
    losses = run.metrics["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0]
