"""Analysis passes: from a run's checkpoints and dynamics to one Parquet table each.

A module has one or a few `Pass`: its columns with their meaning, the options that change its
values, whether it suits a run, and `compute` for one checkpoint. `runner.py` resumes them, shares
the reading of checkpoints, and writes the tables. Imports loading, analysis and runtime; a pass
reads a run and never changes it.
"""

from memjax.passes.attribution import ATTRIBUTION
from memjax.passes.critical import CRITICAL
from memjax.passes.difficulty import DIFFICULTY
from memjax.passes.gradients import GRADIENTS
from memjax.passes.inputs import INPUTS
from memjax.passes.jacobians import JACOBIAN_SPECTRUM, JACOBIANS, NTK
from memjax.passes.learning import PREDICTION_DEPTH, VOG
from memjax.passes.localization import LOCALIZATION, REWINDING
from memjax.passes.membership import MEMBERSHIP, VULNERABILITY
from memjax.passes.memorization import INFLUENCE, MEMORIZATION
from memjax.passes.sensitivity import CLASS_SENSITIVITY, SENSITIVITY
from memjax.passes.weights import FILTERS, SHARPNESS

PASSES = {
    each.name: each
    for each in (
        GRADIENTS,
        INPUTS,
        VOG,
        PREDICTION_DEPTH,
        JACOBIANS,
        JACOBIAN_SPECTRUM,
        NTK,
        SENSITIVITY,
        CLASS_SENSITIVITY,
        CRITICAL,
        DIFFICULTY,
        FILTERS,
        SHARPNESS,
        MEMORIZATION,
        INFLUENCE,
        MEMBERSHIP,
        VULNERABILITY,
        REWINDING,
        LOCALIZATION,
        ATTRIBUTION,
    )
}
