"""Checkpoints: when, and how they are written and found again (orbax)."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from memjax import config as config_lib
from memjax.errors import InputError
from memjax.runtime.distributed import is_process_lost, on_main
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


@jax.jit
def finite_and_checksum(tree: Any) -> tuple[jax.Array, jax.Array]:
    """Returns whether every number is finite, and a checksum of the bits.

    The checksum is a wrapping integer sum: the same on any number of devices and in any order.

    Args:
      tree: arrays of at most 32 bits a number.

    Returns:
      A bool scalar and a uint32 scalar.
    """
    finite = jnp.bool_(True)
    total = jnp.uint32(0)
    for place, leaf in enumerate(jax.tree.leaves(tree)):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            finite &= jnp.all(jnp.isfinite(leaf))
            bits = jax.lax.bitcast_convert_type(leaf.astype(jnp.float32), jnp.uint32)
        else:
            bits = leaf.astype(jnp.uint32)
        position = jnp.arange(leaf.size, dtype=jnp.uint32).reshape(leaf.shape)
        mixed = (bits ^ (position * jnp.uint32(2654435761))) * jnp.uint32(2 * place + 1)
        total += jnp.sum(mixed ^ (mixed >> 15), dtype=jnp.uint32)
    return finite, total


_LOGGER = logging.getLogger("memjax")


class Restored(NamedTuple):
    """A checkpoint that was read: its step, its state, and what was noted with it."""

    step: int
    state: Any
    metadata: dict[str, Any]


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """orbax warns of every manager that was asked to be read-only that it is read-only."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints`.

    Every checkpoint carries a checksum of its bits, so that one that was truncated, or was
    restored as something else, is never taken for good.

    Args:
      workdir: the run folder.
      read_only: never to write there.
      shared: whether all processes of the run save and restore together, every one of them calling
        every method; otherwise this process is alone with its checkpoints.
    """

    def __init__(self, workdir: epath.PathLike, read_only: bool = False, shared: bool = False):
        folder = epath.Path(workdir)
        # Of "s3://bucket" `absolute` would make a folder "s3:" where the process stands.
        self._directory = (folder if is_remote(folder) else folder.absolute()) / "checkpoints"
        self._shared = shared
        self._is_one_of_many = jax.process_count() > 1 and not shared
        if read_only and not self._directory.exists():
            raise InputError(f"{self._directory}: no checkpoints here")
        multiprocessing = ocp.options.MultiprocessingOptions()
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
        _, checksum = finite_and_checksum(state)
        # On CPU orbax may hold the very buffers that the next step is given to overwrite. Arrays of
        # one process among others it takes from the host only.
        state = jax.tree.map(np.array if self._is_one_of_many else jnp.copy, state)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                metadata=ocp.args.JsonSave(metadata | {"checksum": int(checksum)}),
            ),
        )

    def wait(self) -> None:
        """Returns when every started checkpoint is on disk."""
        self._manager.wait_until_finished()

    def metadata(self, step: int) -> dict[str, Any]:
        """Returns what was noted with a checkpoint."""
        args = ocp.args.Composite(metadata=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args).metadata

    def restore(self, step: int, abstract: Any) -> Restored:
        """Reads one checkpoint.

        Args:
          step: one of `steps()`.
          abstract: jax.ShapeDtypeStructs with the shardings of this process's mesh.

        Raises:
          InputError: if there is none of this step, or it is damaged.
        """
        if step not in self._manager.all_steps():
            known = ", ".join(map(str, self.steps())) or "none"
            raise InputError(f"step {step}: no such checkpoint in {self._directory}; has: {known}")
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), metadata=ocp.args.JsonRestore()
        )
        try:
            found = self._manager.restore(step, args=args)
            checksum = int(finite_and_checksum(found.state)[1])
        except Exception as error:  # orbax and tensorstore raise whatever the damage leads to
            if is_process_lost(error):
                raise
            first_line = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"{self._directory / str(step)}: damaged ({first_line})") from error
        if checksum != found.metadata["checksum"]:
            raise InputError(f"{self._directory / str(step)}: damaged (checksum differs)")
        return Restored(step, found.state, found.metadata)

    def restore_newest(self, abstract: Any) -> Restored | None:
        """Reads the newest whole checkpoint; None if there is none.

        A damaged one is deleted, with a warning, in favour of the one before. Of several processes
        process 0 looks for it alone: one that fails to read what the others could would hang them.
        """
        if not self._shared or jax.process_count() == 1:
            return self._newest_whole(abstract)
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        on_one_device = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), abstract
        )

        def find() -> int:
            alone = Checkpoints(self._directory.parent)
            found = alone._newest_whole(on_one_device)
            alone.close()
            return -1 if found is None else found.step

        newest = on_main(find)
        self._manager.reload()
        return None if newest < 0 else self.restore(newest, abstract)

    def _newest_whole(self, abstract: Any) -> Restored | None:
        for step in reversed(self.steps()):
            try:
                return self.restore(step, abstract)
            except InputError as error:
                _LOGGER.warning("checkpoint skipped: %s", error)
                self.delete(step)
        return None

    def delete(self, step: int) -> None:
        """Deletes one checkpoint."""
        self._manager.delete(step)

    def close(self) -> None:
        """Waits for what is being written, and lets go."""
        self._manager.close()
