"""Trains a network on real or corrupted data and leaves a run folder that every analysis reads.

python -m memjax.main --config=configs/digits_randlabel.py --workdir=runs/digits_randlabel
python -m memjax.main --config=configs/mnist_randx.py:quick --config.seed=1 --workdir=runs/quick
python -m memjax.main --list_configs

A run that was interrupted goes on from its newest checkpoint when it is called again. Started on
many hosts (Slurm, Cloud TPU, Kubernetes, or with --coordinator), the same command is one run.
"""

import contextlib
import json
import sys
from dataclasses import replace

from absl import flags

from memjax import command_line

command_line.define_config_flag()
command_line.define_process_flags()
flags.adopt_module_key_flags(command_line)
flags.DEFINE_string("workdir", None, "The run folder; made if it is not there.")
flags.DEFINE_bool("overwrite", False, "Delete a run that is in the folder, and start anew.")
flags.DEFINE_integer(
    "profile", 0, "Steps to trace; short for --config.run.profile_steps.", lower_bound=0
)
flags.DEFINE_bool("list_configs", False, "List the configs that memjax ships, and stop.")
FLAGS = flags.FLAGS


def _list_configs() -> None:
    import ast

    for name in command_line.config_names():
        source = (command_line.config_folder() / name).read_text()
        first_line = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
        print(f"configs/{name:<24} {first_line}")


def _show(summary: dict) -> None:
    import numpy as np
    from rich.console import Console
    from rich.table import Table

    table = Table("at the end", "value", show_edge=False)
    for name, value in summary.items():
        if isinstance(value, list):
            known = [v for v in value if v is not None]
            words = f"{np.mean(known):.4g} (mean of {len(known)} of {len(value)})" if known else "-"
        else:
            words = "-" if value is None else f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"
        table.add_row(name, words)
    Console().print(table)


def main() -> None:
    """Runs what the flags say."""
    if FLAGS.list_configs:
        _list_configs()
        return
    config = command_line.required("config", "configs/digits_randlabel.py")
    workdir = command_line.required("workdir", "runs/digits_randlabel")

    from etils import epath

    from memjax.config import Config, resolve
    from memjax.errors import InputError
    from memjax.located import located
    from memjax.runtime.distributed import check_same_on_all_processes, is_main_process, on_all
    from memjax.training import dynamics
    from memjax.training.documents import describe_setup
    from memjax.training.run import dynamics_bytes, run
    from memjax.training.setup import prepare
    from memjax.training.watcher import Interrupted

    def resolve_flags() -> Config:
        resolved = located(resolve(config), command_line.config_file_folder())
        if not FLAGS.profile:
            return resolved
        return replace(resolved, run=replace(resolved.run, profile_steps=FLAGS.profile))

    # Before anything of JAX; what is wrong with a config is said below, once.
    with contextlib.suppress(InputError):
        command_line.choose_kernels(resolve(config).run.deterministic)
    command_line.join_processes()
    resolved = on_all(resolve_flags)
    check_same_on_all_processes(json.dumps(resolved.as_dict()), "--config")
    setup = on_all(lambda: prepare(resolved))
    if is_main_process():
        print(describe_setup(setup), flush=True)
        decided = None if FLAGS.overwrite else dynamics.decided(epath.Path(workdir))
        print(dynamics.describe(resolved, dynamics_bytes(setup), decided), flush=True)
    try:
        summary = run(setup, workdir, FLAGS.overwrite)
    except Interrupted as stopped:
        if is_main_process():
            print(f"memjax: {stopped}; the same command goes on from there", file=sys.stderr)
        sys.exit(stopped.exit_code)
    if is_main_process():
        _show(summary)
        print(f"run folder: {workdir}  curves: {workdir}/figures/curves.png")


if __name__ == "__main__":
    command_line.run_entry_point(main)
