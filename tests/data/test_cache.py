"""The cache: whole or absent, safe for two at once, and never in the way."""

import logging
import threading

import numpy as np
import pytest

from memjax.data.cache import cache_folder, cached_arrays

NAMES = ("images", "names")
ARRAYS = {"images": np.arange(24, dtype=np.uint8).reshape(4, 6), "names": np.array(["a", "bc"])}


def never():
    raise AssertionError("made again")


def test_the_second_time_reads_what_the_first_wrote(tmp_path):
    first = cached_arrays(tmp_path / "a" / "b", NAMES, lambda: ARRAYS)
    second = cached_arrays(tmp_path / "a" / "b", NAMES, never)
    for name in NAMES:
        np.testing.assert_array_equal(first[name], ARRAYS[name])
        np.testing.assert_array_equal(second[name], ARRAYS[name])
        assert type(second[name]) is np.ndarray
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_failed_make_leaves_nothing(tmp_path):
    with pytest.raises(AssertionError):
        cached_arrays(tmp_path / "a", NAMES, never)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", [b"", b"\x93NUMPY\x01", None])
def test_a_damaged_folder_is_made_again(tmp_path, left, caplog):
    cached_arrays(tmp_path / "a", NAMES, lambda: ARRAYS)
    path = tmp_path / "a" / "images.npy"
    path.write_bytes(path.read_bytes()[:-1] if left is None else left)
    arrays = cached_arrays(tmp_path / "a", NAMES, lambda: ARRAYS)
    np.testing.assert_array_equal(arrays["images"], ARRAYS["images"])
    assert "damaged" in caplog.text
    cached_arrays(tmp_path / "a", NAMES, never)


def test_what_cannot_be_written_is_used_all_the_same(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        arrays = cached_arrays(tmp_path / "file" / "a", NAMES, lambda: ARRAYS)
    np.testing.assert_array_equal(arrays["images"], ARRAYS["images"])
    assert "not kept" in caplog.text


def test_several_first_starts_at_once_all_get_the_arrays(tmp_path):
    together = threading.Barrier(4)
    results = []

    def make():
        together.wait()
        return ARRAYS

    def start():
        results.append(cached_arrays(tmp_path / "a", NAMES, make))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for arrays in results:
        np.testing.assert_array_equal(arrays["images"], ARRAYS["images"])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_python_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        cached_arrays(tmp_path / "a", ("images",), lambda: {"images": np.array([{}])})
    assert list(tmp_path.iterdir()) == []


def test_the_folder_comes_from_the_config_then_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMJAX_CACHE", str(tmp_path / "env"))
    assert cache_folder("") == tmp_path / "env"
    assert cache_folder("/elsewhere").as_posix() == "/elsewhere"
    monkeypatch.delenv("MEMJAX_CACHE")
    assert cache_folder("").as_posix().endswith("/.cache/memjax")
