"""Measures a run's checkpoints, example by example: one Parquet table a pass in RUN/analysis.

python -m memjax.analyze --workdir=runs/digits_randlabel --passes=gradients,critical --steps=last
python -m memjax.analyze --list_passes

With --passes=all, a pass that is not for the run is named with the reason and left out; one that
fails all the same is reported, the others go on, and the exit code is 4. What is done is skipped,
and a pass that was interrupted goes on from its last checkpoint. Many processes (a cluster, or
--coordinator) share out the checkpoints.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import flags

from memjax import command_line

flags.DEFINE_string("workdir", None, "The run folder.")
flags.DEFINE_list("passes", None, "Passes by name, or 'all'.")
flags.DEFINE_bool("list_passes", False, "List the passes, and stop.")
flags.DEFINE_list("steps", ["all"], "'all', 'last', or steps that have a checkpoint.")
flags.DEFINE_list("splits", ["train", "validation"], "Splits to look at: also noise, held out.")
flags.DEFINE_integer("num_examples", 0, "The first so many examples of each split; 0: all.")
flags.DEFINE_integer("members", 0, "The first so many members; 0: all.")
flags.DEFINE_list("radii", ["0.01", "0.02", "0.05"], "critical: max-norm radii.")
flags.DEFINE_string("radius_units", "unit", "critical: unit [0, 1], pixel 0 to 255, standardized.")
flags.DEFINE_bool("clip", False, "critical: keep adversarial pixels in [0, 1].")
flags.DEFINE_bool("certify", True, "critical: also what is certified safe.")
flags.DEFINE_bool("lass", False, "critical: also what the paper's search alone finds.")
flags.DEFINE_integer("num_starts", 20, "critical: starts of PGD for the nearest critical point.")
flags.DEFINE_bool("polish", True, "critical: also what follows the bisection of the search.")
flags.DEFINE_integer("num_probes", 50, "sensitivity: steps at which the loss is differentiated.")
flags.DEFINE_integer("num_class_probes", 10, "class_sensitivity: such steps.")
flags.DEFINE_string("norm_order", "1", "sensitivity: 1, 2 or inf.")
flags.DEFINE_bool("include_direct", True, "sensitivity: count an example's own loss term.")
flags.DEFINE_float(
    "max_trajectory_error", 0.05, "sensitivity, attribution: distance allowed from the checkpoint."
)
flags.DEFINE_bool("freeze_statistics", False, "sensitivity: allow BatchNorm, statistics frozen.")
flags.DEFINE_integer("ntk_examples", 100, "ntk: training examples in its block.")
flags.DEFINE_integer("spectrum_examples", 1000, "jacobian_spectrum: examples of each split.")
flags.DEFINE_integer("unit_examples", 100, "localization: corrupted, and clean, examples.")
flags.DEFINE_string("queries", "misclassified", "attribution: or random:COUNT, or positions.")
flags.DEFINE_string("measure", "loss", "attribution: loss or margin.")
flags.DEFINE_bool("validate", False, "attribution: compare with 200 trainings without examples.")
flags.DEFINE_integer("microbatch_size", 0, "Examples at once; 0: as fits. Changes memory only.")
flags.DEFINE_integer("num_devices", 0, "Devices to use; 0: all.")
flags.DEFINE_integer("seed", 0, "Of searches and random starts.")
flags.DEFINE_bool("overwrite", False, "Make tables anew that are there.")
flags.DEFINE_string("data_dir", None, "Where tfds data lie now, if not where the run had them.")
flags.DEFINE_string("data_path", None, "The run's own data now, if not where the run had them.")
flags.DEFINE_string("model_name", None, "The run's own model now, FILE.py:NAME, if it was moved.")
command_line.define_deterministic_flag()
command_line.define_process_flags()
flags.adopt_module_key_flags(command_line)
FLAGS = flags.FLAGS

SOME_FAILED = 4


def _numbers(name: str, values: list[str], kind: Any, allowed: str) -> tuple:
    from memjax.errors import InputError

    try:
        return tuple(kind(value) for value in values)
    except ValueError:
        raise InputError(f"--{name}={','.join(values)}: must be {allowed}") from None


def _passes() -> list:
    names = command_line.required("passes", "gradients,critical")

    from memjax.config import nearest
    from memjax.errors import InputError
    from memjax.passes import PASSES

    names = list(PASSES) if names == ["all"] else names
    for name in names:
        if name not in PASSES:
            raise InputError(f"--passes={name}: no such pass; {nearest(name, PASSES)}")
    return [PASSES[name] for name in names]


def _options(run: Any) -> Any:
    from memjax.passes.base import Options

    steps = {"all": (), "last": tuple(run.steps[-1:])}.get(",".join(FLAGS.steps))
    if steps is None:
        steps = _numbers("steps", FLAGS.steps, int, "'all', 'last', or steps")
    radii = _numbers("radii", FLAGS.radii, float, "numbers of at least 0")
    [norm_order] = _numbers("norm_order", [FLAGS.norm_order], float, "1, 2 or inf")
    given: dict[str, Any] = {
        field.name: FLAGS[field.name].value for field in dataclasses.fields(Options)
    }
    read = {"steps": steps, "splits": tuple(FLAGS.splits), "radii": radii}
    return Options(**(given | read | {"norm_order": norm_order}))


def _suiting(context: Any, passes: list) -> list:
    """Returns the passes that suit the run; one that was named and does not is an error."""
    from memjax.errors import InputError
    from memjax.runtime.distributed import is_main_process

    suiting = []
    for each in passes:
        try:
            each.check_suits(context)
            suiting.append(each)
        except InputError as error:
            if FLAGS.passes != ["all"]:
                raise
            if is_main_process():
                print(f"{each.name:<18} not for this run: {error}", flush=True)
    return suiting


def _context(workdir: str) -> Any:
    from memjax.loading import load_run
    from memjax.passes.base import Context

    moved = {
        "dataset.data_dir": FLAGS.data_dir,
        "dataset.path": FLAGS.data_path,
        "model.name": FLAGS.model_name,
    }
    run = load_run(workdir, **{name: value for name, value in moved.items() if value})
    return Context(run, _options(run), FLAGS.num_devices)


def _check_same(context: Any, passes: list) -> None:
    """Checks that all processes are to do the same, in one folder."""
    import json

    from memjax.runtime.distributed import check_same_on_all_processes
    from memjax.runtime.shared_folder import check_shared_workdir

    names = [each.name for each in passes]
    facts = [names, context.steps, dataclasses.asdict(context.options), FLAGS.overwrite]
    check_same_on_all_processes(json.dumps(facts), "flags or checkpoints")
    check_shared_workdir(context.run.workdir / "analysis")


def main() -> None:
    """Runs what the flags say."""
    if FLAGS.list_passes:
        from memjax.passes import PASSES

        for name, each in PASSES.items():
            print(f"{name:<18} {each.summary}")
        return
    workdir = command_line.required("workdir", "runs/digits_randlabel")
    passes = _passes()

    from memjax.errors import InputError
    from memjax.passes.runner import table_path, write_pass
    from memjax.runtime.distributed import is_main_process, on_all, on_main
    from memjax.runtime.locks import claim

    command_line.choose_kernels(FLAGS.deterministic)
    command_line.join_processes()
    context = on_all(lambda: _context(workdir))
    passes = on_all(lambda: _suiting(context, passes))
    _check_same(context, passes)
    some_failed = False
    with contextlib.ExitStack() as held:
        on_main(lambda: held.enter_context(claim(context.run.workdir / "analysis")))
        for each in passes:
            try:
                with _progress(each.name, is_main_process()) as on_step:
                    rows = write_pass(context, each, FLAGS.overwrite, on_step)
                said = f"{rows:>9,} rows  {table_path(context, each)}"
                if each.draw and is_main_process() and rows:
                    said += f", {each.draw(context, context.run.table(each.name))}"
            except InputError as error:  # of many passes the others go on
                if FLAGS.passes != ["all"]:
                    raise
                some_failed, said = True, f"failed: {error}"
            if is_main_process():
                print(f"{each.name:<18} {said}", flush=True)
    if some_failed:
        sys.exit(SOME_FAILED)


@contextlib.contextmanager
def _progress(name: str, enabled: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar over the checkpoints on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console()
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, disable=not (enabled and console.is_terminal)
    ) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


if __name__ == "__main__":
    command_line.run_entry_point(main)
