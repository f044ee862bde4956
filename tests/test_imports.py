"""Data flow in one direction: no module, and no package, needs one that needs it."""

import collections

from tests import architecture


def test_every_import_goes_down_but_for_those_that_are_meant():
    assert architecture.problems() == []


def test_an_import_that_goes_up_and_a_circle_are_found():
    edges = collections.defaultdict(set, {"data": {"training"}, "training": {"data"}})
    assert architecture.upward(edges) == {("data", "training")}
    assert architecture.cycles(edges) == [{"data", "training"}]


def test_imports_inside_functions_count_for_the_layers_alone():
    assert "memjax.loading" not in architecture.imports("memjax")
    assert "memjax.loading" in architecture.imports("memjax", inside_functions=True)
