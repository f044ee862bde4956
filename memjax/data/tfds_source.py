"""Image classification data sets of TensorFlow Datasets, read without TensorFlow.

TFDS writes a data set to `data_dir/NAME/[CONFIG/]VERSION`. Its arrays are decoded once and kept in
the cache, so a later start reads them in a fraction of a second and does not import TFDS at all.
"""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from memjax.data.cache import cache_folder, cached_arrays
from memjax.data.dataset import Dataset, Split, make_split
from memjax.errors import InputError

ALIASES = {"svhn": "svhn_cropped"}
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_ARRAYS = ("images", "labels", "class_names")
_RECORDS_PER_READ = 1000
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # what Pillow calls images of so many channels


class TfdsColumns(NamedTuple):
    """Which features of a builder are read; empty: its own image and label, and no true label."""

    image: str = ""
    label: str = ""
    true_label: str = ""


OWN_COLUMNS = TfdsColumns()


def load_tfds(
    name: str, data_dir: str = "", cache_dir: str = "", columns: TfdsColumns = OWN_COLUMNS
) -> Dataset:
    """Loads a builder with an image and a label: mnist, fashion_mnist, cifar10, cifar100, svhn, ...

    What is not prepared in `data_dir` is downloaded and prepared in another process, for TFDS may
    need TensorFlow for that (`memjax.data.prepare`).

    Args:
      name: `NAME[/CONFIG][:VERSION]`, as in TFDS; without a version, the newest that is prepared.
      data_dir: where TFDS keeps data; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets.
      cache_dir: where decoded arrays are kept; empty: $MEMJAX_CACHE or ~/.cache/memjax.
      columns: other features than the builder's own image and label: of cifar10_n, say,
        `worse_label` as the label and `label` as the true label.

    Returns:
      A Dataset, uint8 images (16-bit features: float32 in [0, 1]). The validation split is
      `validation` if the builder has it, else `test`, else empty.

    Raises:
      InputError: if there is no such builder, if it is not prepared and cannot be, if it is no
        image classification of one image size, or if a record is damaged.
    """
    name = ALIASES.get(name, name)
    root = tfds_folder(data_dir)
    folder = find_prepared(name, root) or _prepare(name, root, columns)
    try:
        described = json.loads((folder / "dataset_info.json").read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"config.dataset.name={name!r}: {folder / 'dataset_info.json'} is damaged ({error})"
        ) from error
    file_format = described.get("fileFormat", "tfrecord")
    if file_format != "array_record":
        raise InputError(
            f"config.dataset.name={name!r}: {folder} is stored as {file_format}, not array_record; "
            f"prepare it elsewhere: python -m memjax.data.prepare {name} --data_dir=DIR"
        )
    splits = [split["name"] for split in described["splits"]]
    if "train" not in splits:
        raise InputError(f"config.dataset.name={name!r}: has no train split, but {splits}")
    label = f"{name.split(':')[0].replace('/', '-')}-{folder.name}-{_fingerprint(folder)}"
    chosen = "".join(f"-{column}" for column in columns) if any(columns) else ""
    cache = cache_folder(cache_dir) / "tfds"
    wanted = (*_ARRAYS, "true_labels") if columns.true_label else _ARRAYS

    def load(split: str) -> Mapping[str, np.ndarray]:
        kept = cache / f"{label}{chosen}-{split}"
        return cached_arrays(kept, wanted, lambda: _decode(folder, split, columns))

    def as_split(arrays: Mapping[str, np.ndarray]) -> Split:
        split = make_split(arrays["images"], arrays["labels"])
        return dataclasses.replace(split, true_labels=arrays.get("true_labels", split.labels))

    arrays = load("train")
    train = as_split(arrays)
    names = tuple(str(class_name) for class_name in arrays["class_names"])
    if len(np.unique(train.labels)) < 2:
        raise InputError(
            f"config.dataset.name={name!r}: all examples are of one class; at least two are needed"
        )
    validation: Split = train.take(np.arange(0))
    for split in ("validation", "test"):
        if split in splits:
            validation = as_split(load(split))
            break
    return Dataset(name, len(names), names, train, validation)


def tfds_folder(data_dir: str = "") -> pathlib.Path:
    """Returns the folder of TFDS: the given one, $TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(data_dir or default).expanduser()


def find_prepared(name: str, root: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of the newest prepared version, or None.

    Args:
      name: `NAME[/CONFIG][:VERSION]`.
      root: the folder of TFDS.

    Raises:
      InputError: if the name is not of this form.
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise InputError(f"config.dataset.name={name!r}: must be NAME[/CONFIG][:VERSION] of TFDS")
    parent = root / parts["name"] / (parts["config"] or "")
    versions = [
        folder
        for folder in (parent.iterdir() if parent.is_dir() else ())
        if _VERSION.fullmatch(folder.name)
        and parts["version"] in (None, folder.name)
        and (folder / "dataset_info.json").is_file()
    ]
    return max(versions, key=_version, default=None)


def _version(folder: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(number) for number in folder.name.split("."))


def find_builder(name: str, root: pathlib.Path) -> Any:
    """Returns the TFDS builder of this name, that writes array_record.

    Args:
      name: `NAME[/CONFIG][:VERSION]`.
      root: the folder of TFDS.

    Raises:
      InputError: if TFDS has no such builder; the nearest name is suggested.
    """
    import tensorflow_datasets as tfds  # not at the top: slow, and not needed where it is cached

    from memjax.config import nearest

    plain = name.split(":")[0].split("/")[0]
    known = tfds.list_builders(with_community_datasets=False)
    if plain not in known:
        common = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn")
        hint = nearest(plain, known).partition("allowed:")[0]
        raise InputError(
            f"config.dataset.name={plain!r}: {hint}no such builder in tensorflow_datasets; "
            f"allowed: {', '.join(common)} and others with an image and a label"
        )
    try:
        return tfds.builder(name, data_dir=root, file_format="array_record")
    except (ValueError, AssertionError, tfds.core.registered.DatasetNotFoundError) as error:
        # What stands before and after only repeats the arguments and the documentation.
        reason = " ".join(str(error).split()).split('}": ')[-1].partition(" Here are")[0]
        raise InputError(f"config.dataset.name={name!r}: {reason}") from error


def _prepare(name: str, root: pathlib.Path, columns: TfdsColumns) -> pathlib.Path:
    builder = find_builder(name, root)
    _feature_keys(builder.info, columns)
    # A builder's default config has a folder that its plain name does not tell.
    name = builder.info.full_name.rpartition("/")[0]
    if folder := find_prepared(name, root):
        return folder
    command = [sys.executable, "-m", "memjax.data.prepare", name, f"--data_dir={root}"]
    reason = _run(command)
    folder = find_prepared(name, root)
    if folder is None:
        raise InputError(
            f"config.dataset.name={name!r}: is not prepared in {root} and could not be ({reason}); "
            f"with a network, run: python -m memjax.data.prepare {name} --data_dir={root} ; or set "
            "config.dataset.data_dir to where it is; or use config.dataset.source=digits, folder "
            "or npz"
        )
    return folder


def _run(command: list[str]) -> str:
    """Runs a command, shows its progress on a terminal, and returns its last line of stderr."""
    text = b""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, bufsize=0
    ) as child:
        assert child.stderr is not None
        while chunk := child.stderr.read(4096):
            text = (text + chunk)[-4096:]
            if sys.stderr.isatty():
                sys.stderr.write(chunk.decode(errors="replace"))
    lines = text.decode(errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1] if lines else f"exit code {child.returncode}"


def _fingerprint(folder: pathlib.Path) -> str:
    """Returns 16 hex digits that differ for other data in this folder, or another folder."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for path in sorted(folder.iterdir()):
        status = path.stat()
        digest.update(f"\n{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _decode(
    folder: pathlib.Path, split: str, columns: TfdsColumns = OWN_COLUMNS
) -> dict[str, np.ndarray]:
    """Reads a split and decodes its images, [n height width channels] uint8, or float32."""
    import tensorflow_datasets as tfds
    from rich.console import Console
    from rich.progress import track

    builder = tfds.builder_from_directory(folder)
    keys = _feature_keys(builder.info, columns)
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


def _feature_keys(info: Any, columns: TfdsColumns = OWN_COLUMNS) -> TfdsColumns:
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
