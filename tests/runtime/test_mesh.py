"""The mesh has the devices that were asked for, or says what is allowed."""

import pytest

from memjax.errors import InputError
from memjax.runtime.mesh import make_mesh


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
