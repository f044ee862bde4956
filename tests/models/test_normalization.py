"""Groups of GroupNorm; BatchNorm is tested in the networks that have it."""

import hypothesis.strategies as st
from hypothesis import given

from memjax.models.normalization import num_groups


@given(st.integers(1, 2048))
def test_groups_divide_the_channels_and_have_two_of_them_where_there_are_two(channels):
    groups = num_groups(channels)
    assert channels % groups == 0
    assert groups <= 32
    assert channels // groups >= min(2, channels)


def test_usual_widths_have_the_groups_of_the_paper():
    assert [num_groups(channels) for channels in (64, 128, 256, 512, 640)] == [32] * 5
