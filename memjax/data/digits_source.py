"""scikit-learn's digits: small, and with no download."""

import numpy as np

from memjax.data.dataset import Dataset, make_split


def load_digits() -> Dataset:
    """Returns scikit-learn's digits, [1797 8 8 1] float32: no download, no validation split."""
    from sklearn.datasets import load_digits as sklearn_digits  # not at the top: slow

    images, labels = sklearn_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    train = make_split(images, labels)
    names = tuple(str(digit) for digit in range(10))
    return Dataset("digits", 10, names, train, train.take(np.arange(0)))
