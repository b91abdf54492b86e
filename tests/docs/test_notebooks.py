"""The notebooks of docs/ run from the first cell to the last, in a real kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore")  # of the client's own libraries
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs_and_shows_what_it_should(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook: Any = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)  # type: ignore[no-untyped-call]
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [
        (kind, text)
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind, text in output.get("data", {}).items()
    ]
    html = "".join(text for kind, text in outputs if kind == "text/html")
    assert "<svg" in html, "a sweep shows its figure"
    assert "smooth_hinge" in html, "the loss of a cell is compared"
    assert any(kind == "image/png" for kind, _ in outputs), "the plot is shown"
    # Of the second sweep's six trials the three of dpo are taken from the first one's folder.
    assert ("text/plain", "(3, 6)") in outputs


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS
