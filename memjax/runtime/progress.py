"""What one sees of a run: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

import numpy as np


def _mean(value: Any) -> float | None:
    known = [v for v in np.atleast_1d(np.asarray(value, dtype=object)).tolist() if v is not None]
    return float(np.mean(known)) if known else None


def describe(row: dict[str, Any]) -> str:
    """Returns a metrics line in words, members averaged.

    Example:
      >>> describe({"step": 23, "epoch": 1, "train_loss": 0.5, "train_accuracy": 0.875})
      'epoch 1  loss 0.5000  train 87.50%'
    """
    parts = [f"epoch {row['epoch']:g}"]
    loss = _mean(row.get("train_loss"))
    parts.append("loss -" if loss is None else f"loss {loss:.4f}")
    for name in ("train", "validation", "clean", "corrupted"):
        value = _mean(row.get(f"{name}_accuracy"))
        if value is not None:
            parts.append(f"{name} {value:.2%}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Returns seconds as people write them: 8s, 3m20s, 2h05m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


class Progress:
    """Shows how far a run is, from `step` of `num_steps`.

    Args:
      num_steps: the last step.
      start: the step that this process begins with.
      examples_per_step: over all members, for the rate.
      enabled: False shows nothing.
    """

    def __init__(self, num_steps: int, start: int, examples_per_step: float, enabled: bool = True):
        self._num_steps, self._start = num_steps, start
        self._examples_per_step = examples_per_step
        self._began = time.monotonic()
        self._words = ""
        self._enabled = enabled
        self._bar = None
        if enabled and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%  {task.description}")
            )
            self._task = self._bar.add_task("compiling", total=num_steps, completed=start)
            self._bar.start()

    def restart(self, step: int) -> None:
        """Counts the rate from here on: what came before was compilation."""
        self._start, self._began = step, time.monotonic()

    def examples_per_second(self, step: int) -> float:
        """Returns the mean rate since the start, evaluations and saves included."""
        elapsed = max(time.monotonic() - self._began, 1e-9)
        return (step - self._start) * self._examples_per_step / elapsed

    def _rate(self, step: int) -> str:
        rate = self.examples_per_second(step)
        if not rate:
            return ""
        left = (self._num_steps - step) * self._examples_per_step / rate
        return f"{rate:,.0f} examples/s  {duration(left)} left"

    def update(self, step: int) -> None:
        """Moves the bar."""
        if self._bar:
            words = f"{self._words}  {self._rate(step)}"
            self._bar.update(self._task, completed=step, description=words)

    def log(self, row: dict[str, Any]) -> None:
        """Shows a metrics line."""
        if not self._enabled:
            return
        self._words = describe(row)
        if self._bar:
            self.update(row["step"])
        else:
            print(f"{self._words}  {self._rate(row['step'])}", flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar:
            self._bar.stop()
