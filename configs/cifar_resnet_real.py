"""Real CIFAR-10: ResNet-18 with the usual recipe."""

from memjax import presets


def get_config(variant=""):
    return presets.cifar_resnet(variant)
