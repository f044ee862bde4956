"""Gaussian inputs (the paper's randX) on scikit-learn's digits (embedded): a 512-512 MLP."""

from memjax import presets


def get_config(variant=""):
    return presets.corrupted(presets.digits_mlp(variant), "random_inputs")
