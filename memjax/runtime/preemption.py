"""SIGTERM and Ctrl-C: ask a running loop to save and stop, instead of ending it."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from memjax.runtime.distributed import largest


class StopRequest:
    """Which signal came, if any.

    Attributes:
      signal_number: 0 while none has.
    """

    signal_number = 0

    @property
    def exit_code(self) -> int:
        """What a shell reports of a process ended by this signal: 143 for SIGTERM."""
        return 128 + self.signal_number

    def on_any_process(self) -> int:
        """Returns the signal that came to any process of the run, 0 for none; all call this."""
        return largest(self.signal_number)


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Gives a StopRequest that is set by SIGTERM and SIGINT.

    A second one changes nothing: the first asked that what was done be saved. (SIGQUIT, Ctrl-\\,
    and SIGKILL end a process at once.)
    """
    request = StopRequest()
    kinds = (signal.SIGTERM, signal.SIGINT)
    before: dict[int, Any] = {}

    def note(number: int, frame: object) -> None:
        request.signal_number = request.signal_number or number

    for kind in kinds:
        before[kind] = signal.signal(kind, note)
    try:
        yield request
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])
