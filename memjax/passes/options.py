"""What a user of the passes chooses."""

import dataclasses
import math

from memjax.errors import InputError

RADIUS_UNITS = ("unit", "pixel", "standardized")


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user chooses; each pass names the fields that change its values.

    Attributes:
      steps: checkpoints to look at; () is all of them.
      splits: 'train', 'validation', and of a run with noise in its inputs 'noise': the validation
        examples with inputs that are noise of the same kind, never trained on.
      num_examples: the first so many of each split; 0 is all.
      members: the first so many members; 0 is all.
      radii: max-norm radii for `critical`, in `radius_units`.
      radius_units: 'unit' is [0, 1], 'pixel' is 0 to 255, 'standardized' what the model sees.
      clip: keep adversarial pixels in [0, 1].
      certify: for `critical`: whether distances are also bounded from below.
      lass: for `critical`: whether what the paper's search alone finds is told as well.
      num_starts: for `critical`: of PGD, in the search for the nearest critical point.
      polish: for `critical`: whether that search goes on after its bisection.
      num_probes: for `sensitivity`: probes spread evenly over the run.
      num_class_probes: the same for `class_sensitivity`, which costs one adjoint more per class.
      norm_order: for `sensitivity`: 1, 2 or inf.
      include_direct: for `sensitivity`: whether an example's own loss term counts.
      max_trajectory_error: for `sensitivity` and `attribution`: how far from the checkpoint the
        updates may end that are differentiated, relatively; it decides whether, not what.
      freeze_statistics: for `sensitivity` of a network with BatchNorm: allow frozen statistics.
      ntk_examples: for `ntk`: the first so many training examples, each with each.
      spectrum_examples: for `jacobian_spectrum`: the first so many examples of each split.
      unit_examples: for `localization`: the first so many corrupted and as many clean ones.
      queries: for `attribution`: 'misclassified', 'random:COUNT', or positions of validation
        examples, separated by commas.
      measure: for `attribution`: 'loss' or 'margin' of the queries.
      validate: for `attribution`: compare with many retrainings.
      microbatch_size: examples at once; changes memory and rounding only. 0 is as fits.
      seed: of the searches and random starts.
    """

    steps: tuple[int, ...] = ()
    splits: tuple[str, ...] = ("train", "validation")
    num_examples: int = 0
    members: int = 0
    radii: tuple[float, ...] = (0.01, 0.02, 0.05)
    radius_units: str = "unit"
    clip: bool = False
    certify: bool = True
    lass: bool = False
    num_starts: int = 20
    polish: bool = True
    num_probes: int = 50
    num_class_probes: int = 10
    norm_order: float = 1.0
    include_direct: bool = True
    max_trajectory_error: float = 0.05
    freeze_statistics: bool = False
    ntk_examples: int = 100
    spectrum_examples: int = 1000
    unit_examples: int = 100
    queries: str = "misclassified"
    measure: str = "loss"
    validate: bool = False
    microbatch_size: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_examples", "members", "microbatch_size", "seed"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        counts = ("num_probes", "num_class_probes", "ntk_examples", "spectrum_examples")
        for name in (*counts, "unit_examples", "num_starts"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        splits = ("train", "validation", "noise")
        self._require("splits", set(self.splits) <= set(splits) and bool(self.splits), splits)
        self._require("max_trajectory_error", self.max_trajectory_error > 0, "a number above 0")
        self._require("norm_order", self.norm_order in (1, 2, math.inf), ("1", "2", "inf"))
        self._require("radius_units", self.radius_units in RADIUS_UNITS, RADIUS_UNITS)
        self._require("measure", self.measure in ("loss", "margin"), ("loss", "margin"))
        in_range = [0 <= radius < math.inf for radius in self.radii]
        self._require("radii", all(in_range) and bool(in_range), "numbers of at least 0")

    def _require(self, name: str, holds: bool, allowed: str | tuple[str, ...]) -> None:
        if not holds:
            value = getattr(self, name)
            given = ",".join(map(str, value)) if isinstance(value, tuple) else value
            allowed = allowed if isinstance(allowed, str) else f"of {', '.join(allowed)}"
            raise InputError(f"--{name}={given}: must be {allowed}")
