"""Does noise need capacity? (Figures 5 and 6.) Widths of an MLP x levels of randX on MNIST.

quick: 5 widths x 5 levels on 1000 images of 14x14 pixels.
"""

from memjax import presets
from memjax.experiments.context import Context
from memjax.sweeps.figures import last_rows
from memjax.sweeps.points import Point


def get_points(variant=""):
    quick = presets.is_quick(variant)
    widths = (16, 32, 64, 128, 256) if quick else tuple(2**power for power in range(1, 13))
    levels = (0.0, 0.25, 0.5, 0.75, 1.0) if quick else (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    for width in widths:
        for level in levels:
            for seed in range(1 if quick else 3):
                config = presets.noise(presets.mnist_mlp(variant), "randX", level)
                config.model.widths = (width, width)
                config.seed = config.corruption.seed = seed
                if quick:
                    config.dataset.image_size = 14
                    config.train.num_epochs = 60
                presets.save_ends_only(config)
                factors = {"kind": "randX", "level": level, "width": width, "seed": seed}
                yield Point(f"randX_{level:g}_width_{width}_seed_{seed}", factors, config)


def get_tables(results):
    """The table of figure 5."""
    last = last_rows(results)
    reference = int(last["width"].max())
    columns = ["level", "width", "seed", "best_validation_accuracy"]
    table = last[columns].assign(reference_width=reference)
    setup = f"MLPs of two hidden layers on MNIST, {int(results['epoch'].max())} epochs at most"
    return {"figure05": (table, Context("laptop" if reference < 4096 else "paper", setup))}
