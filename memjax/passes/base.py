"""What a pass is, what it is given, and the columns that every table begins with."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from memjax.analysis.microbatch import over_devices, over_microbatches
from memjax.errors import InputError
from memjax.loading import Run, SplitArrays
from memjax.runtime.mesh import make_mesh

RADIUS_UNITS = ("unit", "pixel", "standardized")

CHECKPOINT_COLUMNS = {
    "step": "training steps done at the checkpoint",
    "epoch": "the same in epochs",
    "member": "member of the ensemble, from 0",
}
EXAMPLE_COLUMNS = {
    **CHECKPOINT_COLUMNS,
    "split": "'train' or 'validation'",
    "index": "position in the source's split",
    "label": "the label trained on (validation: the true one)",
    "true_label": "the label before corruption",
    "is_corrupted": "whether the corruption touched this example",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user chooses; each pass names the fields that change its values.

    Attributes:
      steps: checkpoints to look at; () is all of them.
      splits: 'train', 'validation'.
      num_examples: the first so many of each split; 0 is all.
      members: the first so many members; 0 is all.
      radii: max-norm radii for `critical`, in `radius_units`.
      radius_units: 'unit' is [0, 1], 'pixel' is 0 to 255, 'standardized' what the model sees.
      clip: keep adversarial pixels in [0, 1].
      num_probes: for `sensitivity`: probes spread evenly over the run.
      norm_order: for `sensitivity`: 1, 2 or inf.
      include_direct: for `sensitivity`: whether an example's own loss term counts.
      freeze_statistics: for `sensitivity` of a network with BatchNorm: allow frozen statistics.
      ntk_examples: for `ntk`: the first so many training examples, each with each.
      spectrum_examples: for `jacobian_spectrum`: the first so many examples of each split.
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
    num_probes: int = 50
    norm_order: float = 1.0
    include_direct: bool = True
    freeze_statistics: bool = False
    ntk_examples: int = 100
    spectrum_examples: int = 1000
    microbatch_size: int = 0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Pass:
    """One analysis pass.

    Attributes:
      name: of the table.
      summary: one line of what it measures.
      columns: column -> meaning with units, all columns of the table.
      options: names of the `Options` fields that change its values.
      compute: (context, step) -> table; `step` is None for a pass over the whole run.
      per_checkpoint: whether `compute` is called once a checkpoint.
    """

    name: str
    summary: str
    columns: Mapping[str, str]
    options: tuple[str, ...]
    compute: Callable[["Context", Any], pd.DataFrame]
    per_checkpoint: bool = True


class Context:
    """A run, the options, the devices, and the functions that several passes share."""

    def __init__(self, run: Run, options: Options, num_devices: int = 0):
        self.run, self.options = run, options
        self.mesh: Mesh = make_mesh(1, num_devices)
        self.key = jax.random.key(options.seed)
        self._shared: dict[str, Any] = {}
        if options.num_examples < 0 or options.members < 0 or options.microbatch_size < 0:
            raise InputError("--num_examples, --members, --microbatch_size: must be at least 0")
        if options.members > run.num_members:
            raise InputError(f"--members={options.members}: the run has {run.num_members}")
        if options.radius_units not in RADIUS_UNITS:
            raise InputError(
                f"--radius_units={options.radius_units}: must be one of {', '.join(RADIUS_UNITS)}"
            )

    @property
    def microbatch_size(self) -> int | None:
        """Examples at once; None leaves it to the analysis."""
        return self.options.microbatch_size or None

    @property
    def members(self) -> range:
        """The members looked at."""
        return range(self.options.members or self.run.num_members)

    def split(self, name: str) -> SplitArrays:
        """Returns the examples of a split that are looked at."""
        arrays: SplitArrays = getattr(self.run, name)
        count = self.options.num_examples or len(arrays.labels)
        return arrays.at(slice(count))

    @property
    def splits(self) -> list[tuple[str, SplitArrays]]:
        """The splits looked at, the empty ones left out."""
        found = [(name, self.split(name)) for name in self.options.splits]
        return [(name, arrays) for name, arrays in found if len(arrays.labels)]

    def checkpoint_columns(self, step: int, member: int) -> dict[str, Any]:
        """Returns what a row of one checkpoint begins with."""
        return {"step": step, "epoch": self.run.epoch(step), "member": member}

    def example_columns(
        self, step: int, member: int, name: str, arrays: SplitArrays
    ) -> dict[str, Any]:
        """Returns what the rows of one split begin with."""
        return {
            **self.checkpoint_columns(step, member),
            "split": name,
            "index": arrays.source_index,
            "label": arrays.labels,
            "true_label": arrays.true_labels,
            "is_corrupted": arrays.is_corrupted,
        }

    @functools.cached_property
    def logits(self) -> Callable[[Any, jax.Array], jax.Array]:
        """(params of one member, images [n ...]) -> float32 [n classes], over all devices."""

        def microbatched(params: Any, images: jax.Array) -> jax.Array:
            return over_microbatches(
                lambda batch: self.run.logits_fn(params, batch), images, microbatch_size=1000
            )

        return over_devices(microbatched, self.mesh)

    def shared(self, name: str, make: Callable[["Context"], Any]) -> Any:
        """Returns make(self), made once: compiled functions live as long as the context."""
        if name not in self._shared:
            self._shared[name] = make(self)
        return self._shared[name]

    def member(self, params: Any, member: int) -> Any:
        """Returns one member's params out of all members'."""
        return jax.tree.map(lambda leaf: leaf[member], params)

    def example_table(
        self, step: int, values: Callable[[Any, SplitArrays], Mapping[str, Any]]
    ) -> pd.DataFrame:
        """Returns the table of per-example values of every member and split at a checkpoint.

        Args:
          step: the checkpoint.
          values: (params of one member, arrays) -> column -> [n], or n lists.
        """
        all_params = self.run.member_params(step)
        parts = []
        for member in self.members:
            params = self.member(all_params, member)
            for name, arrays in self.splits:
                columns = self.example_columns(step, member, name, arrays)
                found = {
                    column: value if isinstance(value, list) else np.asarray(value)
                    for column, value in values(params, arrays).items()
                }
                parts.append(pd.DataFrame(columns | found))
        return pd.concat(parts, ignore_index=True)


def as_lists(values: jax.Array) -> list[np.ndarray]:
    """Returns [n ...] as n flat arrays, for a list column."""
    return list(np.asarray(jnp.reshape(values, (values.shape[0], -1))))
