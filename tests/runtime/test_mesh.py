"""The mesh has the devices that were asked for, or says what is allowed."""

import jax
import numpy as np
import pytest

from memjax.errors import InputError
from memjax.runtime.mesh import make_mesh, place_images, splits_images, take_rows


@pytest.mark.parametrize(
    ("members", "devices", "shape"),
    [(1, 0, (1, 4)), (4, 0, (4, 1)), (6, 4, (2, 2)), (3, 2, (1, 2))],
)
def test_members_get_as_many_devices_as_divide_them(members, devices, shape):
    mesh = make_mesh(members, devices)
    assert (mesh.shape["member"], mesh.shape["data"]) == shape


@pytest.mark.parametrize("arguments", [(1, 5, 0), (4, 4, 3), (3, 4, 2)])
def test_sizes_that_do_not_fit_are_refused(arguments):
    with pytest.raises(InputError, match="must"):
        make_mesh(*arguments)


@pytest.mark.parametrize(
    ("placement", "num_bytes", "expected"),
    [
        ("auto", 1, False),
        ("auto", 10**15, True),
        ("replicated", 10**15, False),
        ("sharded", 1, True),
    ],
)
def test_images_are_split_when_asked_or_too_large(placement, num_bytes, expected):
    assert splits_images(make_mesh(1, 4), num_bytes, placement, 0.25) == expected
    # Where no devices share a batch, there is nothing to split over.
    assert not splits_images(make_mesh(4, 4), num_bytes, placement, 0.25)


@pytest.mark.parametrize("num_rows", [8, 9, 3])
def test_a_device_holds_its_share_of_split_images(num_rows):
    images = np.arange(1, 2 * num_rows + 1, dtype=np.uint8).reshape(num_rows, 2)
    mesh = make_mesh(1, 4)
    split = place_images(mesh, images, is_split=True)
    share = -(-num_rows // 4)
    assert {shard.data.shape for shard in split.addressable_shards} == {(share, 2)}
    np.testing.assert_array_equal(np.asarray(split)[:num_rows], images)
    assert not np.asarray(split)[num_rows:].any()
    whole = place_images(mesh, images, is_split=False)
    assert all(np.array_equal(shard.data, images) for shard in whole.addressable_shards)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int32])
@pytest.mark.parametrize("shape", [(1, 4), (2, 2)])
def test_taken_rows_are_the_rows_wherever_they_lie(shape, dtype):
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 2)).astype(dtype)
    rows = np.array([3, 49, 12, 0, 7, 7, 20, 31], np.int32)
    mesh = make_mesh(shape[0], 4)
    split = place_images(mesh, images, is_split=True)
    taken = jax.jit(lambda images, rows: take_rows(mesh, images, rows))(split, rows)
    np.testing.assert_array_equal(np.asarray(taken), images[rows])
    assert {shard.data.shape[0] for shard in taken.addressable_shards} == {8 // shape[1]}
