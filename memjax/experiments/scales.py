"""How large a reproduction is: three scales, and in which points each is smaller than the paper."""

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


def _field(words: str, default: Any = dataclasses.MISSING) -> Any:
    return dataclasses.field(default=default, metadata={"words": words})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the runs of one study are; what a study does not use is left at its default.

    `words` in a field's metadata name it in the list of reductions; fields that the paper does not
    state have none.
    """

    dataset: str = _field("data set")
    num_train: int = _field("training examples")
    width: float = _field("hidden units a layer, or factor of the CNN's channels")
    num_epochs: int = _field("epochs at most")
    learning_rate: float = _field("learning rate", 0.01)
    image_size: int = _field("pixels a side", 0)
    levels: tuple[float, ...] = _field("noise levels", ())
    widths: tuple[int, ...] = _field("widths", ())
    numbers_of_examples: tuple[int, ...] = _field("numbers of examples", ())
    num_runs: int = _field("runs", 0)
    crop: int = _field("pixels cropped from each side before the CNN", 2)
    pool: int = _field("pooling window and stride of the CNN", 3)
    strengths: tuple[tuple[str, tuple[float, ...]], ...] = _field("strengths", ())
    adversarial_weights: tuple[float, ...] = _field("weights of adversarial training", ())
    # Below, the paper states nothing.
    num_validation: int = 1000
    num_seeds: int = 3
    batch_size: int = 128
    checkpoint_epochs: int = 10
    num_searched: int = 1000  # examples of each split whose neighbourhood is searched
    radius: float = 0.02  # max-norm, in [0, 1] pixels
    radii: tuple[float, ...] = ()
    num_probes: int = 50
    num_class_probes: int = 20
    num_hessian: int = 1000  # training examples whose mean loss has the Hessian
    adversarial_radius: float = 0.02
    adversarial_steps: int = 10

    def config_fields(self) -> dict[str, float]:
        """Returns the model fields of the CNN."""
        return {"width_factor": self.width, "crop": self.crop, "pool": self.pool}


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
_RADIUS = 0.3 / 255
_RADII = (0.1 / 255, 0.3 / 255, 1 / 255, 3 / 255)

_PAPER = {
    "consistency": Sizes(dataset="mnist", num_train=60_000, width=4096, num_epochs=1, num_runs=100),
    "influence": Sizes(
        dataset="mnist", num_train=1000, width=16, num_epochs=50, image_size=14,
        learning_rate=0.1, batch_size=100, num_validation=0, num_seeds=5,
    ),
    "mnist_noise": Sizes(
        dataset="mnist", num_train=50_000, width=4096, num_epochs=1000, levels=_LEVELS,
        num_validation=10_000, checkpoint_epochs=50,
    ),
    "cifar_noise": Sizes(
        dataset="cifar10", num_train=50_000, width=1.0, num_epochs=100, levels=(*_LEVELS, 1.0),
        num_validation=10_000, radius=_RADIUS, radii=_RADII,
    ),
    "capacity": Sizes(
        dataset="mnist", num_train=50_000, width=4096, num_epochs=1000,
        levels=(0.2, 0.4, 0.6, 0.8, 1.0), widths=(16, 64, 256, 1024, 4096, 8192),
        num_validation=10_000,
    ),
    "cifar_capacity": Sizes(
        dataset="cifar10", num_train=50_000, width=4096, num_epochs=100, levels=(0.2, 0.6, 1.0),
        widths=(64, 256, 1024, 4096), num_validation=10_000,
    ),
    "dataset_size": Sizes(
        dataset="mnist", num_train=50_000, width=4096, num_epochs=1000,
        levels=(0.2, 0.4, 0.6, 0.8, 1.0), numbers_of_examples=(1000, 5000, 10_000, 50_000),
        num_validation=10_000,
    ),
    "regularizers": Sizes(
        dataset="cifar10", num_train=50_000, width=1.0, num_epochs=100,
        strengths=tuple((name, values) for name, (_, values) in TECHNIQUES.items()),
        adversarial_weights=ADVERSARIAL_WEIGHTS, num_validation=10_000,
    ),
}  # fmt: skip
_LAPTOP = {
    "consistency": dataclasses.replace(
        _PAPER["consistency"], num_train=1000, width=512, learning_rate=0.1, batch_size=20
    ),
    "influence": _PAPER["influence"],
    "mnist_noise": dataclasses.replace(
        _PAPER["mnist_noise"], num_seeds=5, num_train=2000, width=256, num_epochs=100,
        learning_rate=0.05, num_validation=1000, checkpoint_epochs=20, num_searched=500,
    ),
    "cifar_noise": dataclasses.replace(
        _PAPER["cifar_noise"], num_train=1000, width=0.125, num_epochs=40, levels=(0.4, 0.8, 1.0),
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
        _PAPER["regularizers"], num_train=500, width=0.125, num_epochs=30, strengths=_FEW,
        adversarial_weights=(0.45,), num_validation=500, batch_size=50, adversarial_steps=3,
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
        _LAPTOP["cifar_noise"], **_SMALL, num_train=200, width=0.04, num_epochs=9,
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
        _LAPTOP["regularizers"], **_SMALL, num_train=100, width=0.04, num_epochs=4, crop=0, pool=2,
        strengths=_FEWEST, adversarial_steps=2,
    ),
}  # fmt: skip
SCALES: dict[str, dict[str, Sizes]] = {"smoke": _SMOKE, "laptop": _LAPTOP, "paper": _PAPER}


def reductions(scale: str, studies: Iterable[str]) -> tuple[str, ...]:
    """Returns one sentence for each point in which a scale's studies are not as in the paper.

    Example:
      >>> reductions("laptop", ["influence"])
      ()
      >>> reductions("smoke", ["consistency"])[0]
      'consistency: data set digits (paper: mnist).'
    """
    sentences = []
    for study in studies:
        here, paper = SCALES[scale][study], SCALES["paper"][study]
        for field in dataclasses.fields(Sizes):
            ours, theirs = getattr(here, field.name), getattr(paper, field.name)
            if ours != theirs and "words" in field.metadata:
                words = f"{field.metadata['words']} {_in_words(ours)} (paper: {_in_words(theirs)})"
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
