"""Trains every point of a sweep, those alike side by side in one program; leaves one table.

python -m memjax.sweep --sweep=configs/sweeps/capacity.py:quick --workdir=sweeps/capacity
python -m memjax.sweep --sweep=configs/sweeps/capacity.py --workdir=sweeps/capacity --dry_run
python -m memjax.sweep --sweep=... --workdir=... --task_index=0 --num_tasks=8   # one of a job array
python -m memjax.sweep --list_sweeps

Many processes (a cluster, or --coordinator) share out the points.

The same command goes on after an interruption, and does nothing where all is done. Exit code 4:
some points failed; the others are done.
"""

import sys
from typing import Any

from absl import flags

from memjax import command_line

flags.DEFINE_string("sweep", None, "The sweep file, FILE.py or FILE.py:quick.")
flags.DEFINE_string("workdir", None, "The folder of the sweep; made if it is not there.")
flags.DEFINE_bool("dry_run", False, "Show points, groups and costs, train nothing.")
flags.DEFINE_integer("task_index", 0, "Which share of the sweep this process trains, from 0.")
flags.DEFINE_integer("num_tasks", 1, "How many shares there are.")
flags.DEFINE_string("data_dir", None, "Where tfds keeps its data, for every point.")
flags.DEFINE_bool("tensorboard", False, "Also write scalars: tensorboard --logdir=WORKDIR/points.")
flags.DEFINE_bool("retry_failed", False, "Train failed points anew.")
flags.DEFINE_bool("list_sweeps", False, "List the sweeps that memjax ships, and stop.")
command_line.define_process_flags()
flags.adopt_module_key_flags(command_line)
FLAGS = flags.FLAGS
SOME_FAILED = 4


def _list_sweeps(folder: Any) -> None:
    import ast

    from memjax.sweeps.points import sweep_names

    for name in sweep_names(folder):
        source = (folder / name).read_text()
        first_line = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
        print(f"configs/sweeps/{name:<18} {first_line}")


def _dry_run(plan: Any) -> None:
    """Prints the points of this task group by group, and what they cost without early stops."""
    from memjax.runtime.progress import duration
    from memjax.sweeps.cost import seconds_per_step

    total_seconds, total_flops = 0.0, 0.0
    for number, group in enumerate(plan.groups):
        first = group.points[0]
        config, cost = plan.configs[first], plan.costs[first]
        step = seconds_per_step(group, config, plan.datasets[first])
        seconds = step * cost.num_steps * config.ensemble.size * len(group.points)
        flops = cost.flops * len(group.points)
        total_seconds, total_flops = total_seconds + seconds, total_flops + flops
        print(
            f"group {number}: {len(group.points)} points, {cost.num_params:,} parameters, "
            f"{cost.num_steps:,} steps, {flops:.2e} FLOPs, about {duration(seconds)}",
            flush=True,
        )
        for point in group.points:
            factors = "  ".join(f"{k}={v}" for k, v in plan.points[point].factors.items())
            print(f"  {plan.points[point].name:<32} {factors}")
    points = sum(len(group.points) for group in plan.groups)
    print(
        f"in all {points} points in {len(plan.groups)} groups, {total_flops:.2e} FLOPs, about "
        f"{duration(total_seconds)} if no point stops early"
    )


def _sum_up(sweep: Any, plan: Any, folder: Any) -> None:
    """Writes the table of the points that have ended, and draws it where all have."""
    from memjax.experiments.sweep_tables import save_tables
    from memjax.sweeps.figures import draw_results
    from memjax.sweeps.table import assemble

    table = assemble(folder, plan.points, plan.configs)
    if table is None:
        return
    print(f"{table['point'].nunique()} of {len(plan.points)} points: {folder}/results.parquet")
    if table["point"].nunique() == len(plan.points):
        draw_results(table, list(plan.points[0].factors), folder / "figures" / "results.png")
        save_tables(sweep, table, folder / "figures")


def main() -> None:
    """Runs what the flags say."""
    shipped = command_line.config_folder() / "sweeps"
    if FLAGS.list_sweeps:
        _list_sweeps(shipped)
        return
    path = command_line.required("sweep", "configs/sweeps/capacity.py:quick")
    workdir = None if FLAGS.dry_run else command_line.required("workdir", "sweeps/capacity")

    from memjax.sweeps.points import load_sweep

    sweep = load_sweep(path, shipped, FLAGS.data_dir, FLAGS.tensorboard)

    from etils import epath

    from memjax.runtime import distributed
    from memjax.runtime.locks import hold_together
    from memjax.runtime.shared_folder import check_shared_workdir
    from memjax.sweeps.plan import make_plan, use_every_core
    from memjax.sweeps.run import run_sweep
    from memjax.training import dynamics
    from memjax.training.watcher import Interrupted

    command_line.choose_kernels(any(config.run.deterministic for config in sweep.configs))
    use_every_core()
    command_line.join_processes()
    share = distributed.share_of_process(FLAGS.task_index, FLAGS.num_tasks)
    plan = distributed.on_all(lambda: make_plan(sweep, *share))
    if distributed.is_main_process():
        said: dict[str, None] = {}
        for point, config in zip(plan.points, plan.configs, strict=True):
            folder = epath.Path(workdir) / "points" / point.name if workdir else None
            decided = dynamics.decided(folder) if folder else None
            said[dynamics.describe(config, plan.dynamics_bytes, decided)] = None
        print(*said, sep="\n", flush=True)
    if FLAGS.dry_run:
        _dry_run(plan)
        return
    check_shared_workdir(workdir)
    try:
        outcome = distributed.on_all(lambda: run_sweep(plan, workdir, FLAGS.retry_failed))
    except Interrupted as stopped:
        print(f"memjax: {stopped}; the same command goes on from there", file=sys.stderr)
        sys.exit(stopped.exit_code)
    for name in outcome.elsewhere:
        print(f"{name}: another process is at work on it", flush=True)
    if distributed.is_main_process():
        folder = epath.Path(workdir)
        with hold_together(folder):
            _sum_up(sweep, plan, folder)
    for name, reason in outcome.failures.items():
        print(f"memjax: {name} failed: {reason}", file=sys.stderr, flush=True)
    if outcome.failures:
        sys.exit(SOME_FAILED)


if __name__ == "__main__":
    command_line.run_entry_point(main)
