"""How long does noise take? (Figure 6, right.) Numbers of MNIST examples x levels of randX."""

from memjax import presets
from memjax.sweeps.points import Point


def get_points(variant=""):
    quick = presets.is_quick(variant)
    sizes = (250, 500, 1000) if quick else (1000, 2000, 5000, 10_000, 20_000, 50_000)
    levels = (0.0, 0.5, 1.0) if quick else (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    for size in sizes:
        for level in levels:
            for seed in range(1 if quick else 3):
                config = presets.noise(presets.mnist_mlp(variant), "randX", level)
                config.dataset.num_train = size
                config.seed = config.corruption.seed = seed
                if quick:
                    config.dataset.image_size = 14
                    config.train.num_epochs = 60
                presets.save_ends_only(config)
                factors = {"kind": "randX", "level": level, "num_examples": size, "seed": seed}
                yield Point(f"randX_{level:g}_examples_{size}_seed_{seed}", factors, config)
