"""Fields of one section of the configuration that contradict one another."""

from memjax.config_sections import SOURCES, Corruption, Dataset
from memjax.corruption_kinds import parse_kinds
from memjax.errors import InputError, nearest

# What a source needs as its path.
_PATHS = {"npz": "a .npz file", "folder": "a folder", "table": "a .csv, .tsv or .parquet file"}


def _check_source(dataset: Dataset) -> None:
    source = dataset.source
    if source not in SOURCES and ":" not in source:
        raise InputError(
            f"config.dataset.source={source!r}: {nearest(source, SOURCES)}, or file.py:function "
            "or package.module:function"
        )
    if source in _PATHS and not dataset.path:
        raise InputError(
            f"config.dataset.path='': source {source} needs the path of {_PATHS[source]}"
        )
    if source == "huggingface" and not dataset.path and dataset.name in ("", Dataset.name):
        raise InputError(
            "config.dataset.path='': source huggingface needs the path of a folder that "
            "save_to_disk wrote, or config.dataset.name=NAME on the hub"
        )


def check_dataset(dataset: Dataset) -> None:
    """Raises InputError for a source without its path, or classes that are none."""
    _check_source(dataset)
    classes = dataset.classes
    are_integers = all(isinstance(c, int) and not isinstance(c, bool) for c in classes)
    if not are_integers or any(c < 0 for c in classes) or len(set(classes)) < len(classes):
        raise InputError(
            f"config.dataset.classes={classes}: must be different classes, integers from 0 up"
        )


def check_corruption(corruption: Corruption, num_validation: int) -> None:
    """Raises InputError for a kind without what it needs, or beside what it cannot be with."""
    kinds = parse_kinds(corruption.kind)
    if "unique_labels" in kinds and num_validation != 0:
        raise InputError(
            f"config.dataset.num_validation={num_validation}: must be 0 with unique_labels, for no "
            "validation example has a class that was trained on"
        )
    if "removed" in kinds and corruption.fraction == 1:
        raise InputError(
            f"config.corruption.fraction={corruption.fraction}: leaves no example with the kind "
            "removed; must be less than 1"
        )
    if "label_transition" in kinds and not corruption.transition:
        raise InputError(
            "config.corruption.transition=(): label_transition needs a row of probabilities for "
            "each class"
        )
    for row in corruption.transition:
        if not isinstance(row, tuple) or not all(isinstance(p, int | float) for p in row):
            raise InputError(
                f"config.corruption.transition: row {row!r}: must be a list of probabilities"
            )
