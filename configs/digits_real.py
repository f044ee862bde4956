"""Real scikit-learn's digits (embedded): a 512-512 MLP."""

from memjax import presets


def get_config(variant=""):
    return presets.digits_mlp(variant)
