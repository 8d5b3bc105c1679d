"""The notebooks of examples/ run from start to end, as they are committed: without outputs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    table = next(cell for cell in notebook.cells if "tardiff.evaluate" in cell.source and cell.cell_type == "code")
    assert "TSRTR" in table.outputs[-1]["data"]["text/plain"]
    printed = notebook.cells[-1].outputs[0]["data"]["text/plain"]
    assert (tmp_path / "quickstart/runs/hospital/report/report.html").is_file() and "report.html" in printed
    warnings = [output["text"] for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
                if output.get("name") == "stderr"]
    assert not warnings, os.linesep.join(warnings)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_is_committed_without_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)
