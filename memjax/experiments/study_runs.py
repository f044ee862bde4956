"""What a study's runs left: their metrics, and the tables of passes over their checkpoints."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd
from etils import epath

from memjax.config import Config
from memjax.errors import InputError
from memjax.experiments.fit import COLUMNS as FIT_COLUMNS, distance_from_start, without_distance
from memjax.experiments.scales import Sizes
from memjax.loading import Run, load_run
from memjax.passes import PASSES
from memjax.passes.base import Context, Options
from memjax.passes.runner import run_pass, table_path
from memjax.runtime.locks import claim
from memjax.runtime.progress import duration
from memjax.sweeps.points import Point
from memjax.sweeps.table import assemble


class StudyRuns:
    """The trained points of a study.

    Attributes:
      sizes: how large the runs are.
      factors: names of what tells the points apart.

    Args:
      folder: of the sweep.
      points: its points.
      configs: theirs.
      sizes: as above.
      data_dir: where tfds keeps its data; None is where the runs had it.
      say: shows a line to the user.
    """

    def __init__(
        self,
        folder: epath.Path,
        points: Sequence[Point],
        configs: Sequence[Config],
        sizes: Sizes,
        data_dir: str | None = None,
        say: Callable[[str], None] = print,
    ):
        self.sizes = sizes
        self.factors = list(points[0].factors)
        self._folder, self._points, self._configs = folder, points, configs
        self._say = say
        self._overrides = {"dataset.data_dir": data_dir} if data_dir else {}

    @functools.cached_property
    def results(self) -> pd.DataFrame:
        """One row per point, member and logged epoch, those that failed left out.

        `seed` is the member's seed where the seeds of a point are its members.

        Raises:
          InputError: if no point was trained to its end.
        """
        table = assemble(self._folder, self._points, self._configs)
        table = table[table["failure"] == ""] if table is not None else table
        if table is None or table.empty:
            raise InputError(f"{self._folder}: no run of the study came to its end")
        return table if "seed" in self.factors else table.assign(seed=table["run_seed"])

    @functools.cached_property
    def fit(self) -> pd.DataFrame:
        """Returns for every network the columns of `memjax.experiments.fit`, and its factors."""
        rows = without_distance(self.last_rows()).set_index(["point", "member"])
        for name in rows.index.unique("point"):
            run = load_run(self._folder / "points" / name, **self._overrides)
            first, last = (
                run.member_params(step)["params"] for step in (run.steps[0], run.steps[-1])
            )
            distances = distance_from_start(first, last)
            for member in range(run.num_members):
                if (name, member) in rows.index:
                    rows.loc[(name, member), "distance"] = distances[member]
        factors = dict.fromkeys([*self.factors, "seed"])
        return rows.reset_index()[["member", *factors, *FIT_COLUMNS]]

    def last_rows(self) -> pd.DataFrame:
        """Returns the last row of `results` of every member of every point."""
        return self.results.groupby(["point", "member"], sort=False).tail(1)

    def runs(self, **wanted: Any) -> Iterator[tuple[dict[str, Any], Run]]:
        """Yields (factors, run) of the trained points whose factors have the wanted values.

        Args:
          **wanted: factor -> a value, or a tuple of values.
        """
        done = set(self.results["point"])
        for point in self._points:
            allowed = [
                point.factors[name] in (value if isinstance(value, tuple) else (value,))
                for name, value in wanted.items()
            ]
            if all(allowed) and point.name in done:
                run = load_run(self._folder / "points" / point.name, **self._overrides)
                yield dict(point.factors), run

    def analysis(
        self,
        pass_name: str,
        options: Options,
        table_name: str = "",
        steps_of: Callable[[Run], Sequence[int]] | None = None,
        **wanted: Any,
    ) -> pd.DataFrame:
        """Runs a pass over the checkpoints of the wanted points, or reads what it left.

        Args:
          pass_name: one of `memjax.passes.PASSES`.
          options: of the pass; steps (-1,) means the last checkpoint.
          table_name: of its table, where one pass is needed with several options.
          steps_of: chooses the checkpoints of each run instead of `options.steps`.
          **wanted: which points, as in `runs`.

        Returns:
          The pass's tables one below the other, with the points' factors and `seed`.
        """
        chosen = dataclasses.replace(PASSES[pass_name], name=table_name or pass_name)
        parts, began = [], time.monotonic()
        found = list(self.runs(**wanted))
        for done, (factors, run) in enumerate(found):
            steps = tuple(run.steps[-1:]) if options.steps == (-1,) else options.steps
            if steps_of is not None:
                steps = tuple(steps_of(run))
            context = Context(run, dataclasses.replace(options, steps=steps))
            is_new = not table_path(context, chosen).exists()
            with claim(run.workdir / "analysis"):
                table = run_pass(context, chosen)
            columns = factors | {"seed": run.config.seed + table["member"]}
            parts.append(table.assign(**columns))
            spent = time.monotonic() - began
            if is_new:
                left = duration(spent / (done + 1) * (len(found) - done - 1))
                self._say(f"[{done + 1}/{len(found)} runs  {left} left]  {chosen.name}")
        if not parts:
            raise InputError(f"{self._folder}: no run with {wanted}")
        return pd.concat(parts, ignore_index=True)
