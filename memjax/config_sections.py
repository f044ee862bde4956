"""The sections of the configuration: every field, its default, its range.

Defaults that the paper (Arpit et al. 2017) does not state are marked `[not in the paper]`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

SOURCES = ("digits", "tfds", "npz", "folder", "table", "huggingface")
STANDARDIZE = ("none", "scalar", "channel", "feature")
LAYOUTS = ("auto", "HWC", "CHW")
NOISE_MOMENTS = ("all", "channel", "pixel")
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "lion")
PLACEMENTS = ("auto", "replicated", "sharded")
DECAY_MASKS = ("all", "kernels")
SCHEDULES = ("constant", "step", "cosine")
COMPUTE_DTYPES = ("float32", "bfloat16")
TRAIN_METRICS = ("exact", "running")
RECORD_DYNAMICS = ("auto", "on", "off")
LARGEST = 2**31 - 1  # of an int32: seeds and steps are int32 on the devices


def _field(default: Any, check: Callable[[Any], bool], allowed: str) -> Any:
    return dataclasses.field(default=default, metadata={"check": check, "allowed": allowed})


def integer_field(default: int, low: int) -> Any:
    """Returns the field of a dataclass for an int32 of at least `low`."""
    allowed = f"an integer of at least {low}, at most {LARGEST}"
    return _field(default, lambda v: low <= v <= LARGEST, allowed)


def _number(default: float, low: float = -math.inf, high: float = math.inf, open_low=False) -> Any:
    bounds = f"{'(' if open_low else '['}{low:g}, {high:g}{']' if high < math.inf else ')'}"

    def check(value: float) -> bool:
        # What float32 would make 0 or infinite.
        holds = value == 0 or 2.0**-126 <= abs(value) < 2.0**128
        return holds and low <= value <= high and not (open_low and value == low)

    return _field(default, check, f"a finite float32 number in {bounds}")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _choice(default: str, options: Iterable[str]) -> Any:
    options = tuple(options)
    return dataclasses.field(default=default, metadata={"options": options})


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Where the examples come from."""

    source: str = "digits"  # one of SOURCES, or file.py:function that returns arrays
    name: str = "digits"  # tfds: the builder's name; huggingface: NAME[:CONFIG] on the hub
    # The file or folder, for npz, folder, table and huggingface; looked for here, then beside the
    # config file.
    path: str = ""
    data_dir: str = ""  # where tfds keeps its data; empty: its default, ~/tensorflow_datasets
    num_train: int = integer_field(0, 0)  # 0: all
    num_validation: int = integer_field(-1, -1)  # -1: all; 0: none [split not in the paper]
    classes: tuple[int, ...] = ()  # a subset of the classes, relabelled in this order; (): all
    image_size: int = integer_field(0, 0)  # height and width after downscaling; 0: as stored
    scale: float = _number(0.0, 0.0)  # what images are divided by, 255 say; 0: as they are
    layout: str = _choice("auto", LAYOUTS)  # CHW: channels come first; auto: HWC, if it is likely
    # Columns of a table, of huggingface, or features of tfds; empty: found by their usual names.
    image_column: str = ""  # file paths, encoded images, or lists of numbers
    label_column: str = ""
    true_label_column: str = ""  # labels known to be right, where label_column may be wrong
    split_column: str = ""
    id_column: str = ""
    # Moments of the training data, taken off before the network; feature: of each of [n features],
    # which may then be of any scale. [not in the paper]
    standardize: str = _choice("scalar", STANDARDIZE)
    seed: int = integer_field(0, 0)  # draws the examples when fewer than all are asked for
    cache_dir: str = ""  # decoded arrays; empty: $MEMJAX_CACHE or ~/.cache/memjax


@dataclasses.dataclass(frozen=True)
class Corruption:
    """What is done to the training examples; kinds are listed in memjax.data.corruption."""

    kind: str = "none"  # one kind, or several joined with "+"
    fraction: float = _number(1.0, 0.0, 1.0)  # the paper: 1 unless a level is given
    seed: int = integer_field(0, 0)
    # Whose mean and variance Gaussian inputs have: those of all pixels together, of each channel,
    # or of each pixel.
    noise_moments: str = _choice("all", NOISE_MOMENTS)
    transition: tuple[tuple[float, ...], ...] = ()  # [classes classes], for label_transition


@dataclasses.dataclass(frozen=True)
class Model:
    """The network: a registered name or `package.module:Class`, and its own fields."""

    name: str = "mlp"
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Regularizer:
    """The regularisers of the paper's figure 10; 0 switches one off."""

    dropout: float = _number(0.0, 0.0, 0.99)
    input_dropout: float = _number(0.0, 0.0, 0.99)
    input_noise: float = _number(0.0, 0.0)  # standard deviation, on standardised inputs
    hidden_noise: float = _number(0.0, 0.0)  # standard deviation, on hidden activations
    weight_decay: float = _number(0.0, 0.0)  # added to the gradient; see optimizer.decay_mask
    adversarial_weight: float = _number(0.0, 0.0, 1.0)  # of the loss on LASS samples
    adversarial_radius: float = _number(0.02, 0.0)  # max-norm, in [0, 1] pixels [not in the paper]
    adversarial_steps: int = integer_field(10, 1)  # of the search [not in the paper]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Of the training batches; whatever is measured sees the plain images. [not in the paper]"""

    crop: int = integer_field(0, 0)  # pixels of black around, then a random crop; 0: off
    flip: bool = False  # left to right, half of the time
    cutout: int = integer_field(0, 0)  # height and width of a square filled with the mean; 0: off
    mixup: float = _number(0.0, 0.0)  # both parameters of the Beta distribution; 0: off


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The optimiser, by its optax name, and its learning rate over time."""

    name: str = _choice("sgd", OPTIMIZERS)
    learning_rate: float = _number(0.01, 0.0, open_low=True)
    momentum: float = _number(0.0, 0.0, 1.0)  # sgd and rmsprop
    nesterov: bool = False
    schedule: str = _choice("constant", SCHEDULES)
    decay_epochs: float = _number(15.0, 0.0, open_low=True)  # schedule step: times decay_factor
    decay_factor: float = _number(0.5, 0.0, 1.0, open_low=True)  # every decay_epochs
    warmup_epochs: float = _number(0.0, 0.0)  # linear from 0, before any schedule
    betas: tuple[float, ...] = _field(  # adam, adamw and lion; (): optax's own
        (), lambda v: len(v) in (0, 2) and all(_is_share(b) for b in v), "two numbers in [0, 1)"
    )
    eps: float = _number(0.0, 0.0)  # adam, adamw, rmsprop and adagrad; 0: optax's own
    clip_norm: float = _number(0.0, 0.0)  # of the whole gradient, before any decay; 0: none
    # What weight decay acts on: all parameters, or kernels alone (no norms, biases, positions).
    decay_mask: str = _choice("all", DECAY_MASKS)


@dataclasses.dataclass(frozen=True)
class Train:
    """How long, and in what batches."""

    batch_size: int = integer_field(128, 1)  # [not in the paper]
    num_epochs: int = integer_field(100, 1)
    # Stop when every member has this accuracy on its training examples; 0: never.
    stop_at_train_accuracy: float = _number(0.0, 0.0, 1.0)
    log_every_epochs: int = integer_field(1, 1)
    # More than one: evaluated and logged within epochs as well, at even distances.
    logs_per_epoch: int = integer_field(1, 1)
    compute_dtype: str = _choice("float32", COMPUTE_DTYPES)  # parameters stay float32
    # Share of the target that is spread evenly over all classes. [not in the paper]
    label_smoothing: float = _number(0.0, 0.0, 0.99)
    # Training metrics of an evaluation of their own, or of the epoch's steps (before each update,
    # in training mode), which costs no further pass over the training data.
    train_metrics: str = _choice("exact", TRAIN_METRICS)
    # Each example's loss, margin and prediction at every evaluation; auto: up to a printed size.
    record_dynamics: str = _choice("auto", RECORD_DYNAMICS)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Members trained side by side; member m is the run whose seed is `seed + m`."""

    size: int = integer_field(1, 1)
    # Each member trains on its own random subset of this size (Feldman and Zhang 2020).
    subset_fraction: float = _number(1.0, 0.0, 1.0, open_low=True)
    # Every example is left out by as many members as any other, to one; a member is then no longer
    # the run with its seed alone. Else some example is in all subsets, or in none.
    balanced: bool = False


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When the state is saved: dense early, sparse late."""

    powers_of_two: bool = True  # steps 0, 1, 2, 4, 8, ... within the first `every_epochs` epochs
    every_epochs: int = integer_field(
        10, 0
    )  # and each k epochs, and the last step; 0: only the last


@dataclasses.dataclass(frozen=True)
class Run:
    """What changes no result."""

    num_devices: int = integer_field(0, 0)  # 0: all
    member_devices: int = integer_field(
        0, 0
    )  # mesh size along `member`; 0: as many as divide the size
    members_per_chunk: int = integer_field(
        0, 0
    )  # members trained side by side on a device; 0: by size
    # Training images whole on every device, or split over the devices along `data`; auto: split
    # if they would take more than this share of a device's memory.
    data_placement: str = _choice("auto", PLACEMENTS)
    data_memory_share: float = _number(0.25, 0.0, 1.0)
    steps_per_dispatch: int = integer_field(0, 0)  # 0: about a second's worth
    profile_steps: int = integer_field(
        0, 0
    )  # steps to trace for jax.profiler, into `profile`; 0: none
    evaluation_batch_size: int = integer_field(1000, 1)
    # The same bits at every run on one kind of device; GPUs then use no kernel that adds up in
    # whatever order, and choose kernels without timing them. Costs nothing on CPU and TPU.
    deterministic: bool = True
    tensorboard: bool = False
    progress: bool = True
