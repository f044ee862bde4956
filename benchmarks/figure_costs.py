"""FLOPs, time and memory of the paper's figures at full size, foretold for accelerators.

    pip install .
    python -m benchmarks.figure_costs        # seconds, no data, no accelerator

FLOPs are counted (memjax.training.step.step_flops) for every point of the sweep files, as if none
stopped early. Seconds are NOT measured: a step takes the longer of its FLOPs at an assumed share of
the peak, and its traffic with memory at an assumed share of the bandwidth: six times the parameters
(read forward and backward, gradient written and read, parameters read and written; momentum twice
more). Evaluation, analysis, compilation and the start of kernels are not in it. The last columns:
megabytes of a run's state, and how many fit side by side on a chip (twice the state, in 80 %).
"""

import pathlib

from memjax.models.registry import num_params
from memjax.runtime.flops import known_peak
from memjax.sweeps.points import load_sweep

SHARE_OF_PEAK, SHARE_OF_BANDWIDTH = 0.3, 0.7  # assumed
# Makers' data sheets: bytes a second and bytes of memory of a chip.
MACHINES = {
    "H100": ("NVIDIA H100 80GB HBM3", 1, 3.35e12, 80e9),
    "v5e-8": ("TPU v5 lite", 8, 819e9, 16e9),
}
SWEEPS = {
    "5, 6 left": "capacity", "5, control": "removed", "6 right": "dataset_size",
    "7, 8, 9": "noise_level", "10, 11": "regularizer",
}  # fmt: skip
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}
NUM_TRAIN = 50_000


def cost_of(config, counted):
    """Returns (FLOPs of a step, parameters, bytes moved by a step, steps, bytes of the state)."""
    import jax

    from memjax.data.batching import make_batches
    from memjax.training.setup import make_network, make_optimizer_of
    from memjax.training.state import init_state
    from memjax.training.step import step_flops

    shape, size = SHAPES[config.dataset.name], config.train.batch_size
    examples = config.dataset.num_train or NUM_TRAIN
    if config.corruption.kind == "removed":
        examples = round(examples * (1 - config.corruption.fraction))
    batches = make_batches(examples, size)
    is_adversarial = config.regularizer.adversarial_weight > 0
    key = repr(config.model), config.optimizer.momentum > 0, size, is_adversarial
    if key not in counted:
        network, optimizer = make_network(config, 10, 0.0, 1.0), make_optimizer_of(config, batches)
        state = jax.eval_shape(lambda: init_state(0, network.model, optimizer, shape))
        state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        params = num_params(state.params)
        moved = 4 * params * (8 if config.optimizer.momentum > 0 else 6)
        counted[key] = step_flops(network, optimizer, shape, size), params, moved, state_bytes
    flops, params, moved, state_bytes = counted[key]
    return flops, params, moved, batches.steps_per_epoch * config.train.num_epochs, state_bytes


def show(figure, words, costs):
    """Prints the row of some runs, from `cost_of` of each."""
    flops = sum(cost[0] * cost[3] for cost in costs)
    row = f"{figure:<11}{words:<14}{len(costs):>5}{max(c[1] for c in costs) / 1e6:>8.1f}"
    row += f"{max(c[0] for c in costs) / 1e9:>8.1f}{flops:>10.1e}"
    for kind, chips, bandwidth, _ in MACHINES.values():
        rate, speed = SHARE_OF_PEAK * known_peak(kind, "float32"), SHARE_OF_BANDWIDTH * bandwidth
        seconds = sum(max(c[0] / rate, c[2] / speed) * c[3] for c in costs) / chips
        row += f"{seconds / 60:>10.1f}"
    side_by_side = [int(machine[3] * 0.8 / max(2 * c[4] for c in costs))
                    for machine in MACHINES.values()]  # fmt: skip
    print(row + f"{max(c[4] for c in costs) / 1e6:>9.0f}{side_by_side[0]:>8}{side_by_side[1]:>8}")


def main():
    """Prints one table."""
    from memjax import presets
    from memjax.config import resolve

    folder = pathlib.Path(__file__).parent.parent / "configs" / "sweeps"
    hours = "".join(f"{name + ' min':>10}" for name in MACHINES)
    print(f"{'figure':<11}{'what':<14}{'runs':>5}{'Mparam':>8}{'GF/step':>8}{'FLOPs':>10}{hours}"
          f"{'MB state':>9}{'H100':>8}{'v5e':>8}")  # fmt: skip
    counted = {}
    one_epoch = presets.mnist_mlp()
    one_epoch.train.num_epochs = 1
    show("1", "3 x 100 seeds", [cost_of(resolve(one_epoch), counted)] * 300)
    show("2", "2 CNNs", [cost_of(resolve(presets.cifar_cnn()), counted)] * 2)
    for figure, name in SWEEPS.items():
        sweep = load_sweep(str(folder / f"{name}.py"), folder)
        show(figure, name, [cost_of(config, counted) for config in sweep.configs])


if __name__ == "__main__":
    main()
