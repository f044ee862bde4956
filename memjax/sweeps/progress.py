"""What one sees of a sweep: a bar on a terminal, a line for each point that ends elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from memjax.runtime.progress import describe, duration


class SweepProgress:
    """Shows how far a sweep is, points weighed by their cost.

    Args:
      costs: of this task's points, by name; any unit.
      enabled: False shows nothing.
    """

    def __init__(self, costs: Mapping[str, float], enabled: bool = True):
        self._costs = dict(costs)
        self._done = dict.fromkeys(costs, 0.0)
        self._skipped: set[str] = set()
        self._began = time.monotonic()
        self._enabled = enabled
        self._bar = None
        if enabled and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            words = TextColumn("{task.percentage:>3.0f}%  {task.description}")
            self._bar = Progress(BarColumn(bar_width=24), words)
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def update(self, name: str, share: float, row: Mapping[str, Any], failure: str = "") -> None:
        """Notes how far a point is.

        Args:
          name: of the point.
          share: of its steps, 1 when it ended.
          row: its last metrics line; empty if it has none.
          failure: why it failed; empty if it did not.
        """
        ended = share >= 1 > self._done[name]
        self._done[name] = share
        if self._bar:
            self._bar.update(self._task, completed=self.share(), description=self._words())
        if ended and self._enabled:
            words = f"failed: {failure}" if failure else describe(dict(row))
            line = f"{self._words()}  {name}: {words}"
            if self._bar:
                self._bar.console.print(line, highlight=False)
            else:
                print(line, flush=True)

    def skip(self, name: str) -> None:
        """Notes a point that is done already, or in work elsewhere."""
        self._skipped.add(name)
        self._done[name] = 1.0

    def share(self) -> float:
        """Returns the share of this task's work that is done, what was skipped left out."""
        costs = {n: cost for n, cost in self._costs.items() if n not in self._skipped}
        total = sum(costs.values())
        return sum(cost * self._done[n] for n, cost in costs.items()) / total if total else 1.0

    def _words(self) -> str:
        ended = sum(share >= 1 for share in self._done.values())
        share, elapsed = self.share(), time.monotonic() - self._began
        left = f"  {duration(elapsed * (1 - share) / share)} left" if share > 0 else ""
        return f"[{ended}/{len(self._done)} points{left}]"

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar:
            self._bar.stop()
