"""Figure 7's network trained again in torch: the same losses, and the same ends?

    pip install '.[bench]'
    python -m benchmarks.torch_check --data_dir=~/tensorflow_datasets

torch gets what the figure's runs begin with, initial parameters, examples with their noise and the
order of the batches, and nothing else of memjax: the network, the loss, its derivative and the
update are torch's own. The losses of the first 100 steps must agree to rounding, which grows from
there on; at the end both must be alike within the spread of the seeds. Exit code 1 if not.
"""

import argparse
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.torch_mlp import torch_mlp
from memjax.config import with_values
from memjax.experiments.studies import make_study
from memjax.loading import load_run
from memjax.passes.base import Context, Options
from memjax.passes.updates import run_batches
from memjax.training.run import run
from memjax.training.setup import prepare
from memjax.training.state import init_state
from memjax.training.step import Batch, make_train_step

STEPS, ROUNDING = 100, 1e-5
ENDS = ("train_loss", "train_accuracy", "validation_accuracy")


def our_losses(setup, images, labels, batches):
    """Returns the losses of the first steps, by memjax's own train step."""
    step = jax.jit(make_train_step(setup.network, setup.optimizer))
    state = init_state(setup.config.seed, setup.network.model, setup.optimizer, images.shape[1:])
    losses = []
    for rows in batches[:STEPS]:
        batch = Batch(jnp.asarray(images[rows]), jnp.asarray(labels[rows]), None)
        state, metrics = step(state, batch, jax.random.key(0))
        losses.append(float(metrics["loss"]))
    return np.array(losses)


def trained_by_torch(setup, images, labels, batches, validation):
    """Returns the losses of the first steps, and what a network trained by torch ends with."""
    params = init_state(
        setup.config.seed, setup.network.model, setup.optimizer, images.shape[1:]
    ).params["params"]
    names = sorted(params, key=lambda name: int(name.rpartition("_")[2]))
    network = torch_mlp([(params[name]["kernel"], params[name]["bias"]) for name in names])
    mean, std = (float(np.ravel(np.asarray(moment))[0]) for moment in setup.network[1:3])

    def inputs(images):
        return torch.tensor((np.asarray(images).reshape(len(images), -1) - mean) / std)

    x, y = inputs(images), torch.tensor(labels.astype(np.int64))
    chosen = setup.config.optimizer
    optimizer = torch.optim.SGD(
        network.parameters(), lr=chosen.learning_rate, momentum=chosen.momentum
    )
    cross_entropy, losses = torch.nn.functional.cross_entropy, []
    for rows in batches:
        loss = cross_entropy(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if len(losses) < STEPS:
            losses.append(float(loss.detach()))
    with torch.no_grad():
        logits = network(x)
        right = network(inputs(validation.images)).argmax(1).numpy() == validation.labels
        ends = float(cross_entropy(logits, y)), float((logits.argmax(1) == y).double().mean())
    return np.array(losses), dict(zip(ENDS, (*ends, float(right.mean())), strict=True))


def main() -> None:
    """Compares networks on real data, on randX and on randY, several seeds each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", default=None, help="where tfds keeps its data")
    parser.add_argument("--scale", default="workstation", help="of the reproduction")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=0, help="0: as the scale has them")
    given = parser.parse_args()
    study = make_study("mnist_noise", given.scale, given.data_dir)
    noisiest = max(point.factors["level"] for point in study.points)
    is_alike, ends = True, {}
    print(f"{'network':<18}  largest relative difference of the first {STEPS} losses; at the end:")
    for point, config in zip(study.points, study.configs, strict=True):
        kind, level, seed = (point.factors[name] for name in ("kind", "level", "seed"))
        if level not in (0.0, noisiest) or seed >= given.seeds:
            continue
        if given.epochs:
            config = with_values(config, {"train.num_epochs": given.epochs})
        setup = prepare(config)
        with tempfile.TemporaryDirectory() as folder:
            run(setup, pathlib.Path(folder) / "run")
            opened = load_run(pathlib.Path(folder) / "run")
            ours = {name: float(opened.metrics.iloc[-1][name]) for name in ENDS}
            images, labels = np.asarray(opened.train.images), opened.train.labels
            validation = opened.validation
            padded = np.asarray(run_batches(Context(opened, Options()), 0))
        batches = [rows[rows >= 0] for rows in padded]
        theirs_losses, theirs = trained_by_torch(setup, images, labels, batches, validation)
        losses = our_losses(setup, images, labels, batches)
        apart = float(np.max(np.abs(losses / theirs_losses - 1)))
        is_alike &= apart < ROUNDING
        ends.setdefault(f"{kind} {level:g}", []).append((ours, theirs))
        words = "  ".join(f"{name} {ours[name]:.4f} / {theirs[name]:.4f}" for name in ENDS)
        print(f"{point.name:<18}  {apart:.1e}  {words}", flush=True)
    print("\nmean of the seeds, ours / torch (standard deviation over seeds):")
    for data, pairs in ends.items():
        words = []
        for name in ENDS:
            ours, theirs = (np.array([pair[side][name] for pair in pairs]) for side in (0, 1))
            spread = max(ours.std(), theirs.std(), 1e-3)
            is_alike &= bool(abs(ours.mean() - theirs.mean()) <= 2 * spread)
            words.append(f"{name} {ours.mean():.4f} / {theirs.mean():.4f} ({spread:.4f})")
        print(f"{data:<10}  {'  '.join(words)}")
    print("alike" if is_alike else "NOT ALIKE")
    raise SystemExit(not is_alike)


if __name__ == "__main__":
    main()
