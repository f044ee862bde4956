"""A sweep of one's own: how much of random labels is learned by heart, on the embedded digits.

python -m memjax.sweep --sweep=examples/noise_levels.py --workdir=sweeps/levels
"""

from collections.abc import Iterator

from memjax import presets
from memjax.sweeps.points import Point


def get_points(variant: str = "quick") -> Iterator[Point]:
    """Yields a run of the digits for each level of random labels (the paper's randY)."""
    for level in (0.0, 0.5, 1.0):
        config = presets.noise(presets.digits_mlp(variant or "quick"), "randY", level)
        yield Point(f"randY_{level}", {"level": level}, config)
