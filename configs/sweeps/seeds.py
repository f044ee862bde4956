"""One run under many seeds: digits with random labels; quick: 4 seeds of a small network."""

from memjax import presets
from memjax.sweeps.points import Point


def get_points(variant=""):
    num_seeds = 4 if presets.is_quick(variant) else 100
    for seed in range(num_seeds):
        config = presets.corrupted(presets.digits_mlp(variant), "random_labels")
        config.seed = seed
        presets.save_ends_only(config)
        yield Point(f"seed_{seed}", {"seed": seed}, config)
