"""The attribution notebook runs to its last cell, and its prediction is confirmed."""

import pathlib
import re

import nbformat
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "attribution.ipynb"


def test_every_cell_runs_and_the_removal_goes_as_predicted(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMJAX_NOTEBOOK_WORKDIR", str(tmp_path / "run"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    printed = "".join(o["text"] for o in outputs if o.output_type == "stream")
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
