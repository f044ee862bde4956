"""Corruption of training sets as pure functions: noise inputs, noise labels, shuffles, removal.

Which examples are corrupted, and into what, depends on the key and on each example's position.
The key fixes one random order of the examples, and a fraction corrupts the first
`round(fraction * n)` of it. So with the same key a larger fraction corrupts a superset, and what
was corrupted keeps its values (`permute_labels` says what it can promise). Fraction 0 changes
nothing.

All functions can be jitted with `fraction` and the numbers of examples and classes static, and
vmapped over keys.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from memjax.errors import InputError
from memjax.keys import tagged


def corrupted_positions(key: jax.Array, num_examples: int, fraction: float) -> jax.Array:
    """Chooses the examples to corrupt: the first `round(fraction * n)` of the key's random order.

    Args:
      key: a typed key.
      num_examples: n, static.
      fraction: share of the examples in [0, 1], static.

    Returns:
      int32 [round(fraction * n)], different positions in random order. With a larger fraction, the
      same positions come first.

    Raises:
      InputError: if fraction is not in [0, 1].

    Example:
      >>> few = corrupted_positions(jax.random.key(0), 10, 0.3)
      >>> many = corrupted_positions(jax.random.key(0), 10, 0.5)
      >>> few.shape, many.shape, bool((few == many[:3]).all())
      ((3,), (5,), True)
    """
    fraction = float(fraction)
    if not (math.isfinite(fraction) and 0 <= fraction <= 1):
        raise InputError(f"corruption fraction={fraction}: must be in [0, 1]")
    order = jax.random.permutation(tagged(key, "corrupted examples"), num_examples)
    return order[: round(fraction * num_examples)].astype(jnp.int32)


def gaussian_image(
    key: jax.Array,
    index: ArrayLike,
    shape: tuple[int, ...],
    mean: ArrayLike = 0.0,
    std: ArrayLike = 1.0,
) -> jax.Array:
    """Draws the noise image that `randomize_inputs` with this key puts at one position.

    A device can thus make the noise of the examples that it holds, and of no others.

    Args:
      key: the key given to `randomize_inputs`.
      index: position of the example in its data set, int.
      shape: shape of one image, static.
      mean: mean of the pixels, a scalar or of a shape that broadcasts to `shape`.
      std: standard deviation of the pixels, likewise.

    Returns:
      float32 [*shape], independent Gaussian pixels, not clipped.

    Example:
      >>> gaussian_image(jax.random.key(0), 7, (28, 28, 1), mean=0.13, std=0.31).shape
      (28, 28, 1)
    """
    noise = jax.random.normal(_example_key(key, "gaussian inputs", index), shape, jnp.float32)
    mean = jnp.broadcast_to(jnp.asarray(mean, jnp.float32), shape)
    std = jnp.broadcast_to(jnp.asarray(std, jnp.float32), shape)
    return mean + std * noise


def randomize_inputs(
    key: jax.Array,
    images: ArrayLike,
    fraction: float,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Replaces the inputs of a fraction of the examples by Gaussian noise (randX of the paper).

    Args:
      key: a typed key.
      images: [n ...], floating point, in [0, 1] or standardised.
      fraction: share of the examples in [0, 1], static.
      mean: mean of the noise, a scalar or of a shape that broadcasts to one image; by default the
        mean of all pixels of `images`.
      std: standard deviation of the noise, likewise.

    Returns:
      (images [n ...] of the same dtype, is_corrupted bool [n]). The noise is not clipped.

    Raises:
      InputError: if images are integers or fraction is not in [0, 1].

    Source:
      Arpit et al. 2017, section 3: "i.i.d. Gaussian noise with the real data's mean and variance".

    Example:
      >>> images = jnp.full((10, 2, 2, 1), 0.5)
      >>> noisy, is_corrupted = randomize_inputs(jax.random.key(0), images, 0.4, std=1.0)
      >>> int(is_corrupted.sum()), bool((noisy == images).all(axis=(1, 2, 3)).sum() == 6)
      (4, True)
    """
    images = jnp.asarray(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"images dtype={images.dtype}: must be floating point, uint8 / 255 say")
    mean = _pixel_mean(images) if mean is None else mean
    std = jnp.sqrt(_pixel_mean((images - _pixel_mean(images)) ** 2)) if std is None else std
    positions = corrupted_positions(key, len(images), fraction)

    def draw(index: jax.Array) -> jax.Array:
        return gaussian_image(key, index, images.shape[1:], mean, std).astype(images.dtype)

    noise = jax.vmap(draw)(positions)
    return images.at[positions].set(noise), _mask(positions, len(images))


def randomize_labels(
    key: jax.Array,
    labels: ArrayLike,
    fraction: float,
    num_classes: int,
    exclude_true: bool = False,
    transition: ArrayLike | Sequence[Sequence[float]] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Draws new labels for a fraction of the examples (randY of the paper).

    Args:
      key: a typed key.
      labels: [n], integers in [0, num_classes).
      fraction: share of the examples in [0, 1], static.
      num_classes: number of classes, static.
      exclude_true: draw from the other classes only. By default all classes are equally likely
        and the new label may be the old one.
      transition: [classes classes]; row i holds the probabilities of the new label where the old
        one is i. In place of the uniform draw.

    Returns:
      (labels [n] of the same dtype, is_corrupted bool [n]). `is_corrupted` says whose label was
      drawn, even where the draw gave the old label again.

    Raises:
      InputError: if fraction is not in [0, 1], if transition is not a matrix of probabilities or is
        given together with exclude_true, or if exclude_true leaves no class.

    Source:
      Arpit et al. 2017, section 3, who leave open whether a random label may be the true one.

    Example:
      >>> labels = jnp.zeros(1000, jnp.int32)
      >>> noisy, is_corrupted = randomize_labels(jax.random.key(0), labels, 0.4, 10, True)
      >>> int(is_corrupted.sum()), int((noisy != labels).sum())
      (400, 400)
    """
    labels = jnp.asarray(labels)
    if exclude_true and (transition is not None or num_classes < 2):
        raise InputError("exclude_true: needs at least two classes and no transition matrix")
    if transition is not None:
        if not isinstance(transition, jax.core.Tracer):
            check_transition(transition, num_classes)
        transition = jnp.asarray(transition, jnp.float32)
    positions = corrupted_positions(key, len(labels), fraction)

    def draw(index: jax.Array) -> jax.Array:
        example_key = _example_key(key, "labels", index)
        if transition is not None:
            return jax.random.categorical(example_key, jnp.log(transition[labels[index]]))
        label = jax.random.randint(example_key, (), 0, num_classes - exclude_true, labels.dtype)
        return label + (label >= labels[index]) if exclude_true else label

    drawn = jax.vmap(draw)(positions).astype(labels.dtype)
    return labels.at[positions].set(drawn), _mask(positions, len(labels))


def check_transition(transition: ArrayLike | Sequence[Sequence[float]], num_classes: int) -> None:
    """Raises InputError unless `transition` is [classes classes] with probabilities as rows.

    Args:
      transition: the matrix, rows of numbers.
      num_classes: number of classes.

    Raises:
      InputError: saying what is wrong with it.
    """
    try:
        matrix = np.asarray(transition, np.float64)
    except ValueError as error:
        raise InputError("corruption transition: rows must be of one length") from error
    if matrix.shape != (num_classes, num_classes):
        raise InputError(
            f"corruption transition of shape {list(matrix.shape)}: must be "
            f"[{num_classes}, {num_classes}], a row for each true class"
        )
    # One comparison that NaN fails too.
    is_distribution = (matrix >= 0).all(axis=1) & (abs(matrix.sum(axis=1) - 1) < 1e-5)
    if not is_distribution.all():
        row = int(is_distribution.argmin())
        raise InputError(f"corruption transition row {row}: must be probabilities that sum to 1")


def permute_labels(
    key: jax.Array, labels: ArrayLike, fraction: float
) -> tuple[jax.Array, jax.Array]:
    """Permutes the labels among a fraction of the examples, so that the class counts are kept.

    The permutation is one random cycle through the corrupted examples in the key's order: each
    gets the label of the next. Its values cannot be quite nested: where the counts are kept and
    everybody keeps a new label, a newcomer can only get its own. The cycle comes as near as can
    be: with a larger fraction all but one of the corrupted examples keep their labels.

    Args:
      key: a typed key.
      labels: [n], integers.
      fraction: share of the examples in [0, 1], static.

    Returns:
      (labels [n] of the same dtype, is_corrupted bool [n]). A label stays the same where the next
      example is of the same class.

    Raises:
      InputError: if fraction is not in [0, 1].

    Example:
      >>> labels = jnp.arange(100) % 10
      >>> permuted, is_corrupted = permute_labels(jax.random.key(0), labels, 0.5)
      >>> jnp.bincount(permuted, length=10).tolist() == [10] * 10, int(is_corrupted.sum())
      (True, 50)
    """
    labels = jnp.asarray(labels)
    positions = corrupted_positions(key, len(labels), fraction)
    cycled = labels[jnp.roll(positions, -1)]
    return labels.at[positions].set(cycled), _mask(positions, len(labels))


def shuffle_pixels(
    key: jax.Array, images: ArrayLike, fraction: float, per_example: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Permutes the pixels of a fraction of the examples; the channels of a pixel stay together.

    Args:
      key: a typed key.
      images: [n height width channels] or [n features], of any dtype.
      fraction: share of the examples in [0, 1], static.
      per_example: a permutation of its own for each example, in place of one for all.

    Returns:
      (images of the same shape and dtype, is_corrupted bool [n]).

    Raises:
      InputError: if fraction is not in [0, 1].

    Source:
      Zhang et al. 2017, section 2 ("shuffled pixels" and "random pixels").

    Example:
      >>> images = jnp.arange(32, dtype=jnp.uint8).reshape(2, 4, 4, 1)
      >>> shuffled, _ = shuffle_pixels(jax.random.key(0), images, 1.0)
      >>> bool((jnp.sort(shuffled.reshape(2, 16)) == images.reshape(2, 16)).all())
      True
    """
    images = jnp.asarray(images)
    n = len(images)
    positions = corrupted_positions(key, n, fraction)
    pixels = images.reshape(n, -1, images.shape[-1] if images.ndim > 2 else 1)

    def shuffle(index: jax.Array) -> jax.Array:
        # Position 0's permutation serves all where there is one for all.
        example_key = _example_key(key, "pixels", index if per_example else 0)
        return pixels[index][jax.random.permutation(example_key, pixels.shape[1])]

    shuffled = jax.vmap(shuffle)(positions).reshape(-1, *images.shape[1:])
    return images.at[positions].set(shuffled), _mask(positions, n)


def unique_labels(labels: ArrayLike) -> jax.Array:
    """Gives every example a class of its own (the paper's figure 3, right).

    Args:
      labels: [n], integers.

    Returns:
      [n] of the same dtype: 0, 1, ..., n - 1.

    Example:
      >>> unique_labels(jnp.array([3, 3, 1])).tolist()
      [0, 1, 2]
    """
    labels = jnp.asarray(labels)
    return jnp.arange(len(labels), dtype=labels.dtype)


def remove(key: jax.Array, num_examples: int, fraction: float) -> jax.Array:
    """Returns the positions that stay where a fraction of the examples is removed.

    Removed are those that the other functions would corrupt with this key: the control of the
    paper's figure 5 (noise examples dropped instead of kept).

    Args:
      key: a typed key.
      num_examples: n, static.
      fraction: share of the examples to remove, in [0, 1], static.

    Returns:
      int32 [n - round(fraction * n)], ascending.

    Raises:
      InputError: if fraction is not in [0, 1].

    Example:
      >>> remove(jax.random.key(0), 10, 0.4).shape
      (6,)
    """
    positions = corrupted_positions(key, num_examples, fraction)
    num_kept = num_examples - len(positions)
    return jnp.flatnonzero(~_mask(positions, num_examples), size=num_kept).astype(jnp.int32)


def _example_key(key: jax.Array, use: str, index: ArrayLike) -> jax.Array:
    return jax.random.fold_in(tagged(key, use), index)


def _pixel_mean(images: jax.Array) -> jax.Array:
    # Image by image: one float32 sum over all pixels of a large data set loses digits.
    return jnp.mean(jnp.mean(images, axis=tuple(range(1, images.ndim)), dtype=jnp.float32))


def _mask(positions: jax.Array, num_examples: int) -> jax.Array:
    return jnp.zeros(num_examples, bool).at[positions].set(True)
