"""A short version of the campaign of tests/faults.py; docs/reliability.md has a longer one."""

import pytest

from tests import damage, faults

# Of a checkpoint with a damaged file orbax leaves the reads of the others behind, for the garbage
# collector to find at any time.
pytestmark = [
    pytest.mark.campaign,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_an_ensemble_that_is_disturbed_ends_as_if_it_had_not_been():
    assert faults.campaign(rounds=1, seed=1, names=["ensemble"]) == 0


@pytest.mark.parametrize(("kind", "every"), [("run", 19), ("sweep", 37)])
def test_what_is_damaged_is_mended_or_said_and_never_deleted(kind, every):
    """Some of the damages that `python -m tests.damage` does."""
    assert damage.campaign(every=every, kinds=[kind]) == 0
