"""A short version of the campaign of tests/faults.py; docs/reliability.md has a longer one."""

import pytest

from tests import faults


@pytest.mark.parametrize("name", ["ensemble", "damage"])
def test_what_is_disturbed_ends_as_if_it_had_not_been(name):
    assert faults.campaign(rounds=2, seed=1, names=[name]) == 0
