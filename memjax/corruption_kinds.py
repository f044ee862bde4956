"""The kinds of corruption by name, and which of them go together: words alone, no arrays."""

from memjax.errors import InputError, nearest

CORRUPTION_KINDS = {
    "none": "nothing is changed",
    "random_inputs": "Gaussian noise with the data's mean and variance as input (randX)",
    "random_labels": "labels drawn uniformly, the true one included (randY)",
    "wrong_labels": "labels drawn uniformly from all but the true one",
    "label_transition": "labels drawn from the true class's row of a transition matrix",
    "permuted_labels": "labels permuted among the corrupted examples: class counts are kept",
    "shuffled_pixels": "pixels permuted, by one permutation for all examples",
    "shuffled_pixels_each": "pixels permuted, by a permutation of its own for each example",
    "unique_labels": "every example is a class of its own, whatever the fraction",
    "removed": "the examples that would be corrupted are left out",
}
INPUT_KINDS = ("random_inputs", "shuffled_pixels", "shuffled_pixels_each")
LABEL_KINDS = (
    "random_labels",
    "wrong_labels",
    "label_transition",
    "permuted_labels",
    "unique_labels",
)
# What changes no example by chance: the fraction and the seed say nothing of it.
FIXED_KINDS = ("none", "unique_labels")


def parse_kinds(kind: str) -> tuple[str, ...]:
    """Splits "a+b" into kinds that are known and go together.

    Args:
      kind: names of `CORRUPTION_KINDS` joined with "+".

    Raises:
      InputError: if one is unknown or there twice, or if two would undo each other.

    Example:
      >>> parse_kinds("random_inputs+unique_labels")
      ('random_inputs', 'unique_labels')
    """
    kinds = tuple(kind.split("+"))
    for name in kinds:
        if name not in CORRUPTION_KINDS:
            known = nearest(name, CORRUPTION_KINDS)
            raise InputError(f"config.corruption.kind={kind!r}: {known}")
        if kinds.count(name) > 1:
            raise InputError(f"config.corruption.kind={kind!r}: names {name} twice")
    for group, what in ((INPUT_KINDS, "inputs"), (LABEL_KINDS, "labels")):
        if sum(name in group for name in kinds) > 1:
            raise InputError(
                f"config.corruption.kind={kind!r}: at most one kind may change the {what}"
            )
    if ("none" in kinds and len(kinds) > 1) or (
        "removed" in kinds and set(kinds) - {"removed", "unique_labels"}
    ):
        raise InputError(
            f"config.corruption.kind={kind!r}: none goes with nothing else, removed only with "
            "unique_labels"
        )
    return kinds
