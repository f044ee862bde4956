"""Does cleaning help? Networks without the suspects against networks without as many others."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from memjax.auditing.evidence import each_member, probabilities
from memjax.auditing.given import checksum
from memjax.auditing.request import Request, prepare_request
from memjax.auditing.stages import (
    HARM_ARMS,
    HARM_FOLDS,
    HARM_MEMBERS,
    dataset_of,
    save_arrays,
)
from memjax.config import Config
from memjax.loading import load_run
from memjax.runtime.tables import read_table
from memjax.runtime.workdir import write_json
from memjax.training.run import run
from memjax.training.setup import prepare


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


def check_harm(request: Request, workdir: epath.PathLike) -> Harm | None:
    """Trains on each fold's rest without its suspects, and without as many random examples.

    The held-out labels are those given, wrong ones too, for both alike: the gain is in them smaller
    than in truth, but not of another sign.

    Args:
      request: of the audit.
      workdir: of the finished audit.

    Returns:
      What leaving the suspects out does; None where no label is suspected.

    Raises:
      InputError: if there is no finished audit.
      Interrupted: at a signal; the same call goes on from there.
    """
    folder = epath.Path(workdir)
    table = read_table(folder / "audit.parquet")
    is_suspect = (table["issue"] == "wrong label").to_numpy()
    if not is_suspect.any():
        return None
    prepared = prepare_request(request, folder)
    config, images, labels = prepared.config, prepared.images, prepared.stored.train.labels
    suspicion = table["probability_wrong"].to_numpy()
    fold = make_folds(labels, config.seed)
    correct = {arm: np.zeros(len(labels)) for arm in HARM_ARMS}
    for number in range(HARM_FOLDS):
        rest = fold != number
        suspects = leave_one_of_each(rest & is_suspect, rest, labels, suspicion)
        random = _random_like(suspects, rest & ~is_suspect, labels, number)
        for arm, left_out in zip(HARM_ARMS, (suspects, random), strict=True):
            trained = rest & ~left_out
            arrays = {
                "images": images[trained],
                "labels": labels[trained],
                "validation_images": images[~rest],
                "validation_labels": labels[~rest],
            }
            # By content: other suspects are another training set, and another run.
            place = folder / "harm" / f"{arm}_{number}_{checksum(*arrays.values()):08x}"
            correct[arm][~rest] = _correct(_config_of(config, place, arrays), place)
    harm = _summary(correct, int(is_suspect.sum()))
    write_json(folder / "harm.json", harm._asdict())
    return harm


def make_folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns int [n], the fold of each example; the examples of each class are spread evenly.

    Example:
      >>> sorted(make_folds(np.array([0, 1, 1, 0, 0]), seed=0)[[0, 3, 4]].tolist())
      [0, 1, 2]
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), int)
    fold[order] = np.arange(len(labels)) % HARM_FOLDS
    return fold


def leave_one_of_each(
    left_out: np.ndarray, rest: np.ndarray, labels: np.ndarray, suspicion: np.ndarray
) -> np.ndarray:
    """Returns bool [n]: those to leave out, but for the least suspect of a class of suspects alone.

    Args:
      left_out: bool [n], of the rest.
      rest: bool [n], the examples of other folds; some of each class.
      labels: int [n].
      suspicion: [n], high is wrong.
    """
    spared = left_out.copy()
    for label in np.setdiff1d(labels[left_out], labels[rest & ~left_out]):
        alone = np.flatnonzero(left_out & (labels == label))
        spared[alone[suspicion[alone].argmin()]] = False
    return spared


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


def _config_of(config: Config, folder: epath.Path, arrays: Mapping[str, np.ndarray]) -> Config:
    path = folder / "data.npz"
    if not path.exists():
        save_arrays(path, dict(arrays))
    batch_size = min(config.train.batch_size, len(arrays["labels"]))
    return dataclasses.replace(
        config,
        dataset=dataset_of(config, path, num_validation=-1),
        train=dataclasses.replace(config.train, batch_size=batch_size),
        ensemble=type(config.ensemble)(size=HARM_MEMBERS),
        checkpoint=dataclasses.replace(config.checkpoint, powers_of_two=False, every_epochs=0),
    )


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


def describe_harm(harm: Harm | None) -> str:
    """Returns in words whether to clean."""
    if harm is None:
        return "No label is suspected, so there is nothing to leave out."
    if harm.high < 0:
        advice = "do not clean: accuracy falls"
    elif harm.low > 0:
        advice = "cleaning helps"
    else:
        advice = "no difference that these data can show"
    return (
        f"Held-out accuracy by the labels as given, {HARM_FOLDS} folds: "
        f"{harm.without_suspects:.3f} without the {harm.num_removed:,} suspects, "
        f"{harm.without_random:.3f} without as many "
        f"random ones: {harm.gain:+.3f} [{harm.low:+.3f}, {harm.high:+.3f}]; {advice}."
    )
