"""Arrays that a user gives beside the data: probabilities and embeddings, checked."""

import zlib
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from memjax.auditing.noise import count_confusions
from memjax.data.dataset import in_words
from memjax.errors import InputError

_DEVIATIONS = 3.0  # beyond them an agreement is no chance
_CLEARLY = 1.5  # times as many labels that another order of the columns agrees with


def checksum(*arrays: np.ndarray) -> int:
    """Returns the CRC-32 of the arrays' values, one behind the other."""
    total = 0
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array).data, total)
    return total


def read_array(path: str, flag: str, num_rows: int) -> np.ndarray:
    """Reads a .npy file of numbers, a row per training example.

    Raises:
      InputError: if it is not readable, or not [n columns] of finite numbers.
    """
    if not path.endswith(".npy"):
        raise InputError(f"--{flag}={path}: must be a .npy file, as numpy.save writes one array")
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"--{flag}={path}: not readable ({error.strerror or error})") from None
    except (ValueError, EOFError, MemoryError):  # whose words advise to unpickle it
        raise InputError(
            f"--{flag}={path}: not readable as a .npy file of numbers; numpy.save(PATH, "
            "array.astype('float32')) writes one"
        ) from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or len(array) != num_rows:
        shape = list(getattr(array, "shape", []))
        raise InputError(
            f"--{flag}={path}: shape {shape}; must be [{num_rows} columns], a row per training "
            "example in the order of the data"
        )
    if array.dtype.kind not in "fiu":
        raise InputError(f"--{flag}={path}: must hold finite numbers, has {array.dtype}")
    is_sound = np.isfinite(array).all(axis=1)
    if not is_sound.all():
        row = int(is_sound.argmin())
        what = "NaN" if np.isnan(array[row]).any() else "an infinite value"
        raise InputError(
            f"--{flag}={path}: must hold finite numbers, but {(~is_sound).sum()} of {num_rows} "
            f"rows have none such (the first is row {row}, with {what})"
        )
    return array


def read_probabilities(path: str, labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Reads --pred_probs: [n classes], rows that sum to 1, in the order of examples and classes.

    Args:
      path: of the .npy file.
      labels: int [n], as given.
      class_names: by class.

    Raises:
      InputError: if it is not that.
    """
    found = read_array(path, "pred_probs", len(labels)).astype(np.float32)
    if found.shape[1] != len(class_names):
        raise InputError(
            f"--pred_probs={path}: {found.shape[1]} columns; must be {len(class_names)}, one per "
            f"class in this order: {in_words([str(name) for name in class_names])}"
        )
    sums = found.sum(axis=1)
    if (found < 0).any() or not np.allclose(sums, 1, atol=1e-3):
        raise InputError(
            f"--pred_probs={path}: rows must be probabilities that sum to 1; they sum to "
            f"{sums.min():.3g} to {sums.max():.3g}"
        )
    if trouble := out_of_order(found.argmax(axis=1), labels, class_names):
        raise InputError(f"--pred_probs={path}: {trouble}")
    return found


def out_of_order(predicted: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> str:
    """Returns in words why predictions cannot be in the order of the examples and classes, or ''.

    Args:
      predicted: int [n], the likeliest class of each example.
      labels: int [n], as given; most are right.
      class_names: by class.

    Example:
      >>> labels = np.arange(100) % 2
      >>> out_of_order(labels, labels, "ab"), out_of_order(1 - labels, labels, "ab")[:36]
      ('', 'columns must be in the order of the ')
    """
    counts = count_confusions(predicted, labels, len(class_names))
    kept, moved = linear_sum_assignment(counts, maximize=True)
    other, own = (counts[kept, to][moved != kept].sum() for to in (moved, kept))
    if other > _CLEARLY * own and other - own > _DEVIATIONS * np.sqrt(other + own):
        place = int(np.argmax(counts[kept, moved] * (moved != kept)))
        return (
            f"columns must be in the order of the classes "
            f"({in_words([str(name) for name in class_names])}), but column {place} fits the "
            f"labels {class_names[moved[place]]} best: {other} labels there agree with other "
            f"columns, {own} with their own"
        )
    agreement = np.trace(counts) / len(labels)
    chance = (counts.sum(axis=0) @ counts.sum(axis=1)) / len(labels) ** 2
    if agreement <= chance + _DEVIATIONS * np.sqrt(chance * (1 - chance) / len(labels)):
        return (
            f"rows must be in the order of the data, but the likeliest class is the label for "
            f"{agreement:.1%} of the examples, where chance alone gives {chance:.1%}"
        )
    return ""
