"""The records of a prepared tfds data set, decoded."""

import io
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from memjax.errors import InputError

ARRAYS = ("images", "labels", "class_names")


_RECORDS_PER_READ = 1000


_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # what Pillow calls images of so many channels


class TfdsColumns(NamedTuple):
    """Which features of a builder are read; empty: its own image and label, and no true label."""

    image: str = ""
    label: str = ""
    true_label: str = ""


OWN_COLUMNS = TfdsColumns()


def decode_split(
    folder: pathlib.Path, split: str, columns: TfdsColumns = OWN_COLUMNS
) -> dict[str, np.ndarray]:
    """Reads a split and decodes its images, [n height width channels] uint8, or float32."""
    import tensorflow_datasets as tfds
    from rich.console import Console
    from rich.progress import track

    builder = tfds.builder_from_directory(folder)
    keys = feature_keys(builder.info, columns)
    features, where = builder.info.features, f"config.dataset.name={builder.info.name!r}"
    # Pillow decodes here: TFDS would do the same more slowly, and warn that it has no OpenCV.
    decoders = {keys.image: tfds.decode.SkipDecoding()}
    try:
        records = builder.as_data_source(split=split, decoders=decoders)
    except Exception as error:  # of array_record, for files that are missing or damaged
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{where}: split {split} cannot be read ({reason})") from error
    console = Console(stderr=True)
    starts: Iterable[int] = track(
        range(0, len(records), _RECORDS_PER_READ),
        description=f"decoding {builder.info.name} {split}, once",
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    images: np.ndarray | None = None
    labels, true_labels = np.full((2, len(records)), -1, np.int32)
    for start in starts:
        rows = range(start, min(start + _RECORDS_PER_READ, len(records)))
        for row, record in zip(rows, _read_records(records, rows, where, split), strict=True):
            try:
                image = _decode_image(record[keys.image], features[keys.image])
            except Exception as error:  # Pillow's decoders raise anything for a damaged image
                reason = (str(error) or type(error).__name__).split(" <")[0]
                raise InputError(
                    f"{where}: split {split}, record {row} (from 0): damaged image ({reason})"
                ) from error
            if images is None:
                images = np.empty((len(records), *image.shape), image.dtype)
            if image.shape != images.shape[1:]:
                raise InputError(
                    f"{where}: images of several sizes, "
                    f"{list(images.shape[1:])} and {list(image.shape)}; one size is needed"
                )
            images[row], labels[row] = image, record[keys.label]
            if keys.true_label:
                true_labels[row] = record[keys.true_label]
    if images is None or labels.min() < 0 or (keys.true_label and true_labels.min() < 0):
        raise InputError(f"{where}: split {split} has no labelled examples")
    names = np.array(features[keys.label].names)
    return {"images": images, "labels": labels, "class_names": names, "true_labels": true_labels}


def _read_records(records: Any, rows: range, where: str, split: str) -> list[Any]:
    """Returns some records, or says which one of them is damaged."""
    try:
        return records.__getitems__(list(rows))
    except Exception:  # of array_record, or of the features' decoders
        for row in rows:
            try:
                records.__getitems__([row])
            except Exception as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise InputError(
                    f"{where}: split {split}, record {row} (from 0): damaged record ({reason})"
                ) from error
        raise


def _decode_image(encoded: bytes, feature: Any) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        shape = (image.height, image.width, -1)
        if image.mode.startswith("I"):  # 16 bits: Pillow would make everything above 255 white
            deep = np.asarray(image).astype(np.float32) / 65535
            if feature.np_dtype == np.uint8:
                return np.repeat(
                    np.rint(deep * 255).astype(np.uint8).reshape(shape), feature.shape[-1], axis=2
                )
            return deep.reshape(shape)
        pixels = np.asarray(image.convert(_MODES[feature.shape[-1]]), np.uint8).reshape(shape)
    return pixels if feature.np_dtype == np.uint8 else pixels / np.float32(255)


def feature_keys(info: Any, columns: TfdsColumns = OWN_COLUMNS) -> TfdsColumns:
    """Returns the names of the image and of the labels, or says that there are none."""
    import tensorflow_datasets as tfds

    features = info.features
    own = info.supervised_keys or ("image", "label")
    for field, key in zip(TfdsColumns._fields, columns, strict=True):
        if key and key not in features:
            raise InputError(
                f"config.dataset.{field}_column={key!r}: {info.name} has "
                f"{', '.join(sorted(features))}"
            )
    image, label = (columns.image, columns.label) if len(own) != 2 else (
        columns.image or own[0],
        columns.label or own[1],
    )  # fmt: skip
    where = f"config.dataset.name={info.name!r}"
    labels = [key for key in (label, columns.true_label) if key]
    if (
        not all(isinstance(key, str) and key in features for key in (image, label))
        or not isinstance(features[image], tfds.features.Image)
        or not all(isinstance(features[key], tfds.features.ClassLabel) for key in labels)
        or features[label].names is None
    ):
        raise InputError(
            f"{where}: must have an image and a class label; has {', '.join(sorted(features))}"
        )
    if len({tuple(features[key].names or ()) for key in labels}) > 1:
        raise InputError(f"{where}: {labels[0]} and {labels[1]} have different classes")
    channels, dtype = features[image].shape[-1], features[image].np_dtype
    if channels not in _MODES or dtype not in (np.uint8, np.uint16) or (
        dtype == np.uint16 and channels != 1
    ):  # fmt: skip
        raise InputError(
            f"{where}: {image} has {channels} channels of {np.dtype(dtype).name}; must have 1, 3 "
            "or 4 of uint8, or 1 of uint16; write it to an .npz with numpy.savez and use source=npz"
        )
    return TfdsColumns(image, label, columns.true_label)
