"""What is to be cited, for each pass that there is."""

import re

import pytest

import memjax
from memjax.errors import InputError
from memjax.passes import PASSES


@pytest.mark.parametrize("name", [*PASSES, "audit", "reproduce"])
def test_every_pass_has_its_sources_as_whole_bibtex_entries(name):
    text = memjax.citation([name])
    keys = re.findall(r"^@\w+\{(\w+),$", text, re.M)
    assert keys[:2] == ["memjax", "jax2018"]
    assert len(keys) >= 3
    assert len(keys) == len(set(keys))
    assert text.count("{") == text.count("}")
    for entry in text.split("\n\n"):
        assert all(f"  {field} = {{" in entry for field in ("title", "author", "year"))


def test_a_work_that_two_passes_stand_on_is_named_once():
    assert memjax.citation("memorization,influence").count("feldman2020") == 1


def test_an_unknown_name_is_one_line_with_the_nearest():
    with pytest.raises(
        InputError, match=r"passes='memorisation': did you mean memorization\? allowed: gradients, "
    ):
        memjax.citation("memorisation")
