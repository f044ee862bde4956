"""A data set in memory, and what can be selected of it: classes, examples, a size of image."""

import dataclasses
import functools
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np

from memjax.errors import InputError


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The examples of one split, on the host.

    Attributes:
      images: [n height width channels], uint8 as stored, or float32 in [0, 1]; or [n features],
        float32 (standardised where `dataset.standardize` is "feature").
      labels: int32 [n], in [0, num_classes), as the source gives them.
      index: int64 [n], position of each example in the source's split.
      true_labels: int32 [n], what the examples really show, where the source knows; else `labels`.
      example_ids: str [n] (of objects), a file's path or a key; else the index as text.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    true_labels: np.ndarray = None  # type: ignore[assignment]
    example_ids: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Fills in what the source does not know."""
        if self.true_labels is None:
            object.__setattr__(self, "true_labels", self.labels)
        if self.example_ids is None:
            object.__setattr__(self, "example_ids", self.index.astype(str).astype(object))

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    @functools.cached_property
    def checksum(self) -> int:
        """CRC-32 of pixels, labels and true labels, computed once."""
        total = 0
        for part in (self.images, self.labels, self.true_labels):
            total = zlib.crc32(np.ascontiguousarray(part).data, total)
        return total

    def take(self, positions: np.ndarray) -> "Split":
        """Returns the examples at these positions, in this order."""
        fields = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Split(*(values[positions] for values in fields))


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Training and validation examples, before any corruption.

    Attributes:
      name: what to call it.
      num_classes: number of classes.
      class_names: a name for each class.
      train: the training examples.
      validation: the validation examples; there may be none.
      notes: what was done with the source that its owner should know, a sentence each.
      feature_moments: (mean, std), float32 [features], that were taken off and divided by where
        `dataset.standardize` is "feature".
      broken: (example id, reason) of pictures that could not be read, of either split.
      odd_sized: example ids of training pictures whose size as stored is unlike the others'.
    """

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    train: Split
    validation: Split
    notes: tuple[str, ...] = ()
    feature_moments: tuple[np.ndarray, np.ndarray] | None = None
    broken: tuple[tuple[str, str], ...] = ()
    odd_sized: tuple[str, ...] = ()


def make_split(images: np.ndarray, labels: np.ndarray) -> Split:
    """Returns a whole split of a source, its index counted from 0.

    Args:
      images: [n height width channels] or [n features].
      labels: [n], integers.
    """
    return Split(images, labels.astype(np.int32), np.arange(len(labels), dtype=np.int64))


def balanced_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Returns a random order whose every beginning has about the class shares of the whole.

    So a small draw misses no class, and a smaller draw is part of a larger one.

    Args:
      labels: [n], integers.
      seed: another seed, another order.

    Returns:
      int64 [n], a permutation of the positions.

    Example:
      >>> order = balanced_order(np.array([0, 0, 0, 0, 1, 1, 1, 1]), seed=0)
      >>> sorted(int(i) // 4 for i in order[:4])
      [0, 0, 1, 1]
    """
    generator = np.random.default_rng(seed)
    turn = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # The k-th of a class of m comes at about k/m of the way, with ties between classes broken.
        places = generator.permutation(len(members)) + generator.random()
        turn[members] = places / len(members)
    return np.argsort(turn, kind="stable")


def hold_out(train: Split, num_validation: int, seed: int) -> tuple[Split, Split]:
    """Cuts a source without a validation split in two, balanced by class.

    Every class keeps a training example; a class of one example has none in validation.

    Args:
      train: all examples.
      num_validation: examples to hold out; -1: a fifth.
      seed: draws them.

    Returns:
      (train, validation), each in the order of the source.

    Raises:
      InputError: if some class would be left without a training example.
    """
    num_classes = len(np.unique(train.labels))
    count = round(len(train) / 5) if num_validation < 0 else num_validation
    if num_validation < 0:
        count = min(count, len(train) - num_classes)
    if count > len(train) - num_classes:
        raise InputError(
            f"config.dataset.num_validation={count}: must be at most {len(train) - num_classes}, "
            f"for it is held out of {len(train)} examples, and each of the {num_classes} classes "
            "needs one in training"
        )
    order = balanced_order(train.labels, seed)
    order = _with_first_of_classes(order[::-1], train.labels)[::-1]
    return train.take(np.sort(order[count:])), train.take(np.sort(order[:count]))


def _with_first_of_classes(order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns an order that begins with the first example of each class; the rest follow.

    A beginning that has every class already holds the same examples as before.
    """
    _, first = np.unique(labels[order], return_index=True)
    first = np.sort(first)
    return np.concatenate([order[first], np.delete(order, first)])


def draw(split: Split, count: int, seed: int, field: str, every_class: bool = False) -> Split:
    """Draws examples, balanced by class and in the order of the source.

    Args:
      split: to draw from.
      count: how many; fewer with the same seed are part of more.
      seed: another seed, another draw.
      field: the config's field, for the error.
      every_class: whether each class of the split must be drawn.

    Raises:
      InputError: if there are not as many, or if they are too few for every class.
    """
    if count > len(split):
        raise InputError(f"config.dataset.{field}={count}: must be at most {len(split)}")
    if count == len(split):
        return split
    order = balanced_order(split.labels, seed)
    if every_class:
        num_classes = len(np.unique(split.labels))
        if count < num_classes:
            raise InputError(
                f"config.dataset.{field}={count}: must be at least {num_classes}, an example of "
                "each class"
            )
        order = _with_first_of_classes(order, split.labels)
    return split.take(np.sort(order[:count]))


def select_classes(dataset: Dataset, classes: tuple[int, ...]) -> Dataset:
    """Keeps some classes, relabelled 0, 1, ... in the given order.

    Args:
      dataset: a data set.
      classes: different classes of it.

    Returns:
      The data set of these classes. Examples whose true label is none of them are left out as well,
      and a note says so.

    Raises:
      InputError: if one is not a class of the data set.
    """
    for label in classes:
        if not 0 <= label < dataset.num_classes:
            raise InputError(
                f"config.dataset.classes={classes}: must be in [0, {dataset.num_classes - 1}]"
            )
    relabel = np.full(dataset.num_classes, -1, np.int32)
    relabel[list(classes)] = np.arange(len(classes))

    def select(split: Split) -> Split:
        kept = split.take(np.flatnonzero(relabel[split.labels] >= 0))
        kept = kept.take(np.flatnonzero(relabel[kept.true_labels] >= 0))
        return dataclasses.replace(
            kept, labels=relabel[kept.labels], true_labels=relabel[kept.true_labels]
        )

    train, validation = select(dataset.train), select(dataset.validation)
    num_labelled = sum(
        int((relabel[split.labels] >= 0).sum()) for split in (dataset.train, dataset.validation)
    )
    num_lost = num_labelled - len(train) - len(validation)
    lost = f"{num_lost:,} examples are left out: their true label is none of the selected classes"
    return dataclasses.replace(
        dataset,
        num_classes=len(classes),
        class_names=tuple(dataset.class_names[label] for label in classes),
        train=train,
        validation=validation,
        notes=(*dataset.notes, *([lost] if num_lost else [])),
    )


def in_words(names: Sequence[str], most: int = 5) -> str:
    """Returns the first names, and how many more there are.

    Example:
      >>> in_words(["a", "b", "c"], most=2)
      'a, b and 1 more'
    """
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


def printable(text: str) -> str:
    """Returns text that can be printed on one line and written to any table.

    Names of files may hold line breaks, or bytes that are no text.

    Example:
      >>> printable("new\\nline"), printable(b"\\xff".decode("utf-8", "surrogateescape"))
      ('new\\\\nline', '\\\\udcff')
    """
    if text.isprintable():
        return text
    return "".join(
        repr(letter)[1:-1] if unicodedata.category(letter) in ("Cc", "Cs") else letter
        for letter in text
    )
