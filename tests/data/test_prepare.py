"""Preparing: the stock builders' own files, read without TensorFlow, from a local server."""

import functools
import gzip
import http.server
import importlib.util
import io
import tarfile
import threading
from typing import ClassVar

import numpy as np
import pytest

from memjax.data import prepare
from memjax.data.tfds_source import load_tfds
from memjax.errors import InputError


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path):
    """A folder, and the address under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def idx(array):
    """The MNIST file format, compressed."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def mnist(server, monkeypatch):
    """The stock builder with another address and 7 + 3 examples."""
    from tensorflow_datasets.image_classification import mnist as module

    folder, address = server
    random = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 7), ("t10k", 3)):
        images = random.integers(0, 256, (n, 28, 28), np.uint8)
        labels = random.integers(0, 10, n).astype(np.uint8)
        (folder / f"{split}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (folder / f"{split}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
        arrays[split] = (images, labels)
    monkeypatch.setattr(module.MNIST, "URL", address)
    monkeypatch.setattr(module.MNIST, "url_infos", {address: None})
    monkeypatch.setattr(module, "_TRAIN_EXAMPLES", 7)
    monkeypatch.setattr(module, "_TEST_EXAMPLES", 3)
    return arrays


def pairs(images, labels):
    return sorted(
        (image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    )


def test_mnist_is_prepared_from_its_own_files(mnist, tmp_path, capsys):
    root = tmp_path / "tfds"
    assert prepare.main(["mnist", f"--data_dir={root}"]) == 0
    assert f"mnist is prepared in {root / 'mnist' / '3.0.1'}" in capsys.readouterr().out
    dataset = load_tfds("mnist", str(root), str(tmp_path / "cache"))
    assert dataset.train.images.shape == (7, 28, 28, 1)
    assert pairs(dataset.train.images, dataset.train.labels) == pairs(*mnist["train"])
    assert pairs(dataset.validation.images, dataset.validation.labels) == pairs(*mnist["t10k"])


def test_preparing_again_does_nothing(mnist, tmp_path, server):
    root = tmp_path / "tfds"
    folder = prepare.prepare("mnist", root)
    for file in server[0].iterdir():
        file.unlink()
    assert prepare.prepare("mnist", root) == folder


def test_what_another_process_prepared_meanwhile_is_used(mnist, tmp_path, monkeypatch):
    download_and_prepare = prepare._download_and_prepare

    def come_second(builder):
        download_and_prepare(builder)
        raise OSError("Directory not empty")

    monkeypatch.setattr(prepare, "_download_and_prepare", come_second)
    folder = prepare.prepare("mnist", tmp_path / "tfds")
    assert folder == tmp_path / "tfds" / "mnist" / "3.0.1"


def test_a_damaged_download_is_one_line_and_leaves_nothing_prepared(
    mnist, tmp_path, server, capsys
):
    (server[0] / "train-images-idx3-ubyte.gz").write_bytes(b"<html>no such file</html>")
    assert prepare.main(["mnist", f"--data_dir={tmp_path / 'tfds'}"]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("preparing mnist: BadGzipFile")
    assert prepare.find_prepared("mnist", tmp_path / "tfds") is None


def test_cifar10_is_prepared_from_its_own_archive(server, tmp_path, monkeypatch):
    from tensorflow_datasets.image_classification import cifar

    folder, address = server
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (12, 32, 32, 3), np.uint8)
    labels = (np.arange(12) % 10).astype(np.uint8)
    records = np.concatenate(
        [labels[:, None], images.transpose(0, 3, 1, 2).reshape(12, -1)], axis=1
    )
    names = [f"kind {label}" for label in range(10)]
    files = {f"data_batch_{i + 1}.bin": records[2 * i : 2 * i + 2].tobytes() for i in range(5)}
    files |= {
        "test_batch.bin": records[10:].tobytes(),
        "batches.meta.txt": "\n".join(names).encode(),
    }
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    stock = cifar.Cifar10._cifar_info.fget

    def local_info(self):
        return stock(self)._replace(url=f"{address}cifar-10-binary.tar.gz")

    monkeypatch.setattr(cifar.Cifar10, "_cifar_info", property(local_info))
    monkeypatch.setattr(cifar.Cifar10, "url_infos", {address: None})
    prepare.prepare("cifar10", tmp_path / "tfds")
    dataset = load_tfds("cifar10", str(tmp_path / "tfds"), str(tmp_path / "cache"))
    assert pairs(dataset.train.images, dataset.train.labels) == pairs(images[:10], labels[:10])
    assert pairs(dataset.validation.images, dataset.validation.labels) == pairs(
        images[10:], labels[10:]
    )
    assert dataset.class_names == tuple(names)


def test_other_builders_need_tensorflow_and_say_so(tmp_path, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorflow" else found(name)
    )
    assert prepare.main(["svhn", f"--data_dir={tmp_path / 'tfds'}"]) == 2
    said = capsys.readouterr().err.strip()
    assert said == "preparing svhn_cropped needs TensorFlow: pip install 'memjax[prepare]'"
    assert list(tmp_path.iterdir()) == []


def test_other_builders_are_prepared_by_themselves_where_tensorflow_is(tmp_path, monkeypatch):
    class Stock:
        url_infos: ClassVar = {}
        data_path = str(tmp_path / "svhn_cropped" / "3.0.0")
        download_configs: ClassVar = []

        def download_and_prepare(self, download_config):
            self.download_configs.append(download_config)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(prepare, "find_builder", lambda name, root: Stock())
    folder = prepare.prepare("svhn_cropped", tmp_path)
    assert str(folder) == Stock.data_path
    assert [config.try_download_gcs for config in Stock.download_configs] == [False]


def test_no_network_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="preparing mnist: no connection to"):
        prepare.prepare("mnist", tmp_path / "tfds")
    assert list(tmp_path.iterdir()) == []
