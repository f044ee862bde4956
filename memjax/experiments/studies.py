"""The runs behind the figures: a study is a set of runs that one or more figures look at."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

import memjax.presets as presets
from memjax.config import Config, with_values
from memjax.experiments.kinds import DATA, NOISE, RANDX, RANDY, REAL, REMOVED
from memjax.experiments.scales import DROPOUT_AND_ADVERSARIAL, SCALES, TECHNIQUES, Sizes
from memjax.sweeps.points import Point, check_points

UNIQUE = "unique_labels"


def _base(sizes: Sizes, network: str) -> ml_collections.ConfigDict:
    """Returns the config of a study's runs: real data, the sizes, one seed."""
    config = presets.mnist_mlp() if network == "mlp" else presets.cifar_cnn()
    config.dataset.source = "digits" if sizes.dataset == "digits" else "tfds"
    config.dataset.name = sizes.dataset
    config.dataset.num_train = sizes.num_train
    config.dataset.num_validation = sizes.num_validation
    config.dataset.image_size = sizes.image_size
    if network == "mlp":
        config.model.widths = (sizes.width,) * 2
    else:
        config.model.update(sizes.config_fields())
    config.optimizer.learning_rate = sizes.learning_rate
    config.train.batch_size = sizes.batch_size
    config.train.num_epochs = sizes.num_epochs
    config.train.stop_at_train_accuracy = 0.0
    config.train.record_dynamics = "off"  # no figure reads them
    config.checkpoint.powers_of_two = False
    config.checkpoint.every_epochs = sizes.checkpoint_epochs
    config.run.progress = False
    return config


def _each_seed(
    sizes: Sizes, config: ml_collections.ConfigDict, name: str, factors: Mapping[str, Any]
) -> Iterator[Point]:
    """Yields a config's points: each seed its own parameters, order, noise and subset of data."""
    for seed in range(sizes.num_seeds):
        config.seed = config.corruption.seed = config.dataset.seed = seed
        own = config.copy_and_resolve_references()
        yield Point(f"{name}_seed_{seed}", {**factors, "seed": seed}, own)


def _until_fitted(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns the config that stops when all is learned, with nothing saved on the way."""
    config.train.stop_at_train_accuracy = 1.0
    return presets.save_ends_only(config)


def consistency(sizes: Sizes) -> Iterator[Point]:
    """Figure 1: one epoch from many random initial parameters and in many orders."""
    for data in DATA:
        config = presets.noise(_base(sizes, "mlp"), data, 1.0)
        config.ensemble.size = sizes.num_runs
        presets.save_ends_only(config)
        yield Point(data, {"kind": data}, config)


def influence(sizes: Sizes) -> Iterator[Point]:
    """Figures 3 and 4, and the other norms: small networks whose training is differentiated."""
    for data in (REAL, RANDX):
        for labels in ("class", "unique"):
            config = presets.noise(_base(sizes, "mlp"), data, 1.0)
            if labels == "unique":
                config.corruption.kind = {
                    REAL: UNIQUE,
                    RANDX: f"{presets.NOISE_KINDS[RANDX]}+{UNIQUE}",
                }[data]
            presets.save_ends_only(config)
            factors = {"kind": data, "labels": labels}
            yield from _each_seed(sizes, config, f"{data}_{labels}", factors)


def _noise(sizes: Sizes, network: str) -> Iterator[Point]:
    noisy = [(kind, level) for kind in NOISE for level in sizes.levels]
    for kind, level in [(REAL, 0.0), *noisy]:
        config = presets.noise(_base(sizes, network), kind, level)
        config.checkpoint.powers_of_two = True  # dense where accuracy peaks
        config.train.log_every_epochs = sizes.evaluation_epochs
        yield from _each_seed(sizes, config, f"{kind}_{level:g}", {"kind": kind, "level": level})


def mnist_noise(sizes: Sizes) -> Iterator[Point]:
    """Figure 7 and the sharpness: an MLP at several levels of noise, followed over training."""
    return _noise(sizes, "mlp")


def cifar_noise(sizes: Sizes) -> Iterator[Point]:
    """Figures 2, 8 and 9, and other radii: the CNN at several levels of noise."""
    return _noise(sizes, "cnn")


def _capacity(sizes: Sizes, kinds: tuple[str, ...]) -> Iterator[Point]:
    noisy = [(kind, level) for kind in kinds for level in sizes.levels]
    for width in sizes.widths:
        for kind, level in [(REAL, 0.0), *noisy]:
            if kind == REMOVED and level == 1.0:
                continue  # nothing would be left
            config = presets.noise(_base(sizes, "mlp"), kind, level)
            config.model.widths = (width, width)
            if kind == REMOVED:  # as many updates, and looks at the validation set, with less data
                config.train.num_epochs = round(sizes.num_epochs / (1 - level))
                config.train.log_every_epochs = round(1 / (1 - level))
            factors = {"kind": kind, "level": level, "width": width}
            name = f"{kind}_{level:g}_width_{width}"
            yield from _each_seed(sizes, presets.save_ends_only(config), name, factors)


def capacity(sizes: Sizes) -> Iterator[Point]:
    """Figures 5 and 6 (left): widths x levels of randX, and the control without the noise."""
    return _capacity(sizes, (RANDX, REMOVED))


def cifar_capacity(sizes: Sizes) -> Iterator[Point]:
    """What the paper says of CIFAR-10 beside figure 5: widths x levels of randX and randY."""
    return _capacity(sizes, (RANDX, RANDY))


def dataset_size(sizes: Sizes) -> Iterator[Point]:
    """Figure 6 (right): numbers of examples x levels of randX."""
    for number in sizes.numbers_of_examples:
        for level in (0.0, *sizes.levels):
            kind = RANDX if level else REAL
            config = presets.noise(_base(sizes, "mlp"), kind, level)
            config.dataset.num_train = number
            # A large data set is nearly fitted in few epochs; a small one has few steps in each.
            config.train.logs_per_epoch = min(4, number // sizes.batch_size)
            factors = {"kind": kind, "level": level, "num_examples": number}
            name = f"{kind}_{level:g}_examples_{number}"
            yield from _each_seed(sizes, _until_fitted(config), name, factors)


def regularizers(sizes: Sizes) -> Iterator[Point]:
    """Figures 10 and 11: six techniques over their ranges, on real data and on randY."""
    settings = [("none", 0.0, 0.0)]
    for technique, strengths in sizes.strengths:
        adversarial = technique == DROPOUT_AND_ADVERSARIAL
        weights = sizes.adversarial_weights if adversarial else (0.0,)
        settings += [(technique, strength, weight) for strength in strengths for weight in weights]
    for data in (REAL, RANDY):
        for technique, strength, weight in settings:
            config = presets.noise(_base(sizes, "cnn"), data, 1.0)
            if technique != "none":
                config.regularizer[TECHNIQUES[technique][0]] = strength
            config.regularizer.adversarial_weight = weight
            config.regularizer.adversarial_radius = sizes.adversarial_radius
            config.regularizer.adversarial_steps = sizes.adversarial_steps
            config.train.log_every_epochs = sizes.evaluation_epochs
            presets.save_ends_only(config)
            words = technique.replace(" + ", "+").replace(" ", "_")
            factors = {
                "technique": technique,
                "strength": strength,
                "adversarial_weight": weight,
                "data": data,
            }
            name = f"{data}_{words}_{strength:g}_weight_{weight:g}"
            yield from _each_seed(sizes, config, name, factors)


STUDIES: dict[str, Callable[[Sizes], Iterator[Point]]] = {
    study.__name__: study
    for study in (
        consistency,
        influence,
        mnist_noise,
        cifar_noise,
        capacity,
        cifar_capacity,
        dataset_size,
        regularizers,
    )
}


@dataclasses.dataclass(frozen=True)
class Study:
    """A study at one scale.

    Attributes:
      name: one of `STUDIES`.
      sizes: of its runs.
      points: its runs.
      configs: theirs, checked.
    """

    name: str
    sizes: Sizes
    points: tuple[Point, ...]
    configs: tuple[Config, ...]

    @property
    def identity(self) -> str:
        """16 hex digits that differ when any run or size of the study does.

        A field that a later memjax has, left at the default that keeps its results, changes none.
        """
        usual = Config().science()
        runs = [
            {k: v for k, v in config.science().items() if k not in usual or usual[k] != v}
            for config in self.configs
        ]
        chosen = {
            field.name: getattr(self.sizes, field.name)
            for field in dataclasses.fields(Sizes)
            if getattr(self.sizes, field.name) != field.default
        }
        text = json.dumps([chosen, runs])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_study(name: str, scale: str, data_dir: str | None = None) -> Study:
    """Returns a study at a scale, its points checked.

    Args:
      name: one of `STUDIES`.
      scale: one of `SCALES`.
      data_dir: where tfds keeps its data; None is its default.
    """
    sizes = SCALES[scale][name]
    points = tuple(STUDIES[name](sizes))
    configs = check_points(points, name)
    if data_dir is not None:
        configs = tuple(with_values(c, {"dataset.data_dir": data_dir}) for c in configs)
    return Study(name, sizes, points, configs)
