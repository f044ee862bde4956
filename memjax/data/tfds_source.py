"""Image classification data sets of TensorFlow Datasets, read without TensorFlow.

TFDS writes a data set to `data_dir/NAME/[CONFIG/]VERSION`. Its arrays are decoded once and kept in
the cache, so a later start reads them in a fraction of a second and does not import TFDS at all.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from memjax.data.cache import cache_folder, cached_arrays
from memjax.data.dataset import Dataset, Split, make_split
from memjax.data.tfds_records import ARRAYS, OWN_COLUMNS, TfdsColumns, decode_split, feature_keys
from memjax.errors import InputError

ALIASES = {"svhn": "svhn_cropped"}
_NAME = re.compile(r"(?P<name>\w+)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


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
    wanted = (*ARRAYS, "true_labels") if columns.true_label else ARRAYS

    def load(split: str) -> Mapping[str, np.ndarray]:
        kept = cache / f"{label}{chosen}-{split}"
        return cached_arrays(kept, wanted, lambda: decode_split(folder, split, columns))

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
    feature_keys(builder.info, columns)
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
