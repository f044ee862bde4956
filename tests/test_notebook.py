"""The notebook runs from its first cell to its last, on a folder of the test's own."""

import importlib.metadata
import pathlib
import types

import nbformat
import pytest

from tests import notebooks

pytestmark = pytest.mark.campaign

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = notebooks.FOLDER / "per_example_jacobians.ipynb"


def outputs(notebook, kind):
    found = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    return [output["data"][kind] for output in found if kind in output.get("data", {})]


def test_every_cell_runs_and_draws(tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    notebook = notebooks.executed(NOTEBOOK, workdir, monkeypatch)
    assert (workdir / "summary.json").exists()
    assert (workdir / "analysis" / "sensitivity.parquet").exists()
    assert len(outputs(notebook, "image/png")) == 7
    assert sum(map(len, outputs(notebook, "image/png"))) < 500_000
    printed = "".join(
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stdout"
    )
    assert "(1000, 10, 8, 8, 1)" in printed
    assert "distance of the updates run again" in printed


def test_it_is_committed_without_outputs_and_opens_in_colab():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert "colab.research.google.com" in notebook.cells[0].source
    assert NOTEBOOK.name in notebook.cells[0].source
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            assert notebook.cells[place - 1].cell_type == "markdown"


@pytest.mark.parametrize(
    ("installed", "extra"),
    [
        ([], ""),
        (["jax", "jaxlib"], ""),
        (["jax", "jax-cuda12-plugin", "libtpu"], "cuda12"),
        (["jax", "JAX-CUDA13-plugin"], "cuda13"),
        (["jax", "libtpu"], "tpu"),
    ],
)
def test_the_install_cell_keeps_jax_and_its_plugin_together(installed, extra, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = next(cell for cell in notebook.cells if "%pip install" in cell.source).source
    python, _, pip = cell.partition("if importlib.util.find_spec")
    found = [types.SimpleNamespace(name=name) for name in installed]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: found)
    names = {}
    exec(python, names)
    assert names["requirement"]().startswith(f"memjax[{extra}] @ git+https://")
    # Nothing is pinned, and no --upgrade asks for what is new enough already.
    assert "--upgrade-strategy only-if-needed" in pip
    assert "--upgrade " not in pip
    assert "==" not in cell


def test_every_accelerator_has_an_extra_that_asks_for_jaxs_own():
    text = (ROOT / "setup.py").read_text()
    for extra in ("cuda12", "cuda13", "tpu"):
        assert f'"{extra}": ["jax[{extra}]>=0.10"]' in text
    assert '"jax>=0.10"' in text
