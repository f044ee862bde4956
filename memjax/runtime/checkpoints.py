"""Checkpoints: when, and how they are written and found again (orbax)."""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

import memjax.config as config_lib
from memjax.errors import InputError
from memjax.runtime.lost import is_process_lost
from memjax.runtime.workdir import is_remote


def checkpoint_steps(
    config: config_lib.Checkpoint, steps_per_epoch: int, num_epochs: int
) -> list[int]:
    """Returns the steps after which the state is saved, ascending.

    Example:
      >>> checkpoint_steps(config_lib.Checkpoint(every_epochs=2), steps_per_epoch=5, num_epochs=5)
      [0, 1, 2, 4, 8, 10, 20, 25]
    """
    last = num_epochs * steps_per_epoch
    dense = min(last, (config.every_epochs or num_epochs) * steps_per_epoch)
    steps = {0, last}
    if config.powers_of_two:
        steps |= {2**power for power in range(dense.bit_length()) if 2**power <= dense}
    if config.every_epochs:
        steps |= set(range(0, last + 1, config.every_epochs * steps_per_epoch))
    return sorted(steps)


class Damaged(InputError):
    """The files of a checkpoint, or the bits in them, are not what was written."""


def finite_and_checksums(tree: Any) -> tuple[jax.Array, jax.Array]:
    """Returns of each row whether every number is finite, and a checksum of its bits.

    The checksum is a wrapping integer sum: the same on any number of devices and in any order.

    Args:
      tree: arrays [rows ...] of at most 32 bits a number.

    Returns:
      bool [rows] and uint32 [rows], whole on every process.
    """
    found = _finite_and_checksums(tree)
    if all(values.is_fully_addressable for values in found):
        return found
    mesh = next(leaf.sharding.mesh for leaf in jax.tree.leaves(tree))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(lambda values: values, out_shardings=whole)(found)


def _finite_and_checksums(tree: Any) -> tuple[jax.Array, jax.Array]:
    # Leaf by leaf: few shapes are compiled, however many trees are made of them.
    parts = [_of_leaf(leaf, np.uint32(place)) for place, leaf in enumerate(jax.tree.leaves(tree))]
    finite, sums = zip(*parts, strict=True)
    return functools.reduce(jnp.logical_and, finite), functools.reduce(jnp.add, sums)


@jax.jit
def _of_leaf(leaf: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
    rows, finite = leaf.reshape(len(leaf), -1), jnp.ones(len(leaf), bool)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        finite = jnp.all(jnp.isfinite(rows), axis=1)
        bits = jax.lax.bitcast_convert_type(rows.astype(jnp.float32), jnp.uint32)
    else:
        bits = rows.astype(jnp.uint32)
    position = jnp.arange(rows.shape[1], dtype=jnp.uint32)[None]
    mixed = (bits ^ (position * jnp.uint32(2654435761))) * (2 * place + 1)
    return finite, jnp.sum(mixed ^ (mixed >> 15), axis=1, dtype=jnp.uint32)


def structure_of(tree: Any) -> str:
    """Returns 16 hex digits: the same names, shapes and types of one row, the same digits."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    text = [[jax.tree_util.keystr(path), list(x.shape), str(x.dtype)] for path, x in leaves]
    return hashlib.sha256(json.dumps(text).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """orbax warns of every manager that was asked to be read-only that it is read-only."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # what it logs as an error it raises, too
    try:
        yield
    finally:
        logger.setLevel(before)


class Checkpoints:
    """The checkpoints of a run or a group of runs, in `workdir/checkpoints`.

    Every leaf of a state has a leading axis of rows, one a network, and every checkpoint carries a
    checksum of each row, so that one that was truncated, or was restored as something else, is
    never taken for good.

    Args:
      workdir: the folder.
      name: of the folder in it.
      read_only: never to write there.
      shared: whether all processes of the run save together, every one of them calling every
        method; otherwise this process is alone with its checkpoints.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        name: str = "checkpoints",
        read_only: bool = False,
        shared: bool = False,
    ):
        folder = epath.Path(workdir)
        # Of "s3://bucket" `absolute` would make a folder "s3:" where the process stands.
        self._directory = (folder if is_remote(folder) else folder.absolute()) / name
        self._is_one_of_many = jax.process_count() > 1 and not shared
        if read_only and not self._directory.exists():
            raise InputError(f"{self._directory}: no checkpoints here")
        multiprocessing = ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=f"{self._directory}"
        )
        if self._is_one_of_many:
            process = jax.process_index()
            multiprocessing = ocp.options.MultiprocessingOptions(
                primary_host=process,
                active_processes={process},
                barrier_sync_key_prefix=f"{self._directory}",
            )
            if not read_only:
                self._directory.mkdir(parents=True, exist_ok=True)  # orbax would not
        with _quiet_orbax() if read_only else contextlib.nullcontext():
            options = ocp.CheckpointManagerOptions(
                create=not (read_only or self._is_one_of_many),
                cleanup_tmp_directories=not read_only,
                read_only=read_only,
                multiprocessing_options=multiprocessing,
                # Else orbax tells its threads of a new folder through keys that all processes
                # share: one takes away, or waits for, what another one needs.
                async_options=ocp.AsyncOptions(
                    create_directories_asynchronously=not self._is_one_of_many
                ),
            )
            self._manager = ocp.CheckpointManager(
                self._directory, options=options, item_names=("state", "metadata")
            )

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, metadata: dict[str, Any]) -> None:
        """Starts to write a checkpoint; training may go on at once and donate `state`."""
        _, checksums = finite_and_checksums(state)
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state)
        noted = metadata | {
            "checksum": np.asarray(checksums).tolist(),
            "structure": structure_of(one),
        }
        # On CPU orbax may hold the very buffers that the next step is given to overwrite. Arrays of
        # one process among others it takes from the host only.
        state = jax.tree.map(np.array if self._is_one_of_many else jnp.copy, state)
        begun = self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                metadata=ocp.args.JsonSave(noted | {"crc": _crc(noted)}),
            ),
            # Else orbax passes over, in silence, a step before the newest that is there: a run
            # whose logs were damaged begins before it.
            force=True,
        )
        if not begun:
            raise RuntimeError(f"{self._directory / str(step)}: orbax did not save it")

    def wait(self) -> None:
        """Returns when every started checkpoint is on disk."""
        self._manager.wait_until_finished()

    def metadata(self, step: int) -> dict[str, Any]:
        """Returns what was noted with a checkpoint.

        Raises:
          Damaged: if it cannot be what was written.
          InputError: if there is no such checkpoint, or it cannot be read for other reasons.
        """
        if step not in self._manager.all_steps():
            known = ", ".join(map(str, self.steps())) or "none"
            raise InputError(f"step {step}: no such checkpoint in {self._directory}; has: {known}")
        args = ocp.args.Composite(metadata=ocp.args.JsonRestore())
        try:
            found = dict(self._manager.restore(step, args=args).metadata)
            crc = found.pop("crc", None)
        except Exception as error:
            raise self._classified(step, error) from error
        if crc != _crc(found):
            raise Damaged(f"{self._directory / str(step)}: damaged (metadata)")
        return found

    def restore(self, step: int, one: Any) -> tuple[Any, dict[str, Any]]:
        """Reads one checkpoint.

        Args:
          step: one of `steps()`.
          one: jax.ShapeDtypeStructs of one row.

        Returns:
          The state, numpy arrays [rows ...], and what was noted with it.

        Raises:
          Damaged: if it cannot be what was written.
          InputError: if there is none of this step, if it is of another network or optimiser, or
            if it cannot be read or held for reasons that lie outside of it.
        """
        metadata = self.metadata(step)
        if metadata["structure"] != structure_of(one):
            raise InputError(
                f"{self._directory / str(step)}: is of another network or optimiser than the "
                "config's (another version of memjax, flax or optax, or of the model's code?)"
            )
        rows = len(metadata["checksum"])
        abstract = jax.tree.map(
            lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), (rows, *leaf.shape)), one
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        try:
            return self._manager.restore(step, args=args).state, metadata
        except Exception as error:  # orbax and tensorstore raise whatever the damage leads to
            raise self._classified(step, error) from error

    def check(self, step: int, checksums: list[int], state: Any) -> None:
        """Raises Damaged if the rows of a state are not those that have these checksums."""
        self.check_sums(step, checksums, np.asarray(finite_and_checksums(state)[1]).tolist())

    def check_sums(self, step: int, noted: list[int], found: list[int]) -> None:
        """Raises Damaged if rows have other checksums than were noted with them."""
        if found != noted:
            raise Damaged(f"{self._directory / str(step)}: damaged (checksum differs)")

    def _classified(self, step: int, error: Exception) -> Exception:
        """Returns what to raise for an error while reading: Damaged only where the files are."""
        if is_process_lost(error):
            return error
        text = " ".join(str(error).split())[:200] or type(error).__name__
        path = self._directory / str(step)
        _forget_closed_loops()
        if any(_is_outside(found) for found in _chain(error)):
            return InputError(f"{path}: could not be read, nothing was changed ({text})")
        return Damaged(f"{path}: damaged ({text})")

    def set_aside(self, step: int) -> epath.Path:
        """Renames a damaged checkpoint, so that it is neither used nor lost; returns its name."""
        there = {path.name for path in self._directory.iterdir()}
        names = (f"{step}.damaged-{number}" for number in range(1, len(there) + 2))
        path = self._directory / next(name for name in names if name not in there)
        (self._directory / str(step)).rename(path)
        self._manager.reload()
        return path

    def reload(self) -> None:
        """Looks again at what is on disk."""
        self._manager.reload()

    def delete(self, step: int) -> None:
        """Deletes one checkpoint."""
        self._manager.delete(step)

    def close(self) -> None:
        """Waits for what is being written, and lets go."""
        self._manager.close()


def _crc(metadata: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(metadata, sort_keys=True).encode())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@functools.cache
def _forget_closed_loops() -> None:
    """After an error orbax's other reads find its event loop closed, and would show a traceback."""
    show = sys.excepthook

    def show_others(kind: Any, error: BaseException, trace: Any) -> None:
        if not (kind is RuntimeError and "Event loop is closed" in str(error)):
            show(kind, error, trace)

    sys.excepthook = show_others


def _is_outside(error: BaseException) -> bool:
    """Whether memory, rights or the disk failed, not the checkpoint."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EINVAL):
        return True
    signs = "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE", "Input/output error"
    return any(sign in str(error) for sign in (*signs, "Permission denied", "Cannot allocate"))
