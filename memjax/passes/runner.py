"""Runs passes checkpoint by checkpoint: what is done is kept, what was killed goes on."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import pandas as pd
import pyarrow.parquet as pq
from etils import epath

from memjax.config import saved_science
from memjax.errors import InputError
from memjax.passes.base import Context, Pass
from memjax.passes.options import Options
from memjax.runtime.distributed import is_main_process, on_all, on_main
from memjax.runtime.shared_folder import appears
from memjax.runtime.tables import (
    join_tables,
    num_rows,
    read_metadata,
    read_table,
    steps_of,
    write_table,
)
from memjax.runtime.workdir import difference, job, read_json, write_atomically


def identity(context: Context, analysis_pass: Pass) -> dict[str, Any]:
    """Returns what decides the values of a table: the run's config and the pass's options."""
    # "All" checkpoints are those that there are: a run that went on is another analysis.
    options = dataclasses.asdict(context.options) | {"steps": context.steps}
    science = read_json(context.run.workdir / "config.json")["science"]
    return {**science, **_as_flags({name: options[name] for name in analysis_pass.options})}


def _as_flags(options: dict[str, Any]) -> dict[str, Any]:
    """Returns options as a table's metadata have them."""
    return {f"--{k}": list(v) if isinstance(v, tuple) else v for k, v in options.items()}


def table_path(context: Context, analysis_pass: Pass) -> epath.Path:
    """Returns where the table of a pass lies."""
    return context.run.workdir / "analysis" / f"{analysis_pass.name}.parquet"


def check_table(path: epath.Path, wanted: dict[str, Any]) -> bool:
    """Returns whether a table is there.

    Options and fields that a table does not name, for memjax did not have them yet, are at their
    defaults.

    Raises:
      InputError: if it is that of another config or of other options.
    """
    if not path.exists():
        return False
    with path.open("rb") as file:
        there = read_metadata(pq.read_schema(file)).get("identity", {})
    defaults = _as_flags(dataclasses.asdict(Options()))
    new = {k: v for k, v in defaults.items() if k in wanted}
    found = difference(new | saved_science(there, wanted), wanted)
    if found:
        raise InputError(f"{path}: is of another analysis ({found}); --overwrite makes it anew")
    return True


def run_pass(
    context: Context,
    analysis_pass: Pass,
    overwrite: bool = False,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Writes the table of one pass, as `write_pass` does, and reads it.

    Returns:
      The table, as written to analysis/NAME.parquet; without rows on processes other than 0.
    """
    write_pass(context, analysis_pass, overwrite, on_step)
    if not is_main_process():
        return pd.DataFrame(columns=list(analysis_pass.columns))
    return read_table(table_path(context, analysis_pass))


def write_pass(
    context: Context,
    analysis_pass: Pass,
    overwrite: bool = False,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Computes the table of one pass, or what is missing of it; the whole is never in memory.

    All processes of a run call it: they share out the checkpoints, each on its own devices, and
    process 0 puts the table together.

    Args:
      context: the run and the options.
      analysis_pass: the pass.
      overwrite: discards a table that is there; once for each job, where $MEMJAX_JOB names it.
      on_step: called with (checkpoints done, checkpoints in all), the other processes' estimated.

    Returns:
      The rows of analysis/NAME.parquet; 0 on processes other than 0.

    Raises:
      InputError: for a table of another config or options, or a run that the pass is not for.
    """
    analysis_pass.check_suits(context)
    wanted = identity(context, analysis_pass)
    keys = list(context.steps) if analysis_pass.per_checkpoint else analysis_pass.parts(context)
    missing = on_main(lambda: _missing(context, analysis_pass, keys, wanted, overwrite))
    before, processes = len(keys) - len(missing), jax.process_count()
    on_step(before, len(keys))

    def compute() -> None:
        for done, key in enumerate(missing[jax.process_index() :: processes], start=1):
            part = _part_path(context, analysis_pass, key)
            if not check_table(part, wanted):
                context.progress, context.progress_identity = part.parent, wanted
                table = analysis_pass.compute(context, key)
                context.progress = None
                write_table(part, table, analysis_pass.columns, {"identity": wanted})
            on_step(min(before + done * processes, len(keys)), len(keys))

    if missing:
        on_all(compute)
        on_main(lambda: _assemble(context, analysis_pass, missing, wanted))
    return num_rows(table_path(context, analysis_pass)) if is_main_process() else 0


def _part_path(context: Context, analysis_pass: Pass, key: Any) -> epath.Path:
    folder = table_path(context, analysis_pass).parent / f".{analysis_pass.name}.parts"
    return folder / f"{'run' if key is None else key}.parquet"


def _missing(
    context: Context, analysis_pass: Pass, keys: list[Any], wanted: dict[str, Any], overwrite: bool
) -> list[Any]:
    """Returns the checkpoints that the table does not have yet."""
    path = table_path(context, analysis_pass)
    mark = path.parent / f".{analysis_pass.name}.job"  # of the job that overwrote the table last
    if overwrite and job() and mark.exists() and mark.read_text() == job():
        overwrite = False  # what is there is this job's own progress
    if overwrite:
        path.unlink(missing_ok=True)
        parts_folder = _part_path(context, analysis_pass, None).parent
        if parts_folder.exists():
            parts_folder.rmtree()
        write_atomically(mark, lambda name: epath.Path(name).write_text(job()))
    if not check_table(path, wanted):
        return keys
    if not analysis_pass.per_checkpoint:
        return []
    have = steps_of(path)
    return [key for key in keys if key not in have]


def _assemble(
    context: Context, analysis_pass: Pass, missing: list[Any], wanted: dict[str, Any]
) -> None:
    """Writes the table of what was there and the new parts, and deletes these."""
    path = table_path(context, analysis_pass)
    for part in (_part_path(context, analysis_pass, key) for key in missing):
        if not appears(part):
            raise InputError(f"{part}: another process wrote it, and it is not here")
    parts_folder = _part_path(context, analysis_pass, None).parent
    parts = [each for each in [path] if each.exists()] + sorted(parts_folder.glob("*.parquet"))
    by = "step" if analysis_pass.per_checkpoint else None
    join_tables(path, parts, analysis_pass.columns, {"identity": wanted}, by)
    parts_folder.rmtree()
