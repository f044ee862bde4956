"""Real CIFAR-10: the paper's small AlexNet."""

from memjax import presets


def get_config(variant=""):
    return presets.cifar_cnn(variant)
