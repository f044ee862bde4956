"""Runs passes checkpoint by checkpoint: what is done is kept, what was killed goes on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from etils import epath

from memjax.errors import InputError
from memjax.passes.base import Context, Pass
from memjax.runtime.tables import read_metadata, read_table, write_table
from memjax.runtime.workdir import difference, read_json


def identity(context: Context, analysis_pass: Pass) -> dict[str, Any]:
    """Returns what decides the values of a table: the run's config and the pass's options."""
    # "All" checkpoints are those that there are: a run that went on is another analysis.
    options = dataclasses.asdict(context.options) | {"steps": context.steps}
    chosen = {f"--{name}": options[name] for name in analysis_pass.options}
    science = read_json(context.run.workdir / "config.json")["science"]
    return {**science, **{k: list(v) if isinstance(v, tuple) else v for k, v in chosen.items()}}


def table_path(context: Context, analysis_pass: Pass) -> epath.Path:
    """Returns where the table of a pass lies."""
    return context.run.workdir / "analysis" / f"{analysis_pass.name}.parquet"


def check_table(path: epath.Path, wanted: dict[str, Any]) -> bool:
    """Returns whether a table is there.

    Raises:
      InputError: if it is that of another config or of other options.
    """
    if not path.exists():
        return False
    with path.open("rb") as file:
        there = read_metadata(pq.read_schema(file)).get("identity", {})
    found = difference(there, wanted)
    if found:
        raise InputError(f"{path}: is of another analysis ({found}); --overwrite makes it anew")
    return True


def run_pass(
    context: Context,
    analysis_pass: Pass,
    overwrite: bool = False,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Computes the table of one pass, or what is missing of it.

    Args:
      context: the run and the options.
      analysis_pass: the pass.
      overwrite: discards a table that is there.
      on_step: called with (checkpoints done, checkpoints in all).

    Returns:
      The table, as written to analysis/NAME.parquet.

    Raises:
      InputError: for a table of another config or options, or a run that the pass is not for.
    """
    analysis_pass.check(context)
    path, wanted = table_path(context, analysis_pass), identity(context, analysis_pass)
    parts_folder = path.parent / f".{analysis_pass.name}.parts"
    if overwrite:
        path.unlink(missing_ok=True)
        if parts_folder.exists():
            parts_folder.rmtree()
    is_there = check_table(path, wanted)
    keys: list[Any] = list(context.steps) if analysis_pass.per_checkpoint else [None]
    finished = read_table(path) if is_there else None
    if finished is not None and not analysis_pass.per_checkpoint:
        return finished
    have = set() if finished is None else set(finished["step"])
    missing = [key for key in keys if key not in have]
    on_step(len(keys) - len(missing), len(keys))
    if finished is not None and not missing:
        return finished
    for done, key in enumerate(missing, start=len(keys) - len(missing) + 1):
        part = parts_folder / f"{'run' if key is None else key}.parquet"
        if not check_table(part, wanted):
            table = analysis_pass.compute(context, key)
            write_table(part, table, analysis_pass.columns, {"identity": wanted})
        on_step(done, len(keys))
    tables = [] if finished is None else [finished]
    tables += [read_table(part) for part in sorted(parts_folder.glob("*.parquet"))]
    table = pd.concat(tables, ignore_index=True)
    if analysis_pass.per_checkpoint:
        table = table.sort_values("step", kind="stable", ignore_index=True)
    write_table(path, table, analysis_pass.columns, {"identity": wanted})
    parts_folder.rmtree()
    return read_table(path)
