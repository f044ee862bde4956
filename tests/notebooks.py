"""Runs a notebook as its reader does, on a folder of the test's own."""

import pathlib

import nbformat
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"


def executed(path, workdir, monkeypatch):
    """Returns the notebook with the outputs of all its cells."""
    monkeypatch.setenv("MEMJAX_NOTEBOOK_WORKDIR", str(workdir))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return notebook


def outputs_of(notebook):
    """Returns the outputs of all cells, in order."""
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed_by(notebook):
    """Returns all that the cells printed."""
    return "".join(o["text"] for o in outputs_of(notebook) if o.output_type == "stream")
