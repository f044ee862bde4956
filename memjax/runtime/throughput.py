"""How fast a run trains, and a trace of where its time goes."""

import pathlib
import tempfile
from typing import Any

import jax
from etils import epath

from memjax.runtime.flops import peak_flops


class Throughput:
    """Counts steps and the seconds they took, from dispatch to result.

    Compilation, evaluation, checkpoints and traced steps stay out of it, and so does what an
    interrupted run did before it went on.
    """

    def __init__(self) -> None:
        self.num_steps, self.seconds = 0.0, 0.0

    def add(self, num_steps: float, seconds: float) -> None:
        """Counts one dispatch; of an ensemble, steps times the share of the members trained."""
        self.num_steps += num_steps
        self.seconds += seconds

    def summary(
        self,
        examples_per_step: float,
        flops_per_example: float,
        mesh: jax.sharding.Mesh,
        dtype: Any,
    ) -> dict[str, float | None]:
        """Returns what summary.json says of the speed; None where no step was timed.

        Args:
          examples_per_step: of all members.
          flops_per_example: of one step of one member, as `memjax.runtime.flops` counts.
          mesh: the devices, all of which worked.
          dtype: of the forward and backward pass.

        Returns:
          examples_per_second, flops_per_second (matrix products and convolutions alone), and
          share_of_peak, of all devices; how it is known, see `memjax.runtime.flops.peak_flops`.
        """
        names = "examples_per_second", "flops_per_second", "share_of_peak"
        if not self.num_steps:
            return dict.fromkeys(names)
        examples = self.num_steps * examples_per_step / self.seconds
        flops = examples * flops_per_example
        values = examples, flops, flops / peak_flops(mesh, dtype)
        return {name: float(f"{value:.4g}") for name, value in zip(names, values, strict=True)}


class Profile:
    """A trace of some steps for TensorBoard, XProf or Perfetto, in `workdir/profile`.

    Of several processes the first writes that of its own devices; all count alike.

    Args:
      workdir: the run folder.
      num_steps: to trace, counted from the first one after compilation; 0 is none.
    """

    def __init__(self, workdir: epath.Path, num_steps: int):
        self._folder = workdir / "profile"
        self.steps_left = num_steps
        self._scratch: tempfile.TemporaryDirectory | None = None

    def start(self) -> None:
        """Begins the trace, unless it has begun or none is wanted."""
        if self._scratch is None and self.steps_left and jax.process_index() == 0:
            self._scratch = tempfile.TemporaryDirectory()
            jax.profiler.start_trace(self._scratch.name)

    def count(self, num_steps: int) -> None:
        """Counts steps, and writes the trace when there are enough."""
        self.steps_left = max(0, self.steps_left - num_steps)
        if not self.steps_left:
            self.close()

    def close(self) -> None:
        """Writes what there is of the trace."""
        if self._scratch is None:
            return
        jax.profiler.stop_trace()
        scratch = pathlib.Path(self._scratch.name)
        for path in scratch.rglob("*"):
            if path.is_file():
                target = self._folder / str(path.relative_to(scratch))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        self._scratch.cleanup()
        self._scratch = None
