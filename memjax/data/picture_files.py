"""One picture file: its header, its pixels, what is wrong with it."""

import contextlib
import io
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

# What Pillow may open: its other formats are rare in data sets, and more ways in for bad files.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
GREY_MODES = ("1", "L", "LA", *DEEP_MODES)


class Header(NamedTuple):
    """What is known of a picture before its pixels are read."""

    size: tuple[int, int]  # width, height, as turned
    mode: str
    is_turned: bool


def image_module() -> Any:
    """Returns PIL.Image, imported at the first use."""
    from PIL import Image  # not at the top: slow, and rarely needed

    return Image


def attempt(function: Callable, *arguments: Any) -> Any:
    """Returns what the function returns, or in a few words why the image is broken."""
    from PIL import Image, UnidentifiedImageError

    try:
        return function(*arguments)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    except UnidentifiedImageError:
        return "no image"
    except OSError as error:
        return error.strerror or str(error).split(" <")[0].partition("\n")[0][:80]
    except Exception as error:  # a damaged file raises anything in Pillow's decoders
        return (str(error) or type(error).__name__).partition("\n")[0][:80]


@contextlib.contextmanager
def open_picture(source: pathlib.Path | bytes | str) -> Iterator[Any]:
    """Opens a file, or its bytes; text is why there is none, and is raised as OSError."""
    if isinstance(source, str):
        raise OSError(source)
    with (
        open(source, "rb") if isinstance(source, pathlib.Path) else io.BytesIO(source) as file,
        image_module().open(file, formats=FORMATS) as image,
    ):
        yield image


def read_header(source: pathlib.Path | bytes | str) -> Header:
    """Returns size and mode of one picture, as its EXIF tag turns it."""
    with open_picture(source) as image:
        if image.mode == "F" or min(image.size) < 1:
            raise OSError(f"mode {image.mode}, {image.size[0]} x {image.size[1]} pixels")
        orientation = image.getexif().get(0x0112, 1)
        is_turned = orientation in range(2, 9)
        size = image.size[::-1] if orientation in range(5, 9) else image.size
        return Header(size, image.mode, is_turned)


def read_pixels(
    source: pathlib.Path | bytes | str, size: tuple[int, int], is_grey: bool, is_deep: bool
) -> np.ndarray:
    """Returns [height width channels] of one picture."""
    from PIL import Image, ImageOps

    with open_picture(source) as opened:
        image: Any = ImageOps.exif_transpose(opened)
        if image.mode in DEEP_MODES:
            deep = np.asarray(image).astype(np.float32) / 65535
            image = Image.fromarray(np.clip(deep, 0, 1))
        else:
            image = image.convert("L" if is_grey else "RGB")
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)  # antialiased
        pixels = np.asarray(image)
    if is_deep and pixels.dtype == np.uint8:
        pixels = pixels / np.float32(255)
    return pixels.reshape(size[1], size[0], -1)  # grey broadcasts to three channels
