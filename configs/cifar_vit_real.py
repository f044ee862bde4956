"""Real CIFAR-10: the tiny vision transformer with the usual recipe."""

from memjax import presets


def get_config(variant=""):
    return presets.cifar_vit(variant)
