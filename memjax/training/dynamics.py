"""dynamics/: of every logged evaluation each example's loss, margin and prediction, in Parquet.

A part an event, named by its step, written by a thread while training goes on. A resumed run drops
the parts after the step that it goes on from, and writes the same bytes again.
"""

import concurrent.futures
import functools
import io
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from memjax.config import Config
from memjax.errors import InputError
from memjax.runtime.workdir import is_being_cleared, read_config, write_atomically
from memjax.training.outcomes import Outcomes

COLUMNS = {
    "step": "training steps done",
    "epoch": "the same in epochs",
    "member": "member of the ensemble, from 0; none after the step at which it ended",
    "split": "'train' (the member's own examples) or 'validation'",
    "index": "position in the source's split",
    "loss": "cross-entropy with the label trained on (validation: the true one), nats",
    "margin": "label logit - largest other logit",
    "probability": "of the label",
    "prediction": "the predicted class",
}
BYTES_PER_ROW = 16  # compressed: three float32, a class, and next to nothing for the rest
LIMIT_BYTES = 1 << 30
_FLOATS = ["loss", "margin", "probability"]


def estimate_bytes(config: Config, num_train: int, num_validation: int) -> int:
    """Returns about what the dynamics of one run take, if it trains all its epochs.

    Args:
      config: of the run.
      num_train: training examples of a member.
      num_validation: validation examples.
    """
    train = config.train
    events = 2 + train.num_epochs * train.logs_per_epoch // train.log_every_epochs
    return events * config.ensemble.size * (num_train + num_validation) * BYTES_PER_ROW


def records(config: Config, num_bytes: int) -> bool:
    """Returns whether dynamics are recorded, where all of a run or sweep would take `num_bytes`."""
    wanted = config.train.record_dynamics
    return wanted == "on" or (wanted == "auto" and num_bytes <= LIMIT_BYTES)


def decided(workdir: epath.Path) -> bool | None:
    """Returns what was decided when the run in a folder began; None where none is known."""
    if is_being_cleared(workdir) or not (workdir / "config.json").exists():
        return None
    try:
        return read_config(workdir).get("derived", {}).get("records_dynamics", False)
    except InputError:  # which is said when the run is to go on
        return None


def describe(config: Config, num_bytes: int, is_decided: bool | None = None) -> str:
    """Returns in words what becomes of the dynamics.

    Args:
      config: of the run.
      num_bytes: that all of the run or sweep would take.
      is_decided: of a run that goes on, what was decided when it began.

    Example:
      >>> describe(Config(), 3 << 30)
      'dynamics: not recorded: up to 3.00 GiB, limit 1 GiB (config.train.record_dynamics)'
    """
    if is_decided is not None and is_decided != records(config, num_bytes):
        negation = "" if is_decided else "not "
        return f"dynamics: {negation}recorded: as it was decided when the run began"
    size = f"{num_bytes / 2**30:.2f} GiB" if num_bytes >> 30 else f"{num_bytes / 2**20:.1f} MiB"
    negation = "" if records(config, num_bytes) else "not "
    limit = f"{LIMIT_BYTES / 2**30:g} GiB"
    return (
        f"dynamics: {negation}recorded: up to {size}, limit {limit} (config.train.record_dynamics)"
    )


class Dynamics:
    """The parts of one run.

    Args:
      workdir: the run folder.
      steps: of the parts to keep; others are dropped.
      index: of each split, positions of its examples in the source: "train" [members n],
        "validation" [n].
    """

    def __init__(self, workdir: epath.Path, steps: Sequence[int], index: dict[str, np.ndarray]):
        self._folder, self._index = workdir / "dynamics", index
        self._pending: list[concurrent.futures.Future[int]] = []
        self._checksum = 0
        for step, path in parts_of(workdir).items():
            if step not in steps:
                path.unlink()
        self._checksum = checksum(workdir, np.inf)

    def record(self, step: int, epoch: float, members: Sequence[int], found: dict[str, Outcomes]):
        """Starts to write the part of a step.

        Args:
          step: training steps done.
          epoch: the same in epochs.
          members: those evaluated, among the run's.
          found: outcomes of each split, numpy arrays [members n] of all members of the run.
        """
        path = self._folder / f"{step:010d}.parquet"
        task = functools.partial(_write, path, step, epoch, list(members), self._index, found)
        self._pending.append(_thread().submit(task))

    def checksum(self) -> int:
        """Returns a CRC-32 of all parts, once they are on disk."""
        for part in self._pending:
            self._checksum = zlib.crc32(str(part.result()).encode(), self._checksum)
        self._pending = []
        return self._checksum


@functools.cache
def _thread() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="memjax-dynamics")


def _write(
    path: epath.Path,
    step: int,
    epoch: float,
    members: list[int],
    index: dict[str, np.ndarray],
    found: dict[str, Outcomes],
) -> int:
    """Writes one part; returns the CRC-32 of its bytes."""
    tables = [
        _table(step, epoch, member, split, index[split], outcomes)
        for member in members
        for split, outcomes in found.items()
    ]
    buffer = io.BytesIO()
    pq.write_table(
        pa.concat_tables(tables),
        buffer,
        compression="zstd",
        use_dictionary=["step", "epoch", "member", "split"],
        use_byte_stream_split=_FLOATS,
        write_page_checksum=True,
    )
    data = buffer.getvalue()
    write_atomically(path, lambda name: epath.Path(name).write_bytes(data))
    return zlib.crc32(data)


def _table(
    step: int, epoch: float, member: int, split: str, index: np.ndarray, outcomes: Outcomes
) -> pa.Table:
    own = index[member] if index.ndim == 2 else index
    loss, margin, prediction = (values[member, : len(own)] for values in outcomes)

    def constant(value: Any, kind: pa.DataType) -> pa.Array:
        return pa.repeat(pa.scalar(value, kind), len(own))

    columns = {
        "step": constant(step, pa.int32()),
        "epoch": constant(epoch, pa.float32()),
        "member": constant(member, pa.int16()),
        "split": constant(split, pa.string()),
        "index": pa.array(own.astype(np.int32)),
        "loss": pa.array(loss),
        "margin": pa.array(margin),
        "probability": pa.array(np.exp(-loss)),
        "prediction": pa.array(prediction.astype(np.int32)),
    }
    fields = [
        pa.field(name, column.type, metadata={"description": COLUMNS[name]})
        for name, column in columns.items()
    ]
    return pa.table(list(columns.values()), schema=pa.schema(fields))


def parts_of(workdir: epath.Path) -> dict[int, epath.Path]:
    """Returns the parts of a run, by step, ascending."""
    found = (workdir / "dynamics").glob("*.parquet")
    return dict(sorted((int(path.stem), path) for path in found if path.stem.isdigit()))


def checksum(workdir: epath.Path, last_step: float) -> int:
    """Returns a CRC-32 of the parts on disk up to a step, as `Dynamics.checksum` does."""
    total = 0
    for step, path in parts_of(workdir).items():
        if step <= last_step:
            total = zlib.crc32(str(zlib.crc32(path.read_bytes())).encode(), total)
    return total


def read_part(path: epath.Path, columns: Iterable[str] = COLUMNS) -> pa.Table:
    """Reads one part: one step of a run.

    Raises:
      InputError: if it is damaged.
    """
    try:
        with path.open("rb") as file:
            return pq.read_table(file, columns=list(columns), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: damaged ({words})") from error


def read_dynamics(workdir: epath.Path, columns: Iterable[str] = COLUMNS) -> pd.DataFrame:
    """Reads the dynamics of a run.

    Args:
      workdir: the run folder.
      columns: some of `COLUMNS`.

    Returns:
      A data frame, sorted by step, member, split and index within the source.

    Raises:
      InputError: if the run has none, or a part is damaged.
    """
    parts = parts_of(workdir)
    if not parts:
        raise InputError(f"{workdir}: no dynamics (config.train.record_dynamics)")
    tables = [read_part(path, columns) for path in parts.values()]
    frame = pa.concat_tables(tables).to_pandas()
    frame.attrs["columns"] = {name: COLUMNS[name] for name in columns}
    return frame
