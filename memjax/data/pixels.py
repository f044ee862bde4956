"""Arithmetic on the pixels of a whole data set, in blocks."""

import numpy as np

_VALUES_PER_BLOCK = 4_000_000


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes images to squares: area means where the factor is whole, else antialiased.

    Args:
      images: [n height width channels], uint8, or float32 in [0, 1].
      size: the new height and width, pixels.

    Returns:
      float32 [n size size channels] in [0, 1], not rounded to whole grey levels; `images` itself
      where it has that size already.

    Example:
      >>> resize(np.array([[0, 255], [255, 255]], np.uint8).reshape(1, 2, 2, 1), 1).item()
      0.75
    """
    n, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    white = np.float32(255 if images.dtype == np.uint8 else 1)
    resized = np.empty((n, size, size, channels), np.float32)
    if height % size == 0 and width % size == 0:
        blocks = images.reshape(n, size, height // size, size, width // size, channels)
        blocks.mean(axis=(2, 4), dtype=np.float32, out=resized)
        return resized / white
    from PIL import Image  # not at the top: slow, and rarely needed

    for position in range(n):
        for channel in range(channels):
            plane = Image.fromarray(images[position, :, :, channel].astype(np.float32))
            smaller = plane.resize((size, size), Image.Resampling.BILINEAR)
            resized[position, :, :, channel] = np.asarray(smaller)
    return np.clip(resized / white, 0, 1)


def pixel_moments(images: np.ndarray, per_channel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and standard deviation of the pixels, summed in float64.

    Args:
      images: [n height width channels], uint8 or float32 in [0, 1]; or [n features].
      per_channel: for each channel (of features: for each), in place of over everything.

    Returns:
      (mean, std), float32, [channels] or [], in units of [0, 1] pixels (of uint8 / 255).
    """
    channels = images.shape[-1]
    is_bytes = images.dtype == np.uint8
    counts = np.zeros((channels, 256), np.int64)
    total, total_square, num_pixels = np.zeros(channels), np.zeros(channels), 0
    # In blocks: a count of bytes makes them 8 bytes wide, and so does a float64 sum of squares.
    block = max(1, _VALUES_PER_BLOCK // max(1, images[:1].size))
    for start in range(0, len(images), block):
        pixels = images[start : start + block].reshape(-1, channels)
        num_pixels += len(pixels)
        if is_bytes:  # exact, and fast: 256 counts instead of a sum over all pixels
            counts += [np.bincount(pixels[:, c], minlength=256) for c in range(channels)]
        else:
            total += pixels.sum(axis=0, dtype=np.float64)
            total_square += np.square(pixels, dtype=np.float64).sum(axis=0)
    levels = np.arange(256) / 255
    mean = counts / num_pixels @ levels if is_bytes else total / num_pixels
    square = counts / num_pixels @ levels**2 if is_bytes else total_square / num_pixels
    if not per_channel:
        mean, square = mean.mean(), square.mean()
    # Rounding may leave a variance of about 1e-17 where there is none.
    variance = square - mean**2
    variance = np.where(variance > 1e-12, variance, 0)
    return np.asarray(mean, np.float32), np.asarray(np.sqrt(variance), np.float32)


def noise_moments(images: np.ndarray, of: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and standard deviation that Gaussian inputs take from real ones.

    Args:
      images: as in `pixel_moments`.
      of: "all" pixels together, each "channel", or each "pixel" (of features: each of them).

    Returns:
      (mean, std), float32, of a shape that broadcasts to one image.

    Example:
      >>> images = np.array([[[[0.0], [0.5]]], [[[0.0], [1.0]]]], np.float32)
      >>> mean, std = noise_moments(images, "pixel")
      >>> mean.ravel().tolist(), std.ravel().tolist()
      ([0.0, 0.75], [0.0, 0.25])
    """
    if of != "pixel":
        return pixel_moments(images, per_channel=of == "channel")
    moments = pixel_moments(images.reshape(len(images), -1), per_channel=True)
    mean, std = (moment.reshape(images.shape[1:]) for moment in moments)
    return mean, std
