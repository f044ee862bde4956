"""Does noise need capacity? (Figures 5 and 6.) Widths of an MLP x levels of randX on MNIST.

Without a variant it is the paper's grid, the one of `memjax.reproduce --scale=paper`.
quick: 5 widths x 5 levels on 1000 images of 14x14 pixels.
"""

from memjax import presets
from memjax.experiments import fit
from memjax.experiments.context import Context
from memjax.experiments.scales import SCALES
from memjax.experiments.studies import capacity
from memjax.sweeps.figures import last_rows
from memjax.sweeps.points import Point


def get_points(variant=""):
    quick = presets.is_quick(variant)
    if not quick:
        yield from capacity(SCALES["paper"]["capacity"])
        return
    widths, levels = (16, 32, 64, 128, 256), (0.0, 0.25, 0.5, 0.75, 1.0)
    for width in widths:
        for level in levels:
            config = presets.noise(presets.mnist_mlp(variant), "randX", level)
            config.model.widths = (width, width)
            config.dataset.image_size = 14
            config.train.num_epochs = 60
            presets.save_ends_only(config)
            factors = {"kind": "randX", "level": level, "width": width, "seed": 0}
            yield Point(f"randX_{level:g}_width_{width}_seed_0", factors, config)


def get_tables(results):
    """The table of figure 5."""
    last = fit.without_distance(last_rows(results))
    last = last[last["kind"] != "removed"]
    reference = int(min(4096, last["width"].max()))
    columns = ["level", "width", "seed", "best_validation_accuracy", *fit.COLUMNS]
    table = last[columns].assign(reference_width=reference)
    setup = f"MLPs of two hidden layers on MNIST, {int(results['epoch'].max())} epochs at most"
    return {"figure05": (table, Context("laptop" if reference < 4096 else "paper", setup))}
