"""What a table does not say but a caption needs."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Context:
    """How the runs behind a table were made; kept in the table's file.

    Attributes:
      scale: 'smoke', 'laptop', 'workstation' or 'paper'.
      setup: one phrase for the caption: data set, network, number of examples, optimizer.
      reductions: how this scale is smaller than the paper, one sentence each.
      made: when the runs were made, on what, with which version; one phrase.
      seconds: how long that took, training included that was not done yet for another figure.
    """

    scale: str
    setup: str
    reductions: tuple[str, ...] = ()
    made: str = ""
    seconds: float = 0.0
