"""The paper's set-ups as parts that the files in configs/ compose.

A preset takes the variant after the colon of `--config=FILE:VARIANT`: "" is the full run and
"quick" a small one that tries everything in seconds to minutes.
"""

import ml_collections

from memjax.config import default_config
from memjax.errors import InputError


def is_quick(variant: str | None) -> bool:
    """Returns whether a variant is the quick one.

    Raises:
      InputError: if it is neither "" nor "quick".
    """
    if variant not in (None, "", "quick"):
        raise InputError(f"config variant {variant!r}: must be empty or 'quick'")
    return variant == "quick"


def corrupted(config: ml_collections.ConfigDict, kind: str) -> ml_collections.ConfigDict:
    """Returns the config with all of its training examples corrupted."""
    config.corruption.kind = kind
    return config


NOISE_KINDS = {"randX": "random_inputs", "randY": "random_labels", "removed": "removed"}


def noise(config: ml_collections.ConfigDict, kind: str, level: float) -> ml_collections.ConfigDict:
    """Returns the config with a share of its training examples made noise, or left out.

    Args:
      config: changed in place.
      kind: 'real' (nothing is changed), or one of `NOISE_KINDS`.
      level: the share, 0 to 1; 0 is real data, whatever the kind.
    """
    if kind != "real" and level > 0:
        config.corruption.kind = NOISE_KINDS[kind]
        config.corruption.fraction = level
    return config


def save_ends_only(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config with checkpoints of the first and the last step alone, for sweeps."""
    config.checkpoint.powers_of_two = False
    config.checkpoint.every_epochs = 0
    return config


def digits_mlp(variant: str | None = "") -> ml_collections.ConfigDict:
    """Returns an MLP on scikit-learn's 8x8 digits: embedded data, seconds on a laptop."""
    config = default_config()
    config.dataset.source = "digits"
    config.dataset.name = "digits"
    config.model.name = "mlp"
    config.model.widths = (128, 128) if is_quick(variant) else (512, 512)
    config.optimizer.learning_rate = 0.05
    config.optimizer.momentum = 0.9
    config.train.batch_size = 64
    config.train.num_epochs = 20 if is_quick(variant) else 150
    config.train.stop_at_train_accuracy = 1.0
    config.checkpoint.every_epochs = 10
    return config


def mnist_mlp(variant: str | None = "") -> ml_collections.ConfigDict:
    """Returns the paper's MLP on MNIST: two hidden layers of 4096, SGD, lr .01, 1000 epochs."""
    config = default_config()
    config.dataset.source = "tfds"
    config.dataset.name = "mnist"
    config.model.name = "mlp"
    config.model.widths = (4096, 4096)
    config.optimizer.learning_rate = 0.01
    config.train.num_epochs = 1000
    config.train.stop_at_train_accuracy = 1.0
    if is_quick(variant):
        config.dataset.num_train = 1000
        config.dataset.num_validation = 1000
        config.model.widths = (256, 256)
        config.optimizer.learning_rate = 0.1
        config.train.num_epochs = 20
    return config


def cifar_cnn(variant: str | None = "") -> ml_collections.ConfigDict:
    """Returns the paper's CNN on CIFAR-10: momentum .9, lr .01 halved every 15 epochs."""
    config = default_config()
    config.dataset.source = "tfds"
    config.dataset.name = "cifar10"
    config.dataset.standardize = "channel"  # [not in the paper]
    config.model.name = "alexnet"
    config.model.width_factor = 1.0
    config.optimizer.learning_rate = 0.01
    config.optimizer.momentum = 0.9
    config.optimizer.schedule = "step"
    config.optimizer.decay_epochs = 15.0
    config.optimizer.decay_factor = 0.5
    config.train.num_epochs = 100  # [not in the paper]
    config.train.stop_at_train_accuracy = 1.0
    if is_quick(variant):
        config.dataset.num_train = 1000
        config.dataset.num_validation = 500
        config.model.width_factor = 0.125
        config.train.num_epochs = 5
    return config


def cifar_resnet(variant: str | None = "") -> ml_collections.ConfigDict:
    """Returns ResNet-18 on CIFAR-10 with the usual recipe. [not in the paper]

    SGD with Nesterov momentum, lr .1 with five epochs of warm-up and a cosine over 200, weight
    decay of the kernels, random crops and flips, label smoothing.
    """
    config = _cifar_recipe()
    config.model.name = "resnet"
    config.model.depth = 18
    config.model.width_factor = 1.0
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.warmup_epochs = 5.0
    config.regularizer.weight_decay = 5e-4
    config.train.batch_size = 128
    if is_quick(variant):
        _make_quick(config)
        config.model.depth = 10
        config.model.width_factor = 0.125
    return config


def cifar_vit(variant: str | None = "") -> ml_collections.ConfigDict:
    """Returns the tiny vision transformer on CIFAR-10, patches of 4 pixels. [not in the paper]

    AdamW, lr .001 with ten epochs of warm-up and a cosine over 200, gradients clipped to 1, weight
    decay of the kernels, random crops and flips, label smoothing, dropout.
    """
    config = _cifar_recipe()
    config.model.name = "vit"
    config.model.size = "tiny"
    config.model.patch_size = 4
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_epochs = 10.0
    config.optimizer.clip_norm = 1.0
    config.regularizer.weight_decay = 0.05
    config.regularizer.dropout = 0.1
    config.train.batch_size = 256
    if is_quick(variant):
        _make_quick(config)
        config.model.patch_size = 8
        config.model.width = 48
        config.model.depth = 2
        config.model.num_heads = 3
        config.train.batch_size = 64
    return config


def without_regularization(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config without augmentation, label smoothing, dropout and weight decay.

    With them a network does not learn random labels by heart, or takes very long to; the network,
    its optimiser and its schedule stay. Training then stops when all are learned.
    """
    plain = default_config()
    config.augmentation = plain.augmentation
    config.train.label_smoothing = 0.0
    config.train.stop_at_train_accuracy = 1.0
    config.regularizer = plain.regularizer
    config.optimizer.decay_mask = plain.optimizer.decay_mask
    return config


def _cifar_recipe() -> ml_collections.ConfigDict:
    config = default_config()
    config.dataset.source = "tfds"
    config.dataset.name = "cifar10"
    config.dataset.standardize = "channel"
    config.augmentation.crop = 4
    config.augmentation.flip = True
    config.optimizer.schedule = "cosine"
    config.optimizer.decay_mask = "kernels"
    config.train.label_smoothing = 0.1
    config.train.num_epochs = 200
    return config


def _make_quick(config: ml_collections.ConfigDict) -> None:
    config.dataset.num_train = 1000
    config.dataset.num_validation = 500
    config.optimizer.warmup_epochs = 1.0
    config.train.num_epochs = 5
