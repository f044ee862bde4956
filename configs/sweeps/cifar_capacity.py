"""Does noise need capacity on CIFAR-10? (Beside figure 5.) Widths of the CNN; randX and randY.

quick: 3 widths up to an eighth of the paper's, on 500 images.
"""

from memjax import presets
from memjax.sweeps.points import Point


def get_points(variant=""):
    quick = presets.is_quick(variant)
    factors_of_width = (0.03125, 0.0625, 0.125) if quick else (0.0625, 0.125, 0.25, 0.5, 1, 2)
    levels = (0.5,) if quick else (0.2, 0.4, 0.6, 0.8, 1.0)
    noisy = [(kind, level) for kind in ("randX", "randY") for level in levels]
    for width_factor in factors_of_width:
        for kind, level in [("real", 0.0), *noisy]:
            for seed in range(1 if quick else 3):
                config = presets.noise(presets.cifar_cnn(variant), kind, level)
                config.model.width_factor = float(width_factor)
                config.seed = config.corruption.seed = seed
                if quick:
                    config.dataset.num_train = 500
                    config.train.batch_size = 50
                    config.train.num_epochs = 15
                presets.save_ends_only(config)
                factors = {
                    "kind": kind,
                    "level": level,
                    "width_factor": float(width_factor),
                    "seed": seed,
                }
                yield Point(f"{kind}_{level:g}_width_{width_factor:g}_seed_{seed}", factors, config)
