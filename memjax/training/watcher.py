"""What is told of a group while it trains, and how a signal ends it."""

from typing import Any

from memjax.training.point_folder import PointFolder


class Interrupted(Exception):
    """A signal ended the run after a checkpoint at `step`."""

    def __init__(self, step: int, exit_code: int):
        super().__init__(f"stopped by a signal; step {step} is saved")
        self.step, self.exit_code = step, exit_code


class Watcher:
    """What is told of a group while it trains; nothing is done with it here."""

    def started(self, step: int) -> None:
        """Told of the step that the group begins with."""

    def most_steps(self, num_steps: int) -> int:
        """Returns how many steps of so many the next dispatch may have; the first one compiles."""
        return num_steps

    def dispatched(self, step: int, num_steps: int, seconds: float, share: float) -> None:
        """Told of a dispatch: the step it reached, how many steps it had, what it took (0 if it
        compiled as well), and the share of the members that it trained.
        """

    def logged(self, point: PointFolder, row: dict[str, Any]) -> None:
        """Told of a metrics line."""

    def ended(self, point: PointFolder) -> None:
        """Told of a point that ended, its states saved: to write how."""
        point.finish()

    def close(self) -> None:
        """Told that nothing more comes."""
