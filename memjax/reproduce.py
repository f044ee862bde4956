"""Reproduces the paper: runs what each figure needs, draws it, tests the claims, writes a report.

python -m memjax.reproduce --scale=smoke --workdir=repro/smoke        # all figures, minutes
python -m memjax.reproduce --scale=laptop --figures=1,3,7 --workdir=repro/laptop
python -m memjax.reproduce --scale=workstation --workdir=repro/workstation   # 6 hours on 2 cores
python -m memjax.reproduce --scale=paper --dry_run                    # what it would cost

The same command goes on after an interruption, and does nothing where all is done. Exit code 4:
some figures failed; the others are done.
"""

import os
import sys

from absl import flags

from memjax import command_line

flags.adopt_module_key_flags(command_line)
flags.DEFINE_enum("scale", None, ["smoke", "laptop", "workstation", "paper"], "How large.")
flags.DEFINE_list("figures", ["all"], "'all', or figures by number and other experiments by name.")
flags.DEFINE_string("workdir", None, "The folder of the reproduction; made if it is not there.")
flags.DEFINE_string("data_dir", None, "Where tfds keeps its data.")
flags.DEFINE_bool("dry_run", False, "Show what it costs, run nothing.")
flags.DEFINE_bool("redraw", False, "Draw from the tables that are there, run nothing.")
flags.DEFINE_bool("list_figures", False, "List the figures, and stop.")
command_line.define_deterministic_flag()
FLAGS = flags.FLAGS
SOME_FAILED = 4
# At smoke scale compiling takes longer than all runs.
_COMPILE_QUICKLY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def _list_figures() -> None:
    from memjax.experiments.registry import EXPERIMENTS

    for name, experiment in EXPERIMENTS.items():
        print(f"{name:<10} {experiment.TITLE}")


def main() -> None:
    """Runs what the flags say."""
    if FLAGS.list_figures:
        _list_figures()
        return
    scale = command_line.required("scale", "smoke")
    workdir = "" if FLAGS.dry_run else command_line.required("workdir", f"repro/{scale}")
    if scale == "smoke":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_COMPILE_QUICKLY}"

    from memjax.experiments.cost import describe_cost
    from memjax.experiments.reproduction import Reproduction, figure_names
    from memjax.reporting.claims import count_verdicts
    from memjax.sweeps.plan import use_every_core
    from memjax.training.watcher import Interrupted

    command_line.choose_kernels(FLAGS.deterministic)
    use_every_core()

    names = figure_names(FLAGS.figures)
    reproduction = Reproduction(workdir, scale, names, FLAGS.data_dir)
    if FLAGS.dry_run or scale == "paper":
        for line in describe_cost(reproduction.studies.values()):
            print(line, flush=True)
    if FLAGS.dry_run:
        return
    try:
        results = reproduction.redraw() if FLAGS.redraw else reproduction.run()
    except Interrupted as stopped:
        print(f"memjax: {stopped}; the same command goes on from there", file=sys.stderr)
        sys.exit(stopped.exit_code)
    for result in results:
        counts = count_verdicts(result.claims)
        words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        print(f"{result.name:<10} {result.error or words}")
    print(f"report: {workdir}/report/report.html")
    if any(result.error for result in results):
        sys.exit(SOME_FAILED)


if __name__ == "__main__":
    command_line.run_entry_point(main)
