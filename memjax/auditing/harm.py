"""Does cleaning help? Networks without the suspects against networks without as many others."""

import dataclasses
from typing import NamedTuple

import numpy as np
from etils import epath

from memjax.auditing.evidence import each_member, probabilities
from memjax.auditing.request import Request, prepare_request
from memjax.auditing.stages import save_arrays
from memjax.config import Config
from memjax.errors import InputError
from memjax.loading import load_run
from memjax.runtime.tables import read_table
from memjax.runtime.workdir import write_json
from memjax.training.run import run
from memjax.training.setup import prepare

FOLDS = 3
_MEMBERS = 4
_ARMS = ("suspects", "random")


class Harm(NamedTuple):
    """Accuracy on held-out examples, by their labels as given.

    Attributes:
      without_suspects: of networks trained without the suspects.
      without_random: of networks trained without as many others of the same classes.
      gain: the difference; low, high: its 95 % interval, over held-out examples.
      num_removed: suspects left out.
    """

    without_suspects: float
    without_random: float
    gain: float
    low: float
    high: float
    num_removed: int


def check_harm(request: Request, workdir: epath.PathLike) -> Harm:
    """Trains on each fold's rest without its suspects, and without as many random examples.

    The held-out labels are those given, wrong ones too, for both alike: the gain is in them smaller
    than in truth, but not of another sign.

    Args:
      request: of the audit.
      workdir: of the finished audit.

    Raises:
      InputError: if there is no finished audit, or no suspect.
      Interrupted: at a signal; the same call goes on from there.
    """
    folder = epath.Path(workdir)
    table = read_table(folder / "audit.parquet")
    is_suspect = (table["issue"] == "wrong label").to_numpy()
    if not is_suspect.any():
        raise InputError(f"{folder}: no label is suspected, so there is nothing to leave out")
    config, dataset, _ = prepare_request(request, folder)
    labels = dataset.train.labels
    fold = np.random.default_rng(config.seed).permutation(len(labels)) % FOLDS
    correct = {arm: np.zeros(len(labels)) for arm in _ARMS}
    for number in range(FOLDS):
        rest = fold != number
        removed = {
            "suspects": rest & is_suspect,
            "random": _random_like(rest & is_suspect, rest & ~is_suspect, labels, number),
        }
        for arm, left_out in removed.items():
            place = folder / "harm" / f"{arm}_{number}"
            own = _config_of(config, place, dataset.train.images, labels, rest & ~left_out, ~rest)
            correct[arm][~rest] = _correct(own, place)
    harm = _summary(correct, int(is_suspect.sum()))
    write_json(folder / "harm.json", harm._asdict())
    return harm


def _random_like(
    suspects: np.ndarray, others: np.ndarray, labels: np.ndarray, seed: int
) -> np.ndarray:
    """Returns bool [n]: as many others of each class as there are suspects, or all but one."""
    rng, chosen = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels[suspects]):
        there = np.flatnonzero(others & (labels == label))
        count = min(int((suspects & (labels == label)).sum()), max(0, len(there) - 1))
        chosen[rng.choice(there, count, replace=False)] = True
    return chosen


def _config_of(
    config: Config,
    folder: epath.Path,
    images: np.ndarray,
    labels: np.ndarray,
    trained: np.ndarray,
    held_out: np.ndarray,
) -> Config:
    path = folder / "data.npz"
    if not path.exists():
        arrays = {
            "images": images[trained],
            "labels": labels[trained],
            "validation_images": images[held_out],
            "validation_labels": labels[held_out],
        }
        save_arrays(path, arrays)
    standardize = config.dataset.standardize
    own = dataclasses.replace(
        type(config.dataset)(),
        source="npz",
        path=str(path),
        standardize="none" if standardize == "feature" else standardize,
    )
    ensemble = type(config.ensemble)(size=_MEMBERS)
    checkpoint = dataclasses.replace(config.checkpoint, powers_of_two=False, every_epochs=0)
    return dataclasses.replace(config, dataset=own, ensemble=ensemble, checkpoint=checkpoint)


def _correct(config: Config, folder: epath.Path) -> np.ndarray:
    """Returns bool [held out]: whether the networks together say the label as given."""
    run(prepare(config), folder / "run")
    trained = load_run(folder / "run")
    images = trained.validation.images
    mean = sum(
        probabilities(trained.logits_fn, params, images)
        for _, params in each_member(trained, trained.steps[-1])
    )
    return np.argmax(mean, axis=1) == trained.validation.labels


def _summary(correct: dict[str, np.ndarray], num_removed: int) -> Harm:
    differences = correct["suspects"] - correct["random"]
    rng = np.random.default_rng(0)
    means = [rng.choice(differences, len(differences)).mean() for _ in range(1000)]
    low, high = np.quantile(means, (0.025, 0.975))
    return Harm(
        without_suspects=float(correct["suspects"].mean()),
        without_random=float(correct["random"].mean()),
        gain=float(differences.mean()),
        low=float(low),
        high=float(high),
        num_removed=num_removed,
    )


def describe_harm(harm: Harm) -> str:
    """Returns in words whether to clean."""
    if harm.high < 0:
        advice = "do not clean: accuracy falls"
    elif harm.low > 0:
        advice = "cleaning helps"
    else:
        advice = "no difference that these data can show"
    return (
        f"Held-out accuracy by the labels as given, {FOLDS} folds: {harm.without_suspects:.3f} "
        f"without the {harm.num_removed:,} suspects, {harm.without_random:.3f} without as many "
        f"random ones: {harm.gain:+.3f} [{harm.low:+.3f}, {harm.high:+.3f}]; {advice}."
    )
