"""One run from start to end: claim the folder, write what it is, train, sum up."""

import contextlib
import json
from typing import Any

import jax
import numpy as np
from etils import epath

import memjax
from memjax.data.describe import derived_data, describe_data
from memjax.data.examples import EXAMPLE_COLUMNS, examples_table
from memjax.reporting.curves import draw_curves
from memjax.runtime.distributed import (
    check_same_on_all_processes,
    check_shared_workdir,
    on_main,
)
from memjax.runtime.preemption import stop_request
from memjax.runtime.tables import write_table
from memjax.runtime.throughput import Throughput
from memjax.runtime.workdir import (
    check_same_run,
    claim,
    clear,
    read_json,
    write_atomically,
    write_json,
)
from memjax.training.loop import train
from memjax.training.setup import Setup, data_fingerprint
from memjax.training.step import step_flops


def config_document(setup: Setup) -> dict[str, Any]:
    """Returns what config.json holds: science fields apart from fields that change no result."""
    moments = {
        "mean": np.asarray(setup.network.mean).tolist(),
        "std": np.asarray(setup.network.std).tolist(),
    }
    science = setup.config.science() | {"data.fingerprint": data_fingerprint(setup)}
    return {
        "memjax_version": memjax.__version__,
        "science": science,
        "run": setup.config.without_science(),
        "derived": {
            "num_train": len(setup.examples.labels),
            "num_validation": len(setup.dataset.validation.labels),
            "num_classes": setup.examples.num_classes,
            "num_params": setup.num_params,
            "steps_per_epoch": setup.batches.steps_per_epoch,
            **moments,
            **derived_data(setup.dataset),
        },
    }


def describe_setup(setup: Setup) -> str:
    """Returns the lines that a run starts with: what is trained, and on what data."""
    mesh, config = setup.mesh, setup.config
    device = mesh.devices.flat[0]
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    if jax.process_count() > 1:
        axes += f" of {jax.process_count()} processes"
    members = f", {config.ensemble.size} members" if config.ensemble.size > 1 else ""
    corruption = config.corruption
    kind = (
        corruption.kind
        if corruption.kind == "none"
        else (f"{corruption.kind} {corruption.fraction:.0%}")
    )
    line = (
        f"memjax {memjax.__version__} | {mesh.size} {device.platform} device(s) ({axes}) | "
        f"{setup.dataset.name}: {len(setup.examples.labels):,} training, "
        f"{len(setup.dataset.validation.labels):,} validation examples, "
        f"{setup.examples.num_classes} classes | corruption {kind} | "
        f"{config.model.name}: {setup.num_params:,} parameters{members} | "
        f"{setup.batches.steps_per_epoch} steps an epoch, {config.train.num_epochs} epochs"
    )
    return "\n".join([line, *describe_data(setup.dataset, setup.examples)])


def run(setup: Setup, workdir: epath.PathLike, overwrite: bool = False) -> dict[str, Any]:
    """Trains a run in its folder, or finishes one that was interrupted.

    All processes of a run call it: they train together, and process 0 writes the folder.

    Args:
      setup: from `memjax.training.setup.prepare`.
      workdir: the run folder; made if it is not there.
      overwrite: deletes a run that is there instead of going on with it.

    Returns:
      The summary, as in summary.json.

    Raises:
      InputError: if the folder cannot be used; nothing is written then.
      Diverged, Interrupted: see `memjax.training.loop.train`.
    """
    folder = epath.Path(workdir)
    document = config_document(setup)
    facts = json.dumps([document, setup.images_are_split])
    check_same_on_all_processes(facts, "data, devices or memjax")
    if not overwrite:
        on_main(lambda: check_same_run(folder, document))
    check_shared_workdir(folder)
    with contextlib.ExitStack() as held, stop_request() as stop:
        done = on_main(lambda: _open(setup, folder, document, overwrite, held))
        if done is not None:
            return done
        throughput = Throughput()
        rows = train(setup, folder, stop, throughput)
        return on_main(lambda: _finish(setup, folder, rows, throughput))


def _open(
    setup: Setup,
    folder: epath.Path,
    document: dict[str, Any],
    overwrite: bool,
    held: contextlib.ExitStack,
) -> dict[str, Any] | None:
    """Claims the folder until `held` closes; returns the summary if the run is finished."""
    held.enter_context(claim(folder))
    if overwrite:
        clear(folder)
    if not check_same_run(folder, document):
        write_json(folder / "config.json", document)
    elif (folder / "summary.json").exists():
        return read_json(folder / "summary.json")
    table = examples_table(setup.dataset, setup.examples)
    write_table(folder / "examples.parquet", table, EXAMPLE_COLUMNS)
    return None


def _finish(
    setup: Setup, folder: epath.Path, rows: list[dict[str, Any]], throughput: Throughput
) -> dict[str, Any]:
    summary = summarize(setup, rows) | _speed(setup, throughput)
    title = f"{setup.dataset.name}, {setup.config.corruption.kind}"
    write_atomically(folder / "figures" / "curves.png", lambda path: draw_curves(rows, title, path))
    write_json(folder / "summary.json", summary)
    return summary


def summarize(setup: Setup, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the last metrics, the best validation accuracy, and the time to convergence.

    `epochs_to_fit` is the first logged epoch with 100 % training accuracy, null for a member
    that never had it. Where there are several members, values are lists over them.
    """
    last = dict(rows[-1])
    frame = {
        name: np.array([row[name] for row in rows], dtype=float).reshape(len(rows), -1)
        for name in ("epoch", "train_accuracy", "validation_accuracy")
    }
    fitted = frame["train_accuracy"] >= 1.0
    epochs = frame["epoch"][:, 0]
    epochs_to_fit = [
        float(epochs[np.argmax(member)]) if member.any() else None for member in fitted.T
    ]
    best: list[float | None] = [None] * fitted.shape[1]
    if len(setup.dataset.validation.labels):
        best = frame["validation_accuracy"].max(axis=0).tolist()
    single = setup.config.ensemble.size == 1
    return {
        **last,
        "best_validation_accuracy": best[0] if single else best,
        "epochs_to_fit": epochs_to_fit[0] if single else epochs_to_fit,
        "num_params": setup.num_params,
    }


def _speed(setup: Setup, throughput: Throughput) -> dict[str, float | None]:
    size, batches = setup.config.ensemble.size, setup.batches
    flops = step_flops(setup.network, setup.optimizer, setup.image_shape, batches.batch_size)
    return throughput.summary(
        size * batches.num_examples / batches.steps_per_epoch,
        flops / batches.batch_size,
        setup.mesh,
        setup.config.train.compute_dtype,
    )
