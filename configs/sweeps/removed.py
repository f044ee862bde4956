"""The control of figure 5: noise examples kept as randX, or left out; real MNIST as level 0."""

from memjax import presets
from memjax.sweeps.points import Point


def get_points(variant=""):
    quick = presets.is_quick(variant)
    widths = (16, 64, 256) if quick else (64, 256, 1024, 4096)
    levels = (0.4, 0.8) if quick else (0.2, 0.4, 0.6, 0.8)
    noisy = [(kind, level) for kind in ("randX", "removed") for level in levels]
    settings = [("real", 0.0), *noisy]
    for width in widths:
        for kind, level in settings:
            for seed in range(1 if quick else 3):
                config = presets.noise(presets.mnist_mlp(variant), kind, level)
                config.model.widths = (width, width)
                config.seed = config.corruption.seed = seed
                if quick:
                    config.dataset.image_size = 14
                    config.train.num_epochs = 60
                presets.save_ends_only(config)
                factors = {"kind": kind, "level": level, "width": width, "seed": seed}
                yield Point(f"{kind}_{level:g}_width_{width}_seed_{seed}", factors, config)
