"""The notebook runs from its first cell to its last, and shows pictures and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ipykernel")
pytest.importorskip("ipywidgets")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "search_in_a_notebook.ipynb"


def shown(cell: Any, kind: str) -> list[str]:
    """What a cell shows in a format, such as ``text/html``."""
    outputs = cell["outputs"] if cell.cell_type == "code" else []
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


@pytest.mark.timeout(600)
def test_the_notebook_runs(tmp_path: Path, monkeypatch) -> None:
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it is kept without results
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=500, resources=resources).execute()
    html = "".join(text for cell in notebook.cells for text in shown(cell, "text/html"))
    assert "12 architectures" in html  # the result
    assert "27 architectures" in html  # the space
    assert html.count("cross_entropy") >= 2  # the result and its data frame
    assert "weights.safetensors" in html  # the retrained network
    assert sum(len(shown(cell, "image/png")) for cell in notebook.cells) >= 3
    widgets = [shown(cell, "application/vnd.jupyter.widget-view+json") for cell in notebook.cells]
    assert any(widgets)  # bars of progress, not lines
    last = shown(notebook.cells[-1], "text/plain")
    assert last and last[0].count("(") == 3  # three classes with their probabilities
