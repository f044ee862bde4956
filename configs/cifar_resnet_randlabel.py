"""Random labels (the paper's randY) on CIFAR-10: ResNet-18 without explicit regularisation."""

from memjax import presets


def get_config(variant=""):
    config = presets.without_regularization(presets.cifar_resnet(variant))
    return presets.corrupted(config, "random_labels")
