"""How large a reproduction is: four scales, and in which points each is smaller than the paper.

The smaller scales are chosen by their cost alone (`python -m memjax.reproduce --dry_run` measures
it): see docs/protocol.md.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

DROPOUT_AND_ADVERSARIAL = "dropout + adversarial"
# Technique -> field of config.regularizer, and the paper's range; values between are ours.
TECHNIQUES = {
    "dropout": ("dropout", (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    "input dropout": ("input_dropout", (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    "input noise": ("input_noise", (0.1, 0.2, 0.5, 1.0, 2.0, 3.5, 5.0)),
    "hidden noise": ("hidden_noise", (0.01, 0.03, 0.05, 0.1, 0.2, 0.3)),
    "weight decay": ("weight_decay", (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0)),
    DROPOUT_AND_ADVERSARIAL: ("dropout", (0.03, 0.1, 0.3, 0.5)),
}
ADVERSARIAL_WEIGHTS = (0.2, 0.45, 0.7)
DROPOUT_JUDGED_AT = 0.5  # by the primary claim of figure 10


def _field(words: str, default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, metadata={"words": words})


def _unstated(words: str, default: Any) -> Any:
    """A size that the paper does not state: its value at the paper's scale is ours."""
    return dataclasses.field(default=default, metadata={"words": words, "unstated": True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the runs of one study are; what a study does not use is left at its default.

    `words` in a field's metadata name it in the list of reductions; every field has them, so that
    no smaller size can be left out there.
    """

    dataset: str = _field("data set")
    num_train: int = _field("training examples")
    num_epochs: int = _field("epochs at most")
    width: int = _field("hidden units a layer", 0)
    channels: float = _field("channels of the CNN, over the paper's", 0.0)
    learning_rate: float = _field("learning rate", 0.01)
    image_size: int = _field("pixels a side", 0)
    levels: tuple[float, ...] = _field("noise levels", ())
    widths: tuple[int, ...] = _field("widths", ())
    numbers_of_examples: tuple[int, ...] = _field("numbers of examples", ())
    num_runs: int = _field("runs", 0)
    num_measured: int = _field("examples of which P(correct) is measured", 1000)
    crop: int = _field("pixels cropped from each side before the CNN", 2)
    pool: int = _field("pooling window and stride of the CNN", 3)
    strengths: tuple[tuple[str, tuple[float, ...]], ...] = _field("strengths", ())
    adversarial_weights: tuple[float, ...] = _field("weights of adversarial training", ())
    radius: float = _field("radius of the critical sample ratio, in [0, 1] pixels", 0.3 / 255)
    radii: tuple[float, ...] = _unstated("radii", ())
    adversarial_radius: float = _field("radius of adversarial training", 0.3 / 255)
    num_validation: int = _unstated("validation examples", 1000)
    num_seeds: int = _unstated("seeds", 3)
    batch_size: int = _unstated("batch size", 128)
    checkpoint_epochs: int = _unstated("epochs between checkpoints", 10)
    evaluation_epochs: int = _unstated("epochs between evaluations of the CNN", 1)
    search_growth: float = _unstated("epochs of a searched checkpoint over those of the last", 2.0)
    num_searched: int = _unstated("examples of each split that are searched", 1000)
    num_probes: int = _unstated("updates after which the loss-sensitivity is taken", 50)
    num_class_probes: int = _unstated("updates after which it is taken class by class", 20)
    num_hessian: int = _unstated("training examples whose mean loss has the Hessian", 1000)
    adversarial_steps: int = _unstated("steps of the search in adversarial training", 10)

    def config_fields(self) -> dict[str, float]:
        """Returns the model fields of the CNN."""
        return {"width_factor": self.channels, "crop": self.crop, "pool": self.pool}


_FEW = (
    ("dropout", (0.2, 0.5, 0.8)),
    ("input dropout", (0.5,)),
    ("input noise", (1.0,)),
    ("hidden noise", (0.3,)),
    ("weight decay", (1e-2, 0.1)),
    (DROPOUT_AND_ADVERSARIAL, (0.3, 0.5)),
)
_FEWEST = tuple(
    (technique, strengths[-1:])
    for technique, strengths in _FEW
    if technique in ("dropout", "weight decay", DROPOUT_AND_ADVERSARIAL)
)
_LEVELS = (0.2, 0.4, 0.6, 0.8)
_RADII = (0.1 / 255, 0.3 / 255, 1 / 255, 3 / 255, 10 / 255, 30 / 255)

_PAPER = {
    "consistency": Sizes(
        dataset="mnist", num_train=60_000, width=4096, num_epochs=1, num_runs=100, batch_size=20,
    ),
    "influence": Sizes(
        dataset="mnist", num_train=1000, width=16, num_epochs=500, image_size=14,
        learning_rate=0.1, batch_size=100, num_validation=0, num_seeds=5,
    ),
    "mnist_noise": Sizes(
        dataset="mnist", num_train=50_000, width=4096, num_epochs=1000, levels=_LEVELS,
        num_validation=10_000, checkpoint_epochs=50, radii=_RADII,
        radius=0.02,  # at 0.3/255, the paper's on CIFAR-10, next to nothing is found on MNIST
    ),
    "cifar_noise": Sizes(
        dataset="cifar10", num_train=50_000, channels=1.0, num_epochs=100, levels=(*_LEVELS, 1.0),
        num_validation=10_000, radii=_RADII,
    ),
    "capacity": Sizes(
        dataset="mnist", num_train=50_000, width=4096, num_epochs=1000,
        levels=(0.2, 0.4, 0.6, 0.8, 1.0),
        widths=(8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
        num_validation=10_000,
    ),
    "cifar_capacity": Sizes(
        dataset="cifar10", num_train=50_000, width=4096, num_epochs=100, levels=(0.2, 0.6, 1.0),
        widths=(64, 256, 1024, 4096), num_validation=10_000,
    ),
    "dataset_size": Sizes(
        dataset="mnist", num_train=50_000, width=4096, num_epochs=1000,
        levels=(0.2, 0.4, 0.6, 0.8, 1.0),
        numbers_of_examples=(1000, 2000, 5000, 10_000, 20_000, 50_000),
        num_validation=10_000,
    ),
    "regularizers": Sizes(
        dataset="cifar10", num_train=50_000, channels=1.0, num_epochs=100,
        strengths=tuple((name, values) for name, (_, values) in TECHNIQUES.items()),
        adversarial_weights=ADVERSARIAL_WEIGHTS, num_validation=10_000,
    ),
}  # fmt: skip
_LAPTOP = {
    "consistency": dataclasses.replace(
        _PAPER["consistency"], num_train=1000, width=512, batch_size=20
    ),
    "influence": dataclasses.replace(_PAPER["influence"], num_epochs=50),
    "mnist_noise": dataclasses.replace(
        _PAPER["mnist_noise"], num_seeds=5, num_train=2000, width=256, num_epochs=100,
        learning_rate=0.05, num_validation=1000, checkpoint_epochs=20, num_searched=500,
    ),
    "cifar_noise": dataclasses.replace(
        _PAPER["cifar_noise"], num_train=1000, channels=0.125, num_epochs=40,
        levels=(0.2, 0.8, 1.0),
        num_validation=1000, num_searched=100, checkpoint_epochs=8,
    ),
    "capacity": dataclasses.replace(
        _PAPER["capacity"], num_seeds=5, num_train=1000, width=256, num_epochs=100,
        learning_rate=0.05, levels=(0.4, 0.8), widths=(8, 16, 64, 256, 512),
        num_validation=1000, batch_size=50,
    ),
    "cifar_capacity": dataclasses.replace(
        _PAPER["cifar_capacity"], num_seeds=5, num_train=1000, width=256, num_epochs=60,
        levels=(0.4, 0.8), learning_rate=0.05, widths=(16, 64, 256),
        num_validation=1000, batch_size=50,
    ),
    "dataset_size": dataclasses.replace(
        _PAPER["dataset_size"], num_seeds=5, width=256, num_epochs=100, learning_rate=0.05,
        levels=(0.4, 0.8), numbers_of_examples=(250, 500, 1000, 2000),
        num_validation=1000, batch_size=50, num_train=2000,
    ),
    "regularizers": dataclasses.replace(
        _PAPER["regularizers"], num_train=500, channels=0.125, num_epochs=30, strengths=_FEW,
        adversarial_weights=(0.45,), num_validation=500, batch_size=50, adversarial_steps=3,
    ),
}  # fmt: skip


def _five(technique: str, strengths: tuple[float, ...]) -> tuple[float, ...]:
    chosen = {strengths[round(place * (len(strengths) - 1) / 4)] for place in range(5)}
    return tuple(sorted(chosen | {DROPOUT_JUDGED_AT} if technique == "dropout" else chosen))


# Five strengths a technique, as many for dropout with adversarial training.
_FIVE = tuple(
    (technique, _five(technique, strengths))
    for technique, (_, strengths) in TECHNIQUES.items()
    if technique != DROPOUT_AND_ADVERSARIAL
)
# What a verdict needs rather than what is near the paper: 5000 updates of the CNN and of the small
# MLP, five seeds or more, every level; the networks narrower, so that each figure takes at most 75
# minutes on two cores and all of them six hours.
_WORKSTATION = {
    "consistency": dataclasses.replace(_PAPER["consistency"], num_train=10_000, width=512),
    "influence": dataclasses.replace(_PAPER["influence"], num_epochs=500, num_seeds=10),
    "mnist_noise": dataclasses.replace(
        _PAPER["mnist_noise"], num_seeds=5, num_train=2500, width=512, num_epochs=200,
        learning_rate=0.05, num_validation=2000, batch_size=64, checkpoint_epochs=25,
        num_searched=200,
    ),
    "cifar_noise": dataclasses.replace(
        _PAPER["cifar_noise"], num_train=2000, channels=0.125, num_epochs=80, batch_size=32,
        num_validation=2000, num_searched=200, checkpoint_epochs=16, evaluation_epochs=2,
        search_growth=4.0,
    ),
    "capacity": dataclasses.replace(
        _PAPER["capacity"], num_seeds=8, num_train=1000, width=256, num_epochs=200,
        learning_rate=0.05, levels=(0.4, 0.8), widths=(8, 16, 32, 64, 128, 256, 512),
        num_validation=2000, batch_size=50,
    ),
    "cifar_capacity": dataclasses.replace(
        _PAPER["cifar_capacity"], num_seeds=5, num_train=1000, width=256, num_epochs=100,
        levels=(0.4, 0.8), learning_rate=0.05, widths=(16, 32, 64, 128, 256),
        num_validation=2000, batch_size=50,
    ),
    "dataset_size": dataclasses.replace(
        _PAPER["dataset_size"], num_seeds=5, width=256, num_epochs=100, learning_rate=0.05,
        levels=(0.4, 0.8), num_validation=2000, batch_size=50,
    ),
    "regularizers": dataclasses.replace(
        _PAPER["regularizers"], num_train=500, channels=0.0625, num_epochs=60, batch_size=25,
        strengths=(*_FIVE, (DROPOUT_AND_ADVERSARIAL, (0.03, 0.1, 0.2, 0.3, 0.5))),
        adversarial_weights=(0.45,), num_validation=500, adversarial_steps=3, evaluation_epochs=3,
    ),
}  # fmt: skip
_SMALL: dict[str, Any] = {
    "dataset": "digits",
    "num_seeds": 2,
    "num_validation": 200,
    "image_size": 0,
}
_SMOKE = {
    "consistency": dataclasses.replace(
        _LAPTOP["consistency"], **_SMALL, num_train=500, width=64, num_runs=20,
    ),
    "influence": dataclasses.replace(
        _LAPTOP["influence"], **(_SMALL | {"num_validation": 0}), num_train=200, num_epochs=10,
        num_probes=10, num_class_probes=5,
    ),
    "mnist_noise": dataclasses.replace(
        _LAPTOP["mnist_noise"], **_SMALL, num_train=300, width=32, num_epochs=30, levels=(0.8,),
        checkpoint_epochs=10, num_searched=50, num_hessian=100, batch_size=50,
    ),
    "cifar_noise": dataclasses.replace(
        _LAPTOP["cifar_noise"], **_SMALL, num_train=200, channels=0.04, num_epochs=9,
        levels=(0.8, 1.0), crop=0, pool=2, radius=0.02, radii=(0.01, 0.02),
        checkpoint_epochs=3, num_searched=30, batch_size=50,
    ),
    "capacity": dataclasses.replace(
        _LAPTOP["capacity"], **_SMALL, num_train=200, width=32, num_epochs=20, levels=(0.8,),
        widths=(8, 16, 32), batch_size=20,
    ),
    "cifar_capacity": dataclasses.replace(
        _LAPTOP["cifar_capacity"], **_SMALL, num_train=200, width=32, num_epochs=20, levels=(0.8,),
        widths=(8, 16),
    ),
    "dataset_size": dataclasses.replace(
        _LAPTOP["dataset_size"], **_SMALL, num_train=200, width=32, num_epochs=20, levels=(0.8,),
        numbers_of_examples=(100, 200),
    ),
    "regularizers": dataclasses.replace(
        _LAPTOP["regularizers"], **_SMALL, num_train=100, channels=0.04, num_epochs=4,
        crop=0, pool=2,
        strengths=_FEWEST, adversarial_steps=2,
    ),
}  # fmt: skip
SCALES: dict[str, dict[str, Sizes]] = {
    "smoke": _SMOKE,
    "laptop": _LAPTOP,
    "workstation": _WORKSTATION,
    "paper": _PAPER,
}


def reductions(scale: str, studies: Iterable[str]) -> tuple[str, ...]:
    """Returns one sentence for each point in which a scale's studies are not as in the paper.

    Example:
      >>> reductions("paper", ["influence"])
      ()
      >>> reductions("smoke", ["consistency"])[0]
      'consistency: data set digits (paper: mnist).'
    """
    sentences = []
    for study in studies:
        here, paper = SCALES[scale][study], SCALES["paper"][study]
        for field in dataclasses.fields(Sizes):
            ours, theirs = getattr(here, field.name), getattr(paper, field.name)
            if ours != theirs:
                stated = "not stated, ours" if "unstated" in field.metadata else "paper"
                words = (
                    f"{field.metadata['words']} {_in_words(ours)} ({stated}: {_in_words(theirs)})"
                )
                sentences.append(f"{study}: {words}.")
    return tuple(sentences)


def _in_words(value: Any) -> str:
    if isinstance(value, tuple):
        if value and isinstance(value[0], tuple):  # strengths of techniques
            return f"{sum(len(strengths) for _, strengths in value)} settings"
        return ", ".join(map(_in_words, value)) or "none"
    if isinstance(value, int):
        return f"{value:,}" if value else "as stored"
    return str(value) if isinstance(value, str) else f"{value:g}"
