"""Image classification data sets of TensorFlow Datasets, read without TensorFlow.

TFDS writes a data set to `data_dir/NAME/[CONFIG/]VERSION`. Its arrays are decoded once and kept in
the cache, so a later start reads them in a fraction of a second and does not import TFDS at all.
"""

import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from memjax.data.cache import cache_folder, cached_arrays
from memjax.data.dataset import Dataset, Split, make_split
from memjax.errors import InputError

ALIASES = {"svhn": "svhn_cropped"}
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_ARRAYS = ("images", "labels", "class_names")
_RECORDS_PER_READ = 1000


def load_tfds(name: str, data_dir: str = "", cache_dir: str = "") -> Dataset:
    """Loads a builder with an image and a label: mnist, fashion_mnist, cifar10, cifar100, svhn, ...

    What is not prepared in `data_dir` is downloaded and prepared in another process, for TFDS may
    need TensorFlow for that (`memjax.data.prepare`).

    Args:
      name: `NAME[/CONFIG][:VERSION]`, as in TFDS; without a version, the newest that is prepared.
      data_dir: where TFDS keeps data; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets.
      cache_dir: where decoded arrays are kept; empty: $MEMJAX_CACHE or ~/.cache/memjax.

    Returns:
      A Dataset, uint8 images. The validation split is `validation` if the builder has it, else
      `test`, else empty.

    Raises:
      InputError: if there is no such builder, if it is not prepared and cannot be, or if it is no
        image classification of one image size.
    """
    name = ALIASES.get(name, name)
    root = tfds_folder(data_dir)
    folder = find_prepared(name, root) or _prepare(name, root)
    described = json.loads((folder / "dataset_info.json").read_text())
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
    cache = cache_folder(cache_dir) / "tfds"

    def load(split: str) -> Mapping[str, np.ndarray]:
        return cached_arrays(cache / f"{label}-{split}", _ARRAYS, lambda: _decode(folder, split))

    arrays = load("train")
    train = make_split(arrays["images"], arrays["labels"])
    names = tuple(str(class_name) for class_name in arrays["class_names"])
    validation: Split = train.take(np.arange(0))
    for split in ("validation", "test"):
        if split in splits:
            held = load(split)
            validation = make_split(held["images"], held["labels"])
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


def _prepare(name: str, root: pathlib.Path) -> pathlib.Path:
    builder = find_builder(name, root)
    _feature_keys(builder.info)
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
            "config.dataset.data_dir to where it is; or use config.dataset.source=digits or npz"
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


def _decode(folder: pathlib.Path, split: str) -> dict[str, np.ndarray]:
    """Reads a split and decodes its images, [n height width channels] uint8."""
    import tensorflow_datasets as tfds
    from rich.console import Console
    from rich.progress import track

    builder = tfds.builder_from_directory(folder)
    image_key, label_key = _feature_keys(builder.info)
    # Pillow decodes here: TFDS would do the same more slowly, and warn that it has no OpenCV.
    decoders = {image_key: tfds.decode.SkipDecoding()}
    records = builder.as_data_source(split=split, decoders=decoders)
    channels = builder.info.features[image_key].shape[-1]
    console = Console(stderr=True)
    starts: Iterable[int] = track(
        range(0, len(records), _RECORDS_PER_READ),
        description=f"decoding {builder.info.name} {split}, once",
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    images: np.ndarray | None = None
    labels = np.empty(len(records), np.int32)
    for start in starts:
        stop = min(start + _RECORDS_PER_READ, len(records))
        for row, record in zip(
            range(start, stop), records.__getitems__(list(range(start, stop))), strict=True
        ):
            image = _decode_image(record[image_key], channels)
            if images is None:
                images = np.empty((len(records), *image.shape), np.uint8)
            if image.shape != images.shape[1:]:
                raise InputError(
                    f"config.dataset.name={builder.info.name!r}: images of several sizes, "
                    f"{list(images.shape[1:])} and {list(image.shape)}; one size is needed"
                )
            images[row], labels[row] = image, record[label_key]
    if images is None or labels.min() < 0:
        raise InputError(
            f"config.dataset.name={builder.info.name!r}: split {split} has no labelled examples"
        )
    names = np.array(builder.info.features[label_key].names)
    return {"images": images, "labels": labels, "class_names": names}


def _decode_image(encoded: bytes, channels: int) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
        return np.asarray(image.convert(mode), np.uint8).reshape(image.height, image.width, -1)


def _feature_keys(info: Any) -> tuple[str, str]:
    """Returns the names of the image and of the label, or says that there are none."""
    import tensorflow_datasets as tfds

    keys = info.supervised_keys or ("image", "label")
    features = info.features
    if (
        len(keys) != 2
        or not all(isinstance(key, str) and key in features for key in keys)
        or not isinstance(features[keys[0]], tfds.features.Image)
        or not isinstance(features[keys[1]], tfds.features.ClassLabel)
        or features[keys[0]].np_dtype != np.uint8
        or features[keys[1]].names is None
    ):
        raise InputError(
            f"config.dataset.name={info.name!r}: must have a uint8 image and a class label; has "
            f"{', '.join(features)}"
        )
    return keys
