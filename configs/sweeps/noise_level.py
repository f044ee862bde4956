"""Does complexity grow with noise? (Figures 7 and 8.) randX, randY; MNIST and CIFAR-10."""

from memjax import presets
from memjax.experiments.scales import SCALES
from memjax.experiments.studies import cifar_noise, mnist_noise
from memjax.sweeps.points import Point


def get_points(variant=""):
    quick = presets.is_quick(variant)
    if not quick:
        for dataset, study in (("mnist", mnist_noise), ("cifar10", cifar_noise)):
            for point in study(SCALES["paper"][study.__name__]):
                factors = {"dataset": dataset, **point.factors}
                yield Point(f"{dataset}_{point.name}", factors, point.config)
        return
    levels = (0.4, 0.8)
    settings = [("real", 0.0), *((kind, level) for kind in ("randX", "randY") for level in levels)]
    for dataset, preset in (("mnist", presets.mnist_mlp), ("cifar10", presets.cifar_cnn)):
        for kind, level in settings:
            config = presets.noise(preset(variant), kind, level)
            config.train.stop_at_train_accuracy = 0.0
            factors = {"dataset": dataset, "kind": kind, "level": level, "seed": 0}
            yield Point(f"{dataset}_{kind}_{level:g}_seed_0", factors, config)
