"""Attribution beside its cheaper estimators and beside dattri and trak, on the same networks.

    pip install . torch dattri==0.3.0 traker
    python -m benchmarks.attribution --mnist=DIR_OF_TFDS

MNIST, 1000 examples, a 784-64-64-10 network, batches of 100, 300 updates of SGD at .1. Truth is
training again without random sets of examples: from the same start in the same order ("same"), and
from other starts in other orders, averaged ("others"). The score is the LDS: the rank correlation,
over the sets, of predicted and real loss of a query, averaged over the queries. Peers that are not
installed are left out. Every method is run once to compile, then timed.
"""

import argparse
import functools
import importlib.util
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from memjax.analysis.attribution import example_attribution
from memjax.analysis.attribution_estimators import tracin, trak
from memjax.analysis.attribution_retrain import retrained_measures
from memjax.analysis.influence import influence_functions
from memjax.analysis.sensitivity import run_sgd
from memjax.analysis.trust import linear_datamodeling_score, random_subsets

WIDTHS, NUM_EXAMPLES, BATCH_SIZE, NUM_STEPS, RATE = (784, 64, 64, 10), 1000, 100, 300, 0.1
TRACIN_STEPS = (30, 90, 150, 210, 270)
FRACTIONS = (0.01, 0.05, 0.5)


def network(activation):
    def logits_fn(params, images):
        for weights, bias in params[:-1]:
            images = activation(images @ weights + bias[None])
        weights, bias = params[-1]
        return images @ weights + bias[None]

    return logits_fn


def trajectory(seed):
    """Returns the start and the batches of one training."""
    rng = np.random.default_rng(seed)
    params = [
        (
            jnp.asarray(rng.normal(size=(rows, columns)) * np.sqrt(2 / rows), jnp.float32),
            jnp.zeros(columns),
        )
        for rows, columns in itertools.pairwise(WIDTHS)
    ]
    epochs = NUM_STEPS * BATCH_SIZE // NUM_EXAMPLES
    orders = [rng.permutation(NUM_EXAMPLES).reshape(-1, BATCH_SIZE) for _ in range(epochs)]
    return params, jnp.asarray(np.concatenate(orders), jnp.int32)


def mnist(folder, num_queries):
    import tensorflow_datasets as tfds

    found = []
    for split, count in (("train", NUM_EXAMPLES), ("test", num_queries)):
        items = tfds.data_source("mnist", split=split, data_dir=folder).__getitems__(range(count))
        images = np.stack([item["image"] for item in items]).reshape(count, -1) / 255
        labels = np.array([item["label"] for item in items])
        found += [jnp.asarray(images, jnp.float32), jnp.asarray(labels, jnp.int32)]
    return found


def our_methods(logits_fn, data, seeds):
    """Returns name -> function of (query_images, query_labels) -> [queries n]."""
    images, labels = data[:2]
    trained = functools.cache(lambda seed: run_sgd(
        logits_fn, trajectory(seed)[0], images, labels, trajectory(seed)[1], RATE
    ))  # fmt: skip

    def exact(seed, *queries):
        params, batches = trajectory(seed)
        return example_attribution(logits_fn, params, images, labels, batches, RATE, *queries)

    @functools.cache
    def checkpoints():
        params, batches = trajectory(0)
        return [
            run_sgd(logits_fn, params, images, labels, batches[:step], RATE)
            for step in TRACIN_STEPS
        ]

    weight = RATE * NUM_STEPS / len(TRACIN_STEPS) / NUM_EXAMPLES
    weights = [weight] * len(TRACIN_STEPS)
    key, options = jax.random.key(0), {"dimension": 256}
    influence = functools.partial(influence_functions, logits_fn)
    methods = {
        "exact": functools.partial(exact, 0),
        f"exact, mean of {len(seeds)}": lambda *q: sum(exact(seed, *q) for seed in seeds),
        "EK-FAC": lambda *q: influence(trained(0), images, labels, *q),
        f"EK-FAC, mean of {len(seeds)}": lambda *q: sum(
            influence(trained(seed), images, labels, *q) for seed in seeds
        ),
        "TracIn, 5 checkpoints": lambda *q: tracin(
            logits_fn, checkpoints(), images, labels, weights, *q
        ),
        "TRAK, 1 network": lambda *q: trak(
            key, logits_fn, [trained(0)], images, labels, *q, **options
        ),
        f"TRAK, {len(seeds)} networks": lambda *q: trak(
            key, logits_fn, [trained(seed) for seed in seeds], images, labels, *q, **options
        ),
    }
    return methods, trained, checkpoints


def peer_methods(activation, data, trained, checkpoints, seeds):
    """Returns the methods of dattri and trak that are installed, on the same networks."""
    if any(importlib.util.find_spec(name) is None for name in ("torch", "dattri")):
        print("dattri: not installed")
        return {}
    import torch
    from dattri.algorithm.influence_function import IFAttributorCG, IFAttributorEKFAC
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.task import AttributionTask
    from torch import nn

    layer = {"gelu": lambda: nn.GELU(approximate="tanh"), "relu": nn.ReLU}[activation]
    sizes = list(itertools.pairwise(WIDTHS))
    layers = [part for pair in sizes for part in (nn.Linear(*pair), layer())][:-1]

    def state(params):
        named = {}
        for place, (weights, bias) in enumerate(params):
            named[f"{2 * place}.weight"] = torch.tensor(np.array(weights).T.copy())
            named[f"{2 * place}.bias"] = torch.tensor(np.array(bias))
        return named

    def loader(images, labels):
        pair = torch.tensor(np.array(images)), torch.tensor(np.array(labels)).long()
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*pair), batch_size=500)

    net = nn.Sequential(*layers).eval()

    def loss(params, batch):
        images, labels = batch
        if images.ndim == 1:
            images, labels = images[None], labels[None]
        logits = torch.func.functional_call(net, params, (images,))
        return nn.functional.cross_entropy(logits, labels.reshape(-1))

    def probability(params, batch):
        return torch.exp(-loss(params, batch))

    def log_odds(params, batch):
        correct = probability(params, batch)
        return torch.log(correct / (1 - correct + 1e-6) + 1e-6)

    def task(networks, target=None):
        states = [state(params) for params in networks]
        return AttributionTask(loss_func=loss, model=net, checkpoints=states, target_func=target)

    def run(attributor, *queries):
        if hasattr(attributor, "cache"):
            attributor.cache(loader(*data[:2]))
        found = attributor.attribute(loader(*data[:2]), loader(*queries))
        return -found.detach().numpy().T

    def influence(kind, *queries, **options):
        return run(kind(task([trained(0)]), **options), *queries)

    def tracin_of_dattri(*queries):
        weights = torch.ones(len(TRACIN_STEPS))
        attributor = TracInAttributor(task(checkpoints()), weights, normalized_grad=False)
        return run(attributor, *queries)

    def trak_of_dattri(networks, *queries):
        attributor = TRAKAttributor(
            task([trained(seed) for seed in networks], log_odds), probability,
            projector_kwargs={"proj_dim": 256}, regularization=1e-3,
        )  # fmt: skip
        attributor.cache(loader(*data[:2]))
        return -attributor.attribute(loader(*queries)).detach().numpy().T

    return {
        "dattri EK-FAC": functools.partial(influence, IFAttributorEKFAC, damping=1e-2),
        "dattri CG": functools.partial(influence, IFAttributorCG, regularization=1e-2),
        "dattri TracIn": tracin_of_dattri,
        "dattri TRAK, 1 network": functools.partial(trak_of_dattri, [0]),
        f"dattri TRAK, {len(seeds)} networks": functools.partial(trak_of_dattri, seeds),
    }


def truths(logits_fn, data, num_sets, other_seeds):
    """Returns (fraction, protocol) -> weights [sets n], losses [sets queries]."""
    found = {}
    for fraction in FRACTIONS:
        weights = random_subsets(1, num_sets, NUM_EXAMPLES, fraction).astype(np.float32)
        protocols = {"same": [0]} | ({"others": other_seeds} if fraction == 0.5 else {})
        for protocol, seeds in protocols.items():
            total = 0.0
            for seed in seeds:
                params, batches = trajectory(seed)
                total = total + retrained_measures(
                    logits_fn, params, *data[:2], batches, RATE, weights, *data[2:]
                )
            found[fraction, protocol] = weights, np.asarray(total)
    return found


def seconds(fn, *arguments):
    """Returns the wall time and the CPU time of a call, after one that compiles."""
    jax.block_until_ready(fn(*arguments))
    wall, cpu = time.perf_counter(), time.process_time()
    result = fn(*arguments)
    jax.block_until_ready(result)
    return time.perf_counter() - wall, time.process_time() - cpu, np.asarray(result)


def benchmark(activation, options):
    fn = {"gelu": jax.nn.gelu, "relu": jax.nn.relu}[activation]
    logits_fn, data = network(fn), mnist(options.mnist, options.num_queries)
    seeds = tuple(range(options.trajectories))
    others = tuple(range(100, 100 + options.trajectories))
    params, batches = trajectory(0)
    run = functools.partial(run_sgd, logits_fn, params, *data[:2], batches, RATE)
    jax.block_until_ready(run())
    start = time.process_time()
    jax.block_until_ready(run())
    unit = time.process_time() - start
    print(f"\n{activation}: a training takes {unit:.2f} s of CPU; {options.num_queries} queries")
    truth = truths(logits_fn, data, options.num_sets, others)
    methods, trained, checkpoints = our_methods(logits_fn, data, seeds)
    methods |= peer_methods(activation, data, trained, checkpoints, seeds)
    columns = [f"{100 * fraction:g} % {protocol}" for fraction, protocol in truth]
    heads = [*columns, "1 query", "all", "trainings/query"]
    print(f"{'method':<26}" + "".join(f"{name:>16}" for name in heads))
    for name, method in methods.items():
        try:
            one = seconds(method, data[2][:1], data[3][:1])[1]
            _, cpu, found = seconds(method, *data[2:])
        except Exception as error:  # a peer that fails is one line of the table
            print(f"{name:<26} {type(error).__name__}: {str(error)[:90]}", flush=True)
            continue
        scores = [
            np.nanmean(linear_datamodeling_score(weights @ found.T, real))
            for weights, real in truth.values()
        ]
        per_query = cpu / unit / options.num_queries
        cells = [f"{score:.2f}" for score in scores] + [f"{one:.2f} s", f"{cpu:.2f} s"]
        print(f"{name:<26}" + "".join(f"{c:>16}" for c in [*cells, f"{per_query:.2f}"]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", required=True, help="data_dir of TFDS with mnist in it")
    parser.add_argument("--num_queries", type=int, default=100)
    parser.add_argument("--num_sets", type=int, default=100)
    parser.add_argument("--trajectories", type=int, default=5, help="for averages, and for truth")
    parser.add_argument("--activations", default="gelu,relu")
    options = parser.parse_args()
    for activation in options.activations.split(","):
        benchmark(activation, options)


if __name__ == "__main__":
    main()
