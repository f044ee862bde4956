"""Checkpoints read for analysis, each once: the last ones are kept for whoever asks next."""

import collections
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from memjax.memory import memory_budget
from memjax.runtime.checkpoints import Checkpoints, finite_and_checksums
from memjax.training.setup import Setup, abstract_saved


class _Read(NamedTuple):
    """What is kept of a checkpoint: params [rows ...] on the host, checksums as found, metadata."""

    params: Any
    checksums: list[int]
    metadata: dict[str, Any]


_read_ones: collections.OrderedDict[tuple[str, int], _Read] = collections.OrderedDict()


def read(checkpoints: Checkpoints, folder: epath.Path, step: int, setup: Setup) -> _Read:
    """Returns a checkpoint; the last ones read are kept, for all passes and points of a group.

    The optimiser's state is read for the checksum, and let go at once.
    """
    metadata = checkpoints.metadata(step)
    key = f"{folder}", step
    if key in _read_ones and _read_ones[key].metadata == metadata:
        _read_ones.move_to_end(key)
        return _read_ones[key]
    _read_ones.pop(key, None)
    state, metadata = checkpoints.restore(step, abstract_saved(setup))
    checksums = np.asarray(finite_and_checksums(state)[1]).tolist()
    for leaf in jax.tree.leaves(state.state.params):
        leaf.setflags(write=False)  # all who ask are given the same arrays
    _read_ones[key] = _Read(state.state.params, checksums, metadata)
    sizes = {
        k: sum(x.nbytes for x in jax.tree.leaves(each.params)) for k, each in _read_ones.items()
    }
    most = memory_budget(jax.devices("cpu")[0]) // 8
    while len(_read_ones) > 1 and sum(sizes[k] for k in _read_ones) > most:
        _read_ones.popitem(last=False)
    return _read_ones[key]


def noted(checkpoints: Checkpoints, folder: epath.Path, step: int) -> dict[str, Any]:
    """Returns what was noted with a checkpoint, from what was read where that is at hand."""
    key = f"{folder}", step
    return _read_ones[key].metadata if key in _read_ones else checkpoints.metadata(step)
