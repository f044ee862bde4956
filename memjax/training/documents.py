"""What a run folder and the first lines of a run say of it: config, data, network."""

from typing import Any

import jax
import numpy as np

from memjax.data.describe import derived_data, describe_data
from memjax.errors import InputError
from memjax.keys import DRAWS_VERSION
from memjax.models.source import code_fingerprints, import_folder
from memjax.runtime.workdir import difference, job
from memjax.training.setup import Setup, data_fingerprint, source_fingerprint
from memjax.version import __version__


def config_document(setup: Setup, num_params: int = 0, records_dynamics: bool = False) -> dict:
    """Returns what config.json holds: science fields apart from fields that change no result.

    Args:
      setup: of the run.
      num_params: of one member, where they were counted; 0 counts them.
      records_dynamics: whether it was decided to record them.
    """
    moments = {
        "mean": np.asarray(setup.network.mean).tolist(),
        "std": np.asarray(setup.network.std).tolist(),
    }
    science = setup.config.science() | code_fingerprints(setup.config.model.name)
    science |= source_fingerprint(setup.config.dataset, setup.dataset)
    science |= {"data.fingerprint": data_fingerprint(setup), "draws.version": DRAWS_VERSION}
    return {
        "memjax_version": __version__,
        "job": job(),
        "science": science,
        "run": setup.config.without_science(),
        "derived": {
            "num_train": len(setup.examples.labels),
            "num_validation": len(setup.dataset.validation.labels),
            "num_classes": setup.examples.num_classes,
            "num_params": num_params or setup.num_params,
            "import_folder": import_folder(setup.config.model.name),
            "steps_per_epoch": setup.batches.steps_per_epoch,
            "records_dynamics": records_dynamics,
            **moments,
            **derived_data(setup.dataset),
        },
    }


def goes_on(there: dict[str, Any], here: dict[str, Any], where: str) -> bool:
    """Returns whether a run is that of another config but for more epochs, so that it can go on.

    Args:
      there: science fields of the run.
      here: those of the config.
      where: names the folder, for the error.

    Raises:
      InputError: if the learning rate of the epochs that are over depends on their number, or
        their end was logged where a run of more epochs logs nothing.
    """
    name = "train.num_epochs"
    more = there | {name: here.get(name)}
    if difference(more, here) or not there.get(name, np.inf) < here[name]:
        return False
    if here["optimizer.schedule"] == "cosine":
        raise InputError(
            f"{where}: {name} is {there[name]} there, {here[name]} here, and a cosine schedule "
            "reaches its end with the last epoch: such a run cannot go on; choose another folder"
        )
    every = here["train.log_every_epochs"]
    if there[name] % every:  # the end is evaluated, and may stop members, in any case
        raise InputError(
            f"{where}: {name} is {there[name]} there, {here[name]} here, and {there[name]} is no "
            f"multiple of train.log_every_epochs={every}: the end there was logged where a longer "
            "run has no log, so it cannot go on; choose another folder (what has run a multiple of "
            f"{every} epochs can go on)"
        )
    return True


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
        f"memjax {__version__} | {mesh.size} {device.platform} device(s) ({axes}) | "
        f"{setup.dataset.name}: {len(setup.examples.labels):,} training, "
        f"{len(setup.dataset.validation.labels):,} validation examples, "
        f"{setup.examples.num_classes} classes | corruption {kind} | "
        f"{config.science()['model.name']}: {setup.num_params:,} parameters{members} | "
        f"{setup.batches.steps_per_epoch} steps an epoch, {config.train.num_epochs} epochs"
    )
    return "\n".join([line, *describe_data(setup.dataset, setup.examples)])
