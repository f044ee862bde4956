"""A hundred runs in one program against a torch loop over them, and how many to run side by side.

    pip install . && pip install torch==2.13.0     # torch only for the peer's rows
    python -m benchmarks.sweeps                    # one to two minutes on 2 cores

100 members (seeds 0 to 99) x 1 epoch of an MLP on 1000 of scikit-learn's digits. The targets are
for figure 1's training: batch 20, SGD with rate .1; rows with batch 64 and momentum .9, where
matrix products weigh more, have none. Ours trains on as many CPU devices as there are cores, as
`memjax.sweep` does. Both sides start from the same parameters and see the same batches in the same
order; their parameters are compared after the first epoch, before anything is timed. Ratios are
medians of pairs, ours and torch's in turn. The other rows justify
`memjax.training.memory.members_per_chunk`: milliseconds a run for several numbers of members side
by side (vmap) on one device, chunks one after the other.
"""

import argparse
import importlib.util
import time

import jax
import numpy as np

from benchmarks.rows import record
from benchmarks.torch_mlp import torch_mlp
from memjax import presets
from memjax.config import resolve
from memjax.data.batching import epoch_order
from memjax.sweeps.cost import sweep_mesh
from memjax.sweeps.plan import use_every_core
from memjax.training.group import Group
from memjax.training.memory import chunk_size, members_per_chunk
from memjax.training.setup import prepare
from memjax.training.state import member_keys

MEMBERS = 100
FIGURE_1 = {"batch_size": 20, "learning_rate": 0.1, "momentum": 0.0}
LARGER_BATCH = {"batch_size": 64, "learning_rate": 0.05, "momentum": 0.9}
# width, training, target
PEER_ROWS = (
    (512, FIGURE_1, 1.6),
    (16, FIGURE_1, 12.0),
    (512, LARGER_BATCH, None),
    (16, LARGER_BATCH, None),
)
CHUNK_ROWS = ((512, (1, 10)), (128, (1, 3, 10)), (64, (1, 5, 25)), (16, (1, 10, 25, 100)))


def group_of(width, training, members_per_chunk=0, num_devices=0):
    """Returns the group on the device, its members at step 0, and their common setup."""
    config = presets.digits_mlp()
    config.model.widths = (width, width)
    config.dataset.num_train = 1000
    config.dataset.num_validation = 0
    config.train.batch_size = training["batch_size"]
    config.optimizer.learning_rate = training["learning_rate"]
    config.optimizer.momentum = training["momentum"]
    config.ensemble.size = MEMBERS
    config.run.num_devices = num_devices
    config.run.members_per_chunk = members_per_chunk
    resolved = resolve(config)
    setup, mesh = prepare(resolved), sweep_mesh(resolved, MEMBERS)
    # Each device has its own members, so a batch is not padded for their sake.
    batches = setup.batches._replace(padded_size=setup.batches.batch_size)
    setup = setup._replace(batches=batches)
    with jax.set_mesh(mesh):
        group = Group([setup], (), mesh, chunk_size(setup, MEMBERS, mesh))
        group.start(range(MEMBERS))
    return group, setup


def torch_loop(setup, params):
    """Returns a function that trains every member for one epoch, and the members' networks."""
    import torch

    images = torch.from_numpy(setup.examples.images.reshape(1000, -1))
    images = (images - float(setup.network.mean)) / float(setup.network.std)
    labels = torch.from_numpy(setup.examples.labels).long()
    networks, optimizers, orders = [], [], []
    for member in range(MEMBERS):
        own = [(params[n]["kernel"][member], params[n]["bias"][member]) for n in sorted(params)]
        network = torch_mlp(own)
        networks.append(network)
        options = setup.config.optimizer
        sgd = torch.optim.SGD
        optimizers.append(
            sgd(network.parameters(), lr=options.learning_rate, momentum=options.momentum)
        )
        order = np.asarray(epoch_order(member_keys(member).order, 0, 1000))
        orders.append(torch.tensor(order.copy()).long())
    loss_fn = torch.nn.CrossEntropyLoss()

    def run():
        for network, optimizer, order in zip(networks, optimizers, orders, strict=True):
            for rows in order.split(setup.config.train.batch_size):
                optimizer.zero_grad()
                loss_fn(network(images[rows]), labels[rows]).backward()
                optimizer.step()

    return run, networks


def seconds(run):
    """Returns how long one call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def check(group, networks):
    """Fails unless both sides have the same parameters after their first epoch."""
    state = group.saved(range(MEMBERS)).state
    kernels = np.asarray(state.params["params"]["Dense_1"]["kernel"])
    for member in (0, MEMBERS - 1):
        other = networks[member][2].weight.detach().numpy().T
        np.testing.assert_allclose(kernels[member], other, rtol=1e-3, atol=1e-4)


def train(group, steps):
    """Trains every member for some steps from step 0."""
    with jax.set_mesh(group.mesh):
        group.train(0, steps)


def compare(width, training, target, rounds):
    """Prints the row of one width against torch."""
    group, setup = group_of(width, training)
    params = jax.tree.map(np.asarray, group.saved(range(MEMBERS)).state.params["params"])
    steps = setup.batches.steps_per_epoch
    peer, networks = torch_loop(setup, params)
    train(group, steps)
    peer()
    check(group, networks)
    pairs = [(seconds(lambda: train(group, steps)), seconds(peer)) for _ in range(rounds)]
    ours, theirs = np.median(np.array(pairs), axis=0) / MEMBERS * 1000
    ratio = np.median([theirs / ours for ours, theirs in pairs])
    what = f"{width}-{width}, batch {training['batch_size']}, chunk {group.chunk}"
    print(f"{what:<30}{ours:>9.2f}{theirs:>10.2f}{ratio:>14.2f}  {target or ''}", flush=True)
    record(f"100 runs, {what}", "a torch loop", ratio, target)


def chunks(width, sizes, rounds):
    """Prints milliseconds a run for several chunk sizes, measured in turn."""
    groups = {size: group_of(width, FIGURE_1, size, num_devices=1)[0] for size in sizes}
    steps = 50
    for group in groups.values():
        train(group, steps)
    times = {size: [] for size in sizes}
    for _ in range(rounds):
        for size, group in groups.items():
            times[size].append(seconds(lambda group=group: train(group, steps)))
    params = group.setup.num_params
    rule = members_per_chunk(params, MEMBERS, jax.devices()[0].platform)
    words = "  ".join(f"{k}: {np.median(v) / MEMBERS * 1000:.2f}" for k, v in times.items())
    print(
        f"{width}-{width} ({params:,} parameters), ms a run by chunk: {words}  rule: {rule}",
        flush=True,
    )


def main():
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    use_every_core()
    print(
        f"{'100 members x 1 epoch':<30}{'ours ms':>9}{'torch ms':>10}{'times faster':>14}  target"
    )
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: its rows are left out")
    else:
        for width, training, target in PEER_ROWS:
            compare(width, training, target, rounds)
    for width, sizes in CHUNK_ROWS:
        chunks(width, sizes, rounds)


if __name__ == "__main__":
    main()
