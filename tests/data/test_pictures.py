"""Encoded images of all kinds to one array, broken ones left out and named."""

import numpy as np
import pytest
from PIL import Image

from memjax.data import pictures
from memjax.data.pictures import Picture, decode, decode_cached
from memjax.errors import InputError
from tests.data.pictures import encoded, noise


def listed(*sources):
    return [Picture(f"p{place}", source) for place, source in enumerate(sources)]


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_lossless_pictures_come_back_to_the_pixel(kind, shape, tmp_path):
    pixels = [noise(seed, *shape) for seed in range(3)]
    (tmp_path / "file").write_bytes(encoded(pixels[2], kind))
    found = decode(listed(*(encoded(p, kind) for p in pixels[:2]), tmp_path / "file"), 0, "x")
    expected = np.stack(pixels).reshape(3, 5, 7, -1)
    np.testing.assert_array_equal(found.images, expected)
    assert (found.images.dtype, found.kept.tolist(), found.notes) == (np.uint8, [0, 1, 2], ())


def test_grey_and_colours_mixed_are_colours_and_said():
    grey, colours = noise(0, 4, 4), noise(1, 4, 4, 3)
    found = decode(listed(encoded(grey), encoded(colours)), 0, "x")
    np.testing.assert_array_equal(found.images[0], np.repeat(grey[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(found.images[1], colours)
    assert found.notes == ("images grey, read as RGB like the 1 in colours: 1 of 2",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(orientation):
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 250  # a bright corner, and blocks that JPEG keeps
    flips = {  # how a camera stores an upright picture, by orientation
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }  # fmt: skip
    stored = encoded(np.ascontiguousarray(flips[orientation]), "JPEG", orientation=orientation)
    found = decode(listed(stored, encoded(upright)), 0, "x")
    assert found.images.shape == (2, 16, 24, 1)
    assert abs(found.images[0].astype(int) - found.images[1]).max() < 10
    assert bool(found.notes) == (orientation > 1)


def test_16_bits_keep_their_range_beside_8():
    deep, flat = noise(0, 4, 4, dtype=np.uint16), noise(1, 4, 4)
    found = decode(listed(encoded(deep), encoded(flat)), 0, "x")
    assert found.images.dtype == np.float32
    np.testing.assert_allclose(found.images[0, :, :, 0], deep / 65535, rtol=1e-6)
    np.testing.assert_allclose(found.images[1, :, :, 0], flat / 255, rtol=1e-6)
    assert "1 of 2" in found.notes[0]
    colours = decode(listed(encoded(deep), encoded(noise(1, 4, 4, 3))), 0, "x")
    np.testing.assert_allclose(colours.images[0], np.dstack([deep] * 3) / 65535, rtol=1e-6)


def test_palettes_transparency_and_bits_are_read_as_what_they_show():
    red = np.zeros((4, 4, 4), np.uint8)
    red[..., 0] = red[..., 3] = 255
    found = decode(listed(encoded(red), encoded(red[..., :3], mode="P")), 0, "x")
    np.testing.assert_array_equal(found.images, np.broadcast_to(red[..., :3], (2, 4, 4, 3)))
    assert "alpha channel" in found.notes[0]
    bits = decode(listed(encoded(noise(0, 4, 4) > 99)), 0, "x").images
    assert set(np.unique(bits)) == {0, 255}


def test_other_sizes_need_a_size_and_get_it():
    sources = listed(encoded(noise(0, 4, 6)), encoded(noise(1, 9, 8)), encoded(noise(2, 5, 5)))
    with pytest.raises(InputError) as raised:
        decode(sources, 0, "here")
    said = str(raised.value)
    assert said.startswith("here: images of 3 sizes, among them 6 x 4 (p0) and 8 x 9 (p1)")
    assert "config.dataset.image_size=SIZE" in said
    found = decode(sources, 5, "here")
    assert found.images.shape == (3, 5, 5, 1)
    assert found.notes == ("images resized to 5 x 5: 2 of 3",)
    np.testing.assert_array_equal(found.images[2, :, :, 0], noise(2, 5, 5))
    with pytest.raises(InputError, match=r"2 sizes, among them 4 x 6 \(p0\) and 6 x 4 \(p1\)"):
        decode(listed(encoded(noise(0, 6, 4)), encoded(noise(0, 4, 6))), 0, "x")


def _damaged():
    whole = encoded(noise(0, 40, 40, 3), "JPEG")
    png = encoded(noise(0, 40, 40, 3))
    return {
        "cut JPEG": whole[:600],
        "cut PNG": png[:-40],
        "cut header": png[:20],
        "other bytes inside": png[:60] + bytes(60) + png[120:],
        "no image": b"<html>404</html>",
        "empty": b"",
        "a GIF": encoded(noise(0, 40, 40), "GIF"),
        "floats": encoded(noise(0, 40, 40).astype(np.float32), "TIFF"),
        "missing": "missing",
    }


@pytest.mark.parametrize("name", _damaged())
def test_what_is_broken_is_left_out_and_named(name):
    good = encoded(noise(1, 40, 40, 3))
    found = decode(listed(good, _damaged()[name], good), 0, "x")
    assert found.kept.tolist() == [0, 2]
    assert len(found.images) == 2
    assert found.notes[0].startswith(
        "warning: 1 of 3 images are left out, for they are broken: p1 ("
    )
    with pytest.raises(InputError, match=r"x: none of 1 images could be read: p0 \(") as raised:
        decode(listed(_damaged()[name]), 0, "x")
    assert "\n" not in str(raised.value)


def test_missing_files_and_forbidden_ones_are_broken(tmp_path):
    found = decode(listed(encoded(noise(0, 4, 4)), tmp_path / "none.png", tmp_path), 0, "x")
    assert "p1 (No such file or directory), p2 (Is a directory)" in found.notes[0]


def test_other_bytes_of_equal_length_are_decoded_anew(tmp_path):
    for seed in (0, 1):
        found = decode_cached(listed(encoded(noise(seed, 4, 4), "BMP")), 0, "x", str(tmp_path))
        np.testing.assert_array_equal(found.images[0, :, :, 0], noise(seed, 4, 4))


def test_image_bombs_are_left_out_unread(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    small, large, huge = (encoded(noise(0, size, size)) for size in (10, 12, 30))
    found = decode(listed(small, large, huge), 0, "x")
    assert found.kept.tolist() == [0]
    assert "p1 (more than 100 pixels), p2 (more than 100 pixels)" in found.notes[0]


def test_many_broken_ones_are_counted_and_a_few_shown():
    found = decode(listed(encoded(noise(0, 4, 4)), *[b""] * 30), 0, "x")
    assert "30 of 31" in found.notes[0]
    assert "p5 (no image) and 25 more" in found.notes[0]


def test_nothing_at_all_is_refused():
    with pytest.raises(InputError, match="x: there are no images"):
        decode([], 0, "x")


def test_the_cache_holds_until_a_file_or_the_size_changes(tmp_path, monkeypatch):
    file, cache = tmp_path / "a.png", str(tmp_path / "cache")
    file.write_bytes(encoded(noise(0, 6, 6)))
    both = listed(file, b"broken")
    first = decode_cached(both, 0, "x", cache)
    calls = []

    def counting(*arguments):
        calls.append(arguments)
        return decode(*arguments)

    monkeypatch.setattr(pictures, "decode", counting)
    again = decode_cached(both, 0, "x", cache)
    assert not calls
    np.testing.assert_array_equal(again.images, first.images)
    assert (again.kept.tolist(), again.notes) == (first.kept.tolist(), first.notes)
    assert decode_cached(both, 3, "x", cache).images.shape == (1, 3, 3, 1)
    file.write_bytes(encoded(noise(1, 6, 6)))  # as many bytes, but of another time
    np.testing.assert_array_equal(
        decode_cached(both, 0, "x", cache).images[0, :, :, 0], noise(1, 6, 6)
    )
    assert len(calls) == 2
    decode_cached(both, 0, "x", cache, facts=["other table"])
    decode_cached(both, 0, "x", cache, facts=None)
    assert len(calls) == 4
