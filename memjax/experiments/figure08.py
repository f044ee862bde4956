"""Figure 8: does complexity grow with noise? (CNN on CIFAR-10)

The CNN is trained on CIFAR-10 where a share of the inputs (randX, left) or of the labels (randY,
right) is noise, at several levels. Plotted over epochs: training and validation accuracy, and the
critical sample ratio (CSR) of the validation set: the share of examples with another predicted
class within a small max-norm distance. Its table, drawing and measures are those of `noise_levels`.
"""

import pandas as pd
from matplotlib.figure import Figure

from memjax.experiments import noise_levels
from memjax.experiments.context import Context
from memjax.experiments.study_runs import StudyRuns

NAME = "figure08"
TITLE = "Figure 8: does complexity grow with noise? (CNN on CIFAR-10)"
COLUMNS = noise_levels.COLUMNS

STUDIES = ("cifar_noise",)


def tabulate(studies: dict[str, StudyRuns]) -> pd.DataFrame:
    """Returns the figure's table: accuracy at every epoch, CSR at every checkpoint."""
    return noise_levels.tabulate_levels(studies["cifar_noise"])


def draw(table: pd.DataFrame, context: Context) -> Figure:
    """Draws accuracy above and CSR below, randX to the left and randY to the right."""
    return noise_levels.draw_levels(table)


def caption(table: pd.DataFrame, context: Context) -> str:
    """Returns what is drawn, with seeds and radius."""
    return noise_levels.caption_levels(table, context.setup)


def alt_text(table: pd.DataFrame, context: Context) -> str:
    """Returns the picture in words."""
    return noise_levels.alt_text_levels(table)
