"""The rows that benchmarks record for the page that `python -m benchmarks` writes."""

import json
import os

FILE = "MEMJAX_BENCHMARK_ROWS"


def record(what: str, peer: str, times_faster: float, target: float | None = None) -> None:
    """Appends a row to the file that the runner names; without a runner, does nothing.

    Args:
      what: is measured.
      peer: what it is compared with.
      times_faster: the peer's time over ours, the median over pairs: above 1, ours is faster. Of
        memory likewise: the peer's bytes over ours.
      target: what `times_faster` is to be at least, if anything.
    """
    path = os.environ.get(FILE)
    if path:
        row = {"what": what, "peer": peer, "times_faster": float(times_faster), "target": target}
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
