"""Real MNIST: the paper's 4096-4096 MLP."""

from memjax import presets


def get_config(variant=""):
    return presets.mnist_mlp(variant)
