"""Notebooks run from top to bottom, agree with their text twin, and hold no outputs."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from shared.registry import TASKS

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
MODELS = FOLDER.parent / "data" / "models"
NOTEBOOK = pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)


def test_every_notebook_has_its_twin():
    """In Markdown: a ``coronary.py`` in the kernel's folder would be imported in place of the package."""
    names = {path.stem for path in FOLDER.glob("*.ipynb")}
    assert names
    assert names == {path.stem for path in FOLDER.glob("*.md")}


@NOTEBOOK
def test_the_pair_agrees(path):
    """Else: jupytext --sync notebooks/NAME.ipynb."""
    pair = [jupytext.read(path), jupytext.read(path.with_suffix(".md"))]
    notebook, text = ([(cell.cell_type, cell.source) for cell in one.cells] for one in pair)
    assert notebook == text


@NOTEBOOK
def test_outputs_are_stripped(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@NOTEBOOK
def test_it_holds_no_logic(path):
    for cell in nbformat.read(path, as_version=4).cells:
        assert not any(line.startswith(("def ", "class ")) for line in cell.source.splitlines())


@NOTEBOOK
def test_it_runs_from_top_to_bottom(path, monkeypatch):
    if not any((MODELS / TASKS[path.stem].models[precision]).exists() for precision in ("fp32", "int8")):
        pytest.skip(f"no model of {path.stem} is shipped yet")
    monkeypatch.delenv("MPLBACKEND", raising=False)  # Streamlit sets it, and the kernel would draw nothing
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    ).execute()
    pictures = [out for cell in notebook.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(pictures) >= 4
