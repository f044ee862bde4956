"""Does complexity grow with noise? (Figures 7 and 8.) randX, randY; MNIST and CIFAR-10."""

from memjax import presets
from memjax.sweeps.points import Point


def get_points(variant=""):
    quick = presets.is_quick(variant)
    levels = (0.4, 0.8) if quick else (0.2, 0.4, 0.6, 0.8, 1.0)
    settings = [("real", 0.0), *((kind, level) for kind in ("randX", "randY") for level in levels)]
    for dataset, preset in (("mnist", presets.mnist_mlp), ("cifar10", presets.cifar_cnn)):
        for kind, level in settings:
            for seed in range(1 if quick else 3):
                config = presets.noise(preset(variant), kind, level)
                config.seed = config.corruption.seed = seed
                config.train.stop_at_train_accuracy = 0.0
                config.checkpoint.powers_of_two = False  # every 10 epochs, for the CSR over time
                factors = {"dataset": dataset, "kind": kind, "level": level, "seed": seed}
                yield Point(f"{dataset}_{kind}_{level:g}_seed_{seed}", factors, config)
