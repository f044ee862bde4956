"""Encoded images (files, or bytes in a table) decoded to one array of one size and one mode."""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from memjax.data.cache import cache_folder, cached_arrays
from memjax.data.dataset import in_words, printable
from memjax.data.picture_files import (
    DEEP_MODES,
    GREY_MODES,
    Header,
    attempt,
    image_module,
    read_header,
    read_pixels,
)
from memjax.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".pgm")
_ODD_SHAPE, _ODD_AREA = 1.5, 10.0  # times the median: unlike the other pictures


class Picture(NamedTuple):
    """One encoded image.

    Attributes:
      example_id: what to call it.
      source: its file or its bytes; text says why there is none.
    """

    example_id: str
    source: pathlib.Path | bytes | str


class Decoded(NamedTuple):
    """Images of one size and mode.

    Attributes:
      images: [m height width channels], uint8, or float32 in [0, 1] where some have 16 bits.
      kept: int64 [m], which of the pictures they are; broken ones are left out.
      notes: what was done, a sentence each.
      broken: (example id, reason) of those left out.
      odd_sized: int64, which of the pictures are kept and of a size unlike the others'.
    """

    images: np.ndarray
    kept: np.ndarray
    notes: tuple[str, ...]
    broken: tuple[tuple[str, str], ...]
    odd_sized: np.ndarray


def decode_cached(
    pictures: Sequence[Picture],
    image_size: int,
    where: str,
    cache_dir: str = "",
    facts: Sequence[str] | None = (),
) -> Decoded:
    """Returns `decode`, from the cache if the same files were decoded before.

    Args:
      pictures: what to decode.
      image_size: as in `decode`.
      where: begins an error.
      cache_dir: where decoded arrays are kept; empty: $MEMJAX_CACHE or ~/.cache/memjax.
      facts: what else the pictures depend on; files tell their size and time of change themselves,
        and bytes are hashed. None: the cache is not used.
    """
    if facts is None:
        return decode(pictures, image_size, where)
    digest = hashlib.sha256(f"4 {image_size}".encode())  # 4: of this module's way to decode
    for fact in facts:
        digest.update(f"\n{printable(fact)}".encode())
    for picture in pictures:
        state = f"{picture.example_id!r} {_state(picture.source)}"
        digest.update(f"\n{printable(state)}".encode())

    def make() -> dict[str, np.ndarray]:
        made = decode(pictures, image_size, where)
        return {
            "images": made.images,
            "kept": made.kept,
            "notes": np.array(made.notes, str),
            "broken": np.array(made.broken, str).reshape(-1, 2),
            "odd_sized": made.odd_sized,
        }

    folder = cache_folder(cache_dir) / "pictures" / digest.hexdigest()[:32]
    names = ("images", "kept", "notes", "broken", "odd_sized")
    arrays = cached_arrays(folder, names, make)
    return Decoded(
        arrays["images"],
        np.asarray(arrays["kept"]),
        tuple(arrays["notes"].tolist()),
        tuple((str(name), str(reason)) for name, reason in arrays["broken"].tolist()),
        np.asarray(arrays["odd_sized"]),
    )


def _state(source: pathlib.Path | bytes | str) -> str:
    if isinstance(source, str):
        return source
    if isinstance(source, bytes):  # of equal length are all bitmaps of a size
        return hashlib.blake2b(source, digest_size=16).hexdigest()
    try:
        status = source.stat()
    except OSError as error:
        return str(error.errno)
    except ValueError:  # a name that can be none, with a zero byte in it
        return "no name of a file"
    return f"{source.resolve()!s} {status.st_size} {status.st_mtime_ns}"


def decode(pictures: Sequence[Picture], image_size: int, where: str) -> Decoded:
    """Decodes images, turned as their EXIF says, to RGB if one of them has colours, else to grey.

    Args:
      pictures: what to decode. Broken ones are left out, and a note names them.
      image_size: height and width to resize to (antialiased; the shape is not kept); 0: as stored,
        which must be one size.
      where: begins an error.

    Raises:
      InputError: if none can be read, or if they are of several sizes and no size is asked for.
    """
    # Pillow warns of images that are suspiciously large; here they count as broken. The other
    # warnings are of metadata.
    with warnings.catch_warnings(), _workers() as each:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", image_module().DecompressionBombWarning)
        headers = each(
            lambda picture: attempt(read_header, picture.source), pictures, "reading sizes"
        )
        whole = [n for n, header in enumerate(headers) if isinstance(header, Header)]
        reasons = {n: header for n, header in enumerate(headers) if isinstance(header, str)}
        if not whole:
            raise InputError(f"{where}: {_broken(pictures, reasons)}")
        found = [headers[n] for n in whole]
        height, width = _one_size([pictures[n] for n in whole], found, image_size, where)
        is_grey = all(header.mode in GREY_MODES for header in found)
        is_deep = any(header.mode in DEEP_MODES for header in found)
        images = np.empty(
            (len(whole), height, width, 1 if is_grey else 3), np.float32 if is_deep else np.uint8
        )

        def fill(row: int) -> str | None:
            arguments = (pictures[whole[row]].source, (width, height), is_grey, is_deep)
            made = attempt(read_pixels, *arguments)
            if isinstance(made, str):
                return made
            images[row] = made
            return None

        failed = each(fill, range(len(whole)), "decoding, once")
    reasons |= {whole[row]: reason for row, reason in enumerate(failed) if reason is not None}
    rows = [row for row, reason in enumerate(failed) if reason is None]
    if not rows:
        raise InputError(f"{where}: {_broken(pictures, reasons)}")
    notes = _notes([found[row] for row in rows], (width, height), is_grey, is_deep)
    if reasons:
        notes.insert(0, f"warning: {_broken(pictures, reasons)}")
        images = images[rows]
    kept = np.array(whole, np.int64)[rows]
    is_odd = odd_sizes(np.array([found[row].size for row in rows]))
    return Decoded(
        images,
        kept,
        tuple(notes),
        tuple((pictures[n].example_id, reasons[n]) for n in sorted(reasons)),
        kept[is_odd],
    )


def odd_sizes(sizes: np.ndarray) -> np.ndarray:
    """Returns bool [n]: a shape over 1.5 times off the median, or area over 10 times.

    Args:
      sizes: int [n 2], widths and heights.

    Example:
      >>> odd_sizes(np.array([[32, 32], [30, 32], [64, 32], [4, 4], [31, 32]])).tolist()
      [False, False, True, True, False]
    """
    width, height = np.log(sizes.astype(float)).T
    shape, area = width - height, width + height
    is_odd_shape = np.abs(shape - np.median(shape)) > np.log(_ODD_SHAPE)
    return is_odd_shape | (np.abs(area - np.median(area)) > np.log(_ODD_AREA))


@contextlib.contextmanager
def _workers() -> Iterator[Callable[..., list[Any]]]:
    """Gives a function that maps over a sequence on all cores: Pillow decodes without the lock."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:

        def each(function: Callable, over: Sequence, what: str) -> list[Any]:
            starts = track(
                range(0, len(over), 1000),
                description=what,
                console=console,
                disable=not console.is_terminal or len(over) < 5000,
                transient=True,
            )
            parts = (pool.map(function, over[start : start + 1000]) for start in starts)
            return [result for part in parts for result in part]

        yield each


def _broken(pictures: Sequence[Picture], reasons: dict[int, str]) -> str:
    if not pictures:
        return "there are no images"
    shown = [f"{pictures[n].example_id} ({reasons[n]})" for n in sorted(reasons)]
    what = "could be read" if len(reasons) == len(pictures) else "are left out, for they are broken"
    count = "none" if len(reasons) == len(pictures) else f"{len(reasons):,}"
    return f"{count} of {len(pictures):,} images {what}: {in_words(shown)}"


def _notes(
    headers: Sequence[Header], size: tuple[int, int], is_grey: bool, is_deep: bool
) -> list[str]:
    modes = Counter(header.mode for header in headers)
    num_grey = sum(count for mode, count in modes.items() if mode in GREY_MODES)
    num_deep = sum(count for mode, count in modes.items() if mode in DEEP_MODES)
    num_alpha = sum(count for mode, count in modes.items() if mode in ("LA", "PA", "RGBA", "La"))
    num_resized = sum(header.size != size for header in headers)
    num_turned = sum(header.is_turned for header in headers)
    told = {
        f"grey, read as RGB like the {len(headers) - num_grey:,} in colours": (
            0 if is_grey else num_grey
        ),
        "of 16 bits, so that all are read as floats in [0, 1]": num_deep if is_deep else 0,
        "with an alpha channel, which is dropped": num_alpha,
        "turned as their EXIF orientation says": num_turned,
        f"resized to {size[0]} x {size[1]}": num_resized,
    }
    return [
        f"images {what}: {count:,} of {len(headers):,}" for what, count in told.items() if count
    ]


def _one_size(
    pictures: Sequence[Picture], headers: Sequence[Header], image_size: int, where: str
) -> tuple[int, int]:
    """Returns height and width."""
    if image_size:
        return image_size, image_size
    areas = [header.size[0] * header.size[1] for header in headers]
    small, large = int(np.argmin(areas)), int(np.argmax(areas))
    sizes = {header.size for header in headers}
    if len(sizes) > 1:
        if areas[small] == areas[large]:
            large = next(n for n, header in enumerate(headers) if header.size != headers[0].size)
            small = 0
        shown = " and ".join(
            f"{headers[n].size[0]} x {headers[n].size[1]} ({pictures[n].example_id})"
            for n in (small, large)
        )
        raise InputError(
            f"{where}: images of {len(sizes)} sizes, among them {shown} pixels wide and high; set "
            "config.dataset.image_size=SIZE, and each is resized to SIZE x SIZE"
        )
    width, height = sizes.pop()
    return height, width
