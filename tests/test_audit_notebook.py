"""The audit notebook runs to its last cell, and the cleaned copy has fewer wrong labels."""

import re

import nbformat
import pytest

from tests import notebooks

pytestmark = pytest.mark.campaign

NOTEBOOK = notebooks.FOLDER / "audit.ipynb"


def test_every_cell_runs_and_the_cleaned_copy_has_fewer_wrong_labels(tmp_path, monkeypatch):
    notebook = notebooks.executed(NOTEBOOK, tmp_path / "run", monkeypatch)
    outputs, printed = notebooks.outputs_of(notebook), notebooks.printed_by(notebook)
    assert "estimated: 603 examples, 12 networks" in printed
    for issue in ("wrong label", "broken file", "blank", "odd size", "duplicate"):
        assert re.search(rf"^{issue} +\d+$", printed, re.MULTILINE), issue
    shares = re.search(r"wrong labels: (.*)% before, (.*)% after", printed)
    assert float(shares[2]) < 0.5 * float(shares[1])
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 1


def test_it_is_committed_without_outputs_and_opens_in_colab():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert "colab.research.google.com" in notebook.cells[0].source
    assert NOTEBOOK.name in notebook.cells[0].source
