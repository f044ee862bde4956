"""The attribution notebook runs to its last cell, and its prediction is confirmed."""

import re

import nbformat
import pytest

from tests import notebooks

pytestmark = pytest.mark.campaign

NOTEBOOK = notebooks.FOLDER / "attribution.ipynb"


def test_every_cell_runs_and_the_removal_goes_as_predicted(tmp_path, monkeypatch):
    notebook = notebooks.executed(NOTEBOOK, tmp_path / "run", monkeypatch)
    outputs, printed = notebooks.outputs_of(notebook), notebooks.printed_by(notebook)
    assert "predictive: the attribution predicts removals" in printed
    correlation = re.search(r"correlation of predicted and real changes: (.*)", printed)
    assert float(correlation[1]) > 0.8
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 2


def test_it_is_committed_without_outputs_and_opens_in_colab():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert "colab.research.google.com" in notebook.cells[0].source
    assert NOTEBOOK.name in notebook.cells[0].source
