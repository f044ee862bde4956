"""Gaussian inputs (the paper's randX) on CIFAR-10: the paper's small AlexNet."""

from memjax import presets


def get_config(variant=""):
    return presets.corrupted(presets.cifar_cnn(variant), "random_inputs")
