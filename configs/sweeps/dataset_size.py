"""How long does noise take? (Figure 6, right.) Numbers of MNIST examples x levels of randX."""

from memjax import presets
from memjax.experiments.scales import SCALES
from memjax.experiments.studies import dataset_size
from memjax.sweeps.points import Point


def get_points(variant=""):
    quick = presets.is_quick(variant)
    if not quick:
        yield from dataset_size(SCALES["paper"]["dataset_size"])
        return
    for size in (250, 500, 1000):
        for level in (0.0, 0.5, 1.0):
            config = presets.noise(presets.mnist_mlp(variant), "randX", level)
            config.dataset.num_train = size
            config.dataset.image_size = 14
            config.train.num_epochs = 60
            presets.save_ends_only(config)
            factors = {"kind": "randX", "level": level, "num_examples": size, "seed": 0}
            yield Point(f"randX_{level:g}_examples_{size}_seed_0", factors, config)
