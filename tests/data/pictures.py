"""Small encoded pictures for the tests."""

import io

import numpy as np
from PIL import Image


def encoded(pixels, kind="PNG", mode=None, orientation=None):
    """Returns a picture as the bytes of a file; orientation: of EXIF, 1 to 8."""
    image = Image.fromarray(np.asarray(pixels))
    image = image.convert(mode) if mode else image
    options = {}
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(seed, *shape, dtype=np.uint8):
    """Returns random pixels."""
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def write_folder(root, files):
    """Writes {path: bytes} below root."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root
