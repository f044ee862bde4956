"""What a pass is, what it is given, and the columns that every table begins with."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from memjax.analysis.inputs import check_model
from memjax.analysis.microbatch import over_devices, over_microbatches
from memjax.errors import InputError
from memjax.keys import tagged
from memjax.loading import Run
from memjax.passes.options import Options as Options
from memjax.runtime.mesh import DATA, make_mesh
from memjax.split_arrays import SplitArrays

CHECKPOINT_COLUMNS = {
    "step": "training steps done at the checkpoint",
    "epoch": "the same in epochs",
    "member": "member of the ensemble, from 0",
}
EXAMPLE_COLUMNS = {
    **CHECKPOINT_COLUMNS,
    "split": "'train', 'validation' or 'noise'",
    "index": "position in the source's split",
    "example_id": "file path or key in the source; the index where it has none",
    "label": "the label trained on (validation: the source's)",
    "true_label": "the label before corruption, or the source's own true label",
    "is_corrupted": "whether the corruption touched this example, or the source's label is wrong",
    "is_mislabeled": "whether label is not true_label",
}

# Those that say what an example is, whatever the checkpoint.
OF_EXAMPLES = ("index", "example_id", "label", "true_label", "is_corrupted", "is_mislabeled")


def _suits_every_run(context: "Context") -> None:
    del context


def _whole_run(context: "Context") -> list[Any]:
    del context
    return [None]


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
      parts: of another pass, the names that `compute` is called with instead of a step, so that it
        can be resumed; None alone is the whole run at once.
      check: raises InputError for a run or options that the pass is not for, from what they are
        and what the network's trace shows, before anything is computed.
      reads_logits: whether it is about what the network computes for single examples.
      draw: (context, table) -> path of the picture that it wrote, for a pass that has one.
    """

    name: str
    summary: str
    columns: Mapping[str, str]
    options: tuple[str, ...]
    compute: Callable[["Context", Any], pd.DataFrame]
    per_checkpoint: bool = True
    check: Callable[["Context"], None] = _suits_every_run
    reads_logits: bool = True
    parts: Callable[["Context"], list[Any]] = _whole_run
    draw: Callable[["Context", pd.DataFrame], Any] | None = None

    def check_suits(self, context: "Context") -> None:
        """Raises InputError for a run or options that the pass is not for."""
        self.check(context)
        if self.reads_logits:
            context.check_network()


class Part(NamedTuple):
    """The rows of one split among the examples looked at."""

    split: str
    rows: slice


class Context:
    """A run, the options, the devices, and what several passes share.

    Attributes:
      run: as opened.
      options: as given.
      steps: the checkpoints looked at, ascending.
      mesh: the devices of this process, along its axis `data`.
      key: of searches and random starts.
      progress: folder in which the pass that runs may keep what it has so far; None: nowhere.
      progress_identity: what decides the values of that pass, to be kept with it.

    Raises:
      InputError: no such checkpoint or member, or more devices than there are.
    """

    def __init__(self, run: Run, options: Options, num_devices: int = 0):
        self.run, self.options = run, options
        run.setup  # noqa: B018  # data that are no longer the run's are refused at once
        self.steps = _chosen_steps(run, options.steps)
        if options.members > run.num_members:
            raise InputError(f"--members={options.members}: the run has {run.num_members}")
        devices = jax.local_devices()
        if not 0 <= num_devices <= len(devices):
            raise InputError(f"--num_devices={num_devices}: must be 0 to {len(devices)}")
        self.mesh: Mesh = make_mesh(1, num_devices, devices=devices)
        self.key = tagged(jax.random.key(options.seed), "analysis")
        self._shared: dict[Any, Any] = {}
        self.progress: epath.Path | None = None
        self.progress_identity: dict[str, Any] = {}

    @property
    def microbatch_size(self) -> int | None:
        """Examples at once; None leaves it to the analysis."""
        return self.options.microbatch_size or None

    @property
    def steps_so_far(self) -> list[int]:
        """All checkpoints up to the last of --steps, which is the network looked at."""
        return [step for step in self.run.steps if step <= self.steps[-1]]

    def check_steps_so_far(self, name: str) -> None:
        """Raises InputError where the pass of that name has no earlier checkpoint to compare."""
        if len(self.steps_so_far) < 2:
            raise InputError(
                f"pass {name}: needs a checkpoint before step {self.steps[-1]}; there is none"
            )

    @property
    def members(self) -> range:
        """The members looked at."""
        return range(self.options.members or self.run.num_members)

    def split(self, name: str) -> SplitArrays:
        """Returns the examples of a split that are looked at."""
        arrays: SplitArrays = getattr(self.run, name)
        count = self.options.num_examples
        return arrays.at(slice(count)) if count else arrays

    @functools.cached_property
    def splits(self) -> list[tuple[str, SplitArrays]]:
        """The splits looked at, the empty ones left out."""
        found = [(name, self.split(name)) for name in self.options.splits]
        found = [(name, arrays) for name, arrays in found if len(arrays.labels)]
        if not found:
            raise InputError(f"--splits={','.join(self.options.splits)}: no examples in this run")
        return found

    @functools.cached_property
    def examples(self) -> SplitArrays:
        """The examples looked at of all splits, one after the other: one program serves all."""
        splits = [arrays for _, arrays in self.splits]
        if len(splits) == 1:
            return splits[0]
        images = jnp.concatenate([arrays.images for arrays in splits])
        labels = (np.concatenate(parts) for parts in zip(*(a[1:] for a in splits), strict=True))
        return SplitArrays(images, *labels)

    @functools.cached_property
    def parts(self) -> list[Part]:
        """Where in `examples` each split lies."""
        ends = np.cumsum([0] + [len(arrays.labels) for _, arrays in self.splits]).tolist()
        names = [name for name, _ in self.splits]
        return [Part(*part) for part in zip(names, map(slice, ends, ends[1:]), strict=True)]

    def checkpoint_columns(self, step: int, member: int) -> dict[str, Any]:
        """Returns what a row of one checkpoint begins with."""
        return {"step": step, "epoch": self.run.epoch(step), "member": member}

    def example_columns(
        self, step: int, member: int, split: Any, arrays: SplitArrays
    ) -> dict[str, Any]:
        """Returns what the rows of examples begin with; split: one name, or a name each."""
        return {
            **self.checkpoint_columns(step, member),
            "split": split,
            **arrays.columns(),
        }

    def check_network(self) -> None:
        """Raises InputError where quantities of single examples do not exist for the network.

        That is found out once, from the first checkpoint looked at.
        """
        if self._network_fault is not None:
            raise self._network_fault

    @functools.cached_property
    def _network_fault(self) -> InputError | None:
        params = self.member(self.run.member_params(self.steps[0]), self.members[0])
        try:
            for _, arrays in self.splits:
                check_model(
                    self.run.logits_fn,
                    params,
                    arrays.images,
                    arrays.labels,
                    by_params=True,
                    one_device=False,
                )
        except InputError as error:
            return error
        return None

    @functools.cached_property
    def logits(self) -> Callable[[Any, jax.Array], jax.Array]:
        """(params of one member, images [n ...]) -> float32 [n classes], over all devices."""

        def microbatched(params: Any, images: jax.Array) -> jax.Array:
            return over_microbatches(
                lambda batch: self.run.logits_fn(params, batch), images, microbatch_size=1000
            )

        return over_devices(microbatched, self.mesh)

    def shared(self, make: Callable[["Context"], Any]) -> Any:
        """Returns make(self), made once: compiled functions live as long as the context."""
        if make not in self._shared:
            self._shared[make] = make(self)
        return self._shared[make]

    def member(self, params: Any, member: int) -> Any:
        """Returns one member's params out of all members'."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf[member]), params)

    def on_devices(self, images: jax.Array) -> jax.Array:
        """Returns the images split over the devices, filled up with copies of the last one."""
        padding = -len(images) % self.mesh.size
        if padding:
            images = jnp.concatenate([images, jnp.repeat(images[-1:], padding, axis=0)])
        return jax.device_put(images, NamedSharding(self.mesh, PartitionSpec(DATA)))

    def example_table(
        self, step: int, values: Callable[[Any, SplitArrays], Mapping[str, Any]]
    ) -> pd.DataFrame:
        """Returns the table of per-example values of every member at a checkpoint.

        Args:
          step: the checkpoint.
          values: (params of one member, `examples`) -> column -> [n], or n lists.
        """
        all_params = self.run.member_params(step)
        tables = []
        for member in self.members:
            found = values(self.member(all_params, member), self.examples)
            tables.append(self.member_table(step, member, found))
        return pd.concat(tables, ignore_index=True)

    def member_table(self, step: int, member: int, values: Mapping[str, Any]) -> pd.DataFrame:
        """Returns the table of values of all `examples`, column -> scalar, [n] or n lists."""
        counts = [part.rows.stop - part.rows.start for part in self.parts]
        split = np.repeat([part.split for part in self.parts], counts)
        columns = self.example_columns(step, member, split, self.examples)
        arrays = {k: as_column(v) if isinstance(v, jax.Array) else v for k, v in values.items()}
        return pd.DataFrame(columns | arrays)


def save_figure(context: Context, figure: Any, name: str) -> epath.Path:
    """Saves a pass's picture, figures/NAME.png of the run folder; returns the path.

    Args:
      context: of the run.
      figure: of matplotlib.
      name: without the ending.
    """
    from memjax.reporting.style import save

    folder = context.run.workdir / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    save(figure, path)
    return path


def _chosen_steps(run: Run, chosen: tuple[int, ...]) -> list[int]:
    steps = run.steps
    if not steps:
        raise InputError(f"{run.workdir}: no checkpoints to analyse yet")
    unknown = sorted(set(chosen) - set(steps))
    if unknown:
        known = ", ".join(map(str, steps))
        raise InputError(f"--steps={unknown[0]}: no such checkpoint; there are: {known}")
    return sorted(set(chosen)) or steps


def as_column(values: jax.Array) -> np.ndarray:
    """Returns an array of a type that a table knows: bfloat16 becomes float32."""
    if jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return np.asarray(values)


def as_lists(values: jax.Array) -> list[np.ndarray]:
    """Returns [n ...] as n flat arrays, for a list column."""
    return list(as_column(jnp.reshape(values, (values.shape[0], -1))))
