"""Downloads a TFDS data set and writes it as array_record, which memjax reads.

    python -m memjax.data.prepare mnist --data_dir=DIR

mnist, fashion_mnist, kmnist, cifar10 and cifar100 are prepared without TensorFlow; the rest needs
it: pip install 'memjax[prepare]'.
"""

import argparse
import gzip
import importlib.util
import io
import pathlib
import sys
import tarfile
import tempfile
import types
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from memjax.data.tfds_source import ALIASES, find_builder, find_prepared, tfds_folder
from memjax.errors import InputError


def prepare(name: str, root: pathlib.Path) -> pathlib.Path:
    """Downloads and writes a data set, unless it is there.

    Args:
      name: `NAME[/CONFIG][:VERSION]`, as in TFDS.
      root: the folder of TFDS.

    Returns:
      The folder of the prepared data set.

    Raises:
      InputError: if there is no such builder, if it needs TensorFlow and there is none, or if the
        download fails.
    """
    if folder := find_prepared(name, root):
        return folder
    builder = stock = find_builder(name, root)
    with tempfile.TemporaryDirectory() as scratch:
        if without := _without_tensorflow(type(stock), pathlib.Path(scratch)):
            builder = without(data_dir=root, file_format="array_record")
        elif importlib.util.find_spec("tensorflow") is None:
            raise InputError(f"preparing {name} needs TensorFlow: pip install 'memjax[prepare]'")
        if not (root / "downloads").exists():
            _require_connection(name, stock)
        try:
            _download_and_prepare(builder)
        except Exception as error:  # whatever the network, the disk or the builder's own code raise
            if folder := find_prepared(name, root):
                return folder  # another process was first
            reason = (str(error).strip() or "no message").splitlines()[0]
            raise InputError(f"preparing {name}: {type(error).__name__}: {reason}") from error
    return pathlib.Path(builder.data_path)


def _require_connection(name: str, builder: Any) -> None:
    """Says at once that there is no network; TFDS finds out after minutes of trying again."""
    for url in list(builder.url_infos)[:1]:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
        except urllib.error.HTTPError:
            pass  # an answer of any kind
        except OSError as error:
            host = urllib.parse.urlsplit(url).netloc
            raise InputError(f"preparing {name}: no connection to {host}: {error}") from error


def _download_and_prepare(builder: Any) -> None:
    import tensorflow_datasets as tfds

    download_config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=download_config)


def _without_tensorflow(stock: Any, scratch: pathlib.Path) -> Any:
    """Returns a stock builder made to read its files without TensorFlow, or None for another kind.

    URLs, checksums, keys and features stay those of the stock builder: what is written is the same.
    """
    from tensorflow_datasets.image_classification import cifar, mnist

    if stock in (mnist.MNIST, mnist.FashionMNIST, mnist.KMNIST):
        return _mnist_builder(stock)
    return _cifar_builder(stock, scratch) if stock in (cifar.Cifar10, cifar.Cifar100) else None


def _mnist_builder(stock: Any) -> Any:
    class Mnist(stock, skip_registration=True):  # type: ignore[call-arg]
        name = stock.name

        def _split_generators(self, dl_manager: Any) -> Any:
            # The files stay compressed, and are read so.
            unpacked = types.SimpleNamespace(download_and_extract=dl_manager.download)
            return super()._split_generators(unpacked)

        def _generate_examples(
            self, num_examples: int, data_path: Any, label_path: Any
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            images, labels = _read_idx(data_path), _read_idx(label_path)
            if not len(images) == len(labels) == num_examples:
                raise ValueError(f"{data_path} holds {len(images)} images, not {num_examples}")
            for position, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield position, {"image": _png(image), "label": int(label)}

    return Mnist


def _cifar_builder(stock: Any, scratch: pathlib.Path) -> Any:
    class Cifar(stock, skip_registration=True):  # type: ignore[call-arg]
        name = stock.name

        def _split_generators(self, dl_manager: Any) -> Any:
            def download_and_extract(url: str) -> str:
                with tarfile.open(dl_manager.download(url)) as archive:
                    archive.extractall(scratch, filter="data")
                return str(scratch)

            unpacked = types.SimpleNamespace(download_and_extract=download_and_extract)
            return super()._split_generators(unpacked)

        def _generate_examples(
            self, split_prefix: str, filepaths: Iterable[str]
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            label_keys = self._cifar_info.label_keys
            files = [np.fromfile(path, np.uint8) for path in filepaths]
            rows = np.concatenate(files).reshape(-1, len(label_keys) + 3 * 32 * 32)
            for position, row in enumerate(rows):
                labels = {key: int(row[i]) for i, key in enumerate(label_keys)}
                image = row[len(label_keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
                name = f"{split_prefix}{position:05d}"
                yield position, {"id": name, "image": _png(image), **labels}

    return Cifar


def _read_idx(path: Any) -> np.ndarray:
    """Reads a gzipped file of the MNIST format: 4 bytes, the last one the rank; sizes; bytes."""
    with gzip.open(path) as file:
        raw = file.read()
    rank = raw[3]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(
        np.frombuffer(raw, ">u4", count=rank, offset=4)
    )


def _png(image: np.ndarray) -> bytes:
    """Encodes [height width] or [height width 3] uint8; TFDS itself would do it with TensorFlow."""
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, "png")
    return encoded.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepares the data set named on the command line; 0, or 2 with one line that says why not."""
    parser = argparse.ArgumentParser(prog="python -m memjax.data.prepare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", help="NAME[/CONFIG][:VERSION] of a TFDS builder")
    parser.add_argument("--data_dir", default="", help="default: ~/tensorflow_datasets")
    flags = parser.parse_args(arguments)
    name = ALIASES.get(flags.name, flags.name)
    try:
        folder = prepare(name, tfds_folder(flags.data_dir))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{name} is prepared in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
