"""A finished or running run, opened for analysis."""

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd
from etils import epath

from memjax.config import Config, comparable, resolve, unflatten
from memjax.data.examples import held_out_noise
from memjax.errors import InputError
from memjax.logits_functions import shared_logits_fn
from memjax.restoring import RunCheckpoints
from memjax.runtime.metrics import read_metrics
from memjax.runtime.tables import read_table
from memjax.runtime.workdir import difference, is_being_cleared, read_config
from memjax.split_arrays import SplitArrays
from memjax.training.documents import config_document
from memjax.training.dynamics import parts_of, read_dynamics
from memjax.training.point_folder import DERIVED
from memjax.training.setup import Setup, member_subsets, prepare
from memjax.training.step import for_inference, unit_pixels


def _let_import_from(folder: str) -> None:
    """Makes the modules of a run's own model importable, wherever the analysis was started."""
    if folder and os.path.isdir(folder) and folder not in sys.path:
        sys.path.append(folder)


class Run:
    """One run folder. Read-only: nothing here writes a checkpoint.

    The data set is needed, and compared with the run's, at the first use of what depends on it:
    not for `table`, `examples`, `dynamics`, `metrics` or `steps`.

    Attributes:
      workdir: the folder.
      config: the run's Config.
    """

    def __init__(self, workdir: epath.PathLike, **overrides: Any):
        self.workdir = epath.Path(workdir)
        document = read_config(self.workdir)
        if not isinstance(document.get("run"), dict):
            raise InputError(f"{self.workdir / 'config.json'}: not that of a memjax run")
        if is_being_cleared(self.workdir):
            raise InputError(f"{self.workdir}: an --overwrite was interrupted; start the run again")
        there = comparable(document["science"])
        # Of a memjax that did not count them yet, draws were the first.
        there.setdefault("draws.version", 1)
        science = {k: v for k, v in document["science"].items() if not k.startswith(DERIVED)}
        _let_import_from(document.get("derived", {}).get("import_folder", ""))
        # The machine that analyses a run need not be the one that trained it.
        devices = {"run.num_devices": 0, "run.member_devices": 0}
        fields = unflatten(science | document["run"] | devices | overrides)
        self.config: Config = resolve(fields, check_effects=False)
        self._there = there

    @functools.cached_property
    def setup(self) -> Setup:
        """Data, network and optimiser, made again from the config at the first use.

        Raises:
          InputError: the data are not there, or they or the model's code are not what they were.
        """
        setup = prepare(self.config, devices=jax.local_devices())
        # Fields that the run's memjax did not have yet are at the defaults that keep its results.
        now = config_document(setup)["science"]
        names = set(self._there) | {name for name in now if name.startswith("code.")}
        found = difference(self._there, {name: now[name] for name in names if name in now})
        if found:
            raise InputError(
                f"{self.workdir}: the run and its data, or its model's code, now differ ({found})"
            )
        return setup

    @functools.cached_property
    def logits_fn(self) -> Callable[[Any, jax.Array], jax.Array]:
        """(params, images [n height width channels], float32 in [0, 1]) -> logits.

        The same object at every use, so that nothing is compiled twice.
        """
        return shared_logits_fn(for_inference(self.setup.network))

    @functools.cached_property
    def trained_logits_fn(self) -> Callable[[Any, jax.Array], jax.Array]:
        """`logits_fn` to rounding, computed as the train step does.

        Quick to differentiate, where `logits_fn` is quick forward and what certificates can read.
        """
        return shared_logits_fn(self.setup.network)

    @functools.cached_property
    def _checkpoints(self) -> RunCheckpoints:
        return RunCheckpoints(self.workdir, self.num_members)

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        return self._checkpoints.steps

    @property
    def num_members(self) -> int:
        """Networks in this run."""
        return self.config.ensemble.size

    def epoch(self, step: int) -> float:
        """Returns the epochs that were over at a step."""
        return step / self.setup.batches.steps_per_epoch

    def member_params(self, step: int) -> Any:
        """Returns the params of every member at a checkpoint, each a numpy array [members ...].

        Raises:
          InputError: if there is no such checkpoint.
        """
        return self._checkpoints.member_params(step, self.setup)

    def last_step(self, member: int) -> int:
        """Returns the last step that a member was trained; its params stay as they are then."""
        return self._checkpoints.last_step(member)

    def params(self, step: int | None = None, member: int = 0) -> Any:
        """Returns the params of one network.

        Args:
          step: one of `steps`; None is the last.
          member: 0 to num_members - 1.

        Raises:
          InputError: if there is no such checkpoint or member.
        """
        if not 0 <= member < self.num_members:
            raise InputError(f"member {member}: must be from 0 to {self.num_members - 1}")
        if step is None:
            if not self.steps:
                raise InputError(f"{self.workdir}: no checkpoints yet")
            step = self.steps[-1]
        all_params = self.member_params(step)
        return jax.tree.map(lambda leaf: jax.numpy.asarray(leaf[member]), all_params)

    @functools.cached_property
    def train(self) -> SplitArrays:
        """The training examples, as corrupted."""
        examples = self.setup.examples
        return SplitArrays(
            jax.numpy.asarray(unit_pixels(jax.numpy.asarray(examples.images))),
            examples.labels,
            examples.true_labels,
            examples.is_corrupted,
            examples.index,
            examples.is_mislabeled,
            examples.example_ids,
        )

    @functools.cached_property
    def validation(self) -> SplitArrays:
        """The validation examples, never corrupted (but some sources know of wrong labels)."""
        split = self.setup.dataset.validation
        images = unit_pixels(jax.numpy.asarray(split.images))
        is_wrong = split.labels != split.true_labels
        return SplitArrays(
            images,
            split.labels,
            split.true_labels,
            is_wrong,
            split.index,
            is_wrong,
            split.example_ids,
        )

    @functools.cached_property
    def noise(self) -> SplitArrays:
        """The validation examples with noise as inputs, of the kind trained on; held out as well.

        Raises:
          InputError: if the run has no noise in its inputs.
        """
        images = held_out_noise(self.config.corruption, self.setup.dataset)
        return self.validation._replace(
            images=unit_pixels(jax.numpy.asarray(images)),
            is_corrupted=np.ones(len(images), bool),
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes trained on, by label."""
        return self.setup.examples.class_names

    @functools.cached_property
    def is_member(self) -> np.ndarray:
        """bool [members n]: which training examples each member was trained on."""
        mask = np.zeros((self.num_members, len(self.train.labels)), bool)
        np.put_along_axis(mask, np.asarray(member_subsets(self.setup)), True, axis=1)
        return mask

    @property
    def metrics(self) -> pd.DataFrame:
        """metrics.jsonl, a row per logged step."""
        return pd.DataFrame(read_metrics(self.workdir / "metrics.jsonl"))

    @property
    def has_dynamics(self) -> bool:
        """Whether each example was recorded at every evaluation."""
        return bool(parts_of(self.workdir))

    @property
    def dynamics(self) -> pd.DataFrame:
        """dynamics/, a row per logged step, member and example; see `memjax.training.dynamics`."""
        return read_dynamics(self.workdir)

    @property
    def examples(self) -> pd.DataFrame:
        """examples.parquet."""
        return read_table(self.workdir / "examples.parquet")

    @property
    def tables(self) -> list[str]:
        """The analysis passes that have a table."""
        folder = self.workdir / "analysis"
        if not folder.exists():
            return []
        return sorted(path.stem for path in folder.glob("*.parquet"))

    def table(self, name: str) -> pd.DataFrame:
        """Returns an analysis table; `attrs["columns"]` says what its columns mean.

        Raises:
          InputError: if that pass was not run.
        """
        path = self.workdir / "analysis" / f"{name}.parquet"
        if not path.exists():
            raise InputError(f"table {name!r}: not in {path.parent}; has: {self.tables}")
        return read_table(path)

    def attribution(
        self, query: Any, member: int | None = 0, measure: str = "loss"
    ) -> pd.DataFrame:
        """Returns what every training example did to one or several validation examples.

        Prints whether it can be trusted, from a few trainings without random examples.

        Args:
          query: a position in the validation source's split, or several.
          member: 0 to num_members - 1; None for the mean over all, which tells more of the data
            and less of one training.
          measure: 'loss' or 'margin'.

        Returns:
          A row for each query and training example, as of the pass `attribution`; rank 0 helped
          most. Of the mean: over the `num_members` that were trained on the example.

        Raises:
          InputError: as the pass.
        """
        from memjax.passes.attribution import attribute

        return attribute(self, query, member, measure)

    def predict_removal(self, indices: Any, **options: Any) -> pd.DataFrame:
        """Returns what training without some examples would make of validation examples.

        Args:
          indices: positions of training examples in the source's split.
          **options: `queries` as of the pass `attribution` ('misclassified'), `member` (0),
            `measure` ('loss'), `validate=True` to train again without them as well.

        Returns:
          A row a query: its measure now, predicted, predicted_change, and with `validate` also
          retrained and change.

        Raises:
          InputError: as the pass, or no such training example.
        """
        from memjax.passes.attribution import predict_removal

        return predict_removal(self, indices, **options)


def load_run(workdir: epath.PathLike, **overrides: Any) -> Run:
    """Opens a run folder.

    Args:
      workdir: the folder that `memjax.main` wrote.
      **overrides: fields that change no result, by their dotted names, for example
        `**{"dataset.data_dir": "/elsewhere"}`.

    Returns:
      A Run: `.config`, `.logits_fn`, `.params(step)`, `.train.images`, `.table("gradients")`.

    Raises:
      InputError: if it is no run folder. That its data are no longer what they were is said by
        what needs them first.
    """
    return Run(workdir, **overrides)
