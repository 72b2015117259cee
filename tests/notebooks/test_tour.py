"""The tour runs as it is, and says what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbclient
import nbformat
import pytest
from traitlets.config import Config

from tests.stock_kernels import socket_files

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.mark.slow
def test_the_tour_runs_and_gives_what_it_shows(tmp_path: Path) -> None:
    shutil.copy(NOTEBOOKS / "label.png", tmp_path)
    notebook = nbformat.read(NOTEBOOKS / "tour.ipynb", as_version=4)
    shown = texts(notebook)
    folder = {"metadata": {"path": str(tmp_path)}}
    with socket_files() as sockets:
        config = Config(KernelManager=sockets)
        nbclient.NotebookClient(notebook, timeout=600, resources=folder, config=config).execute()
    assert texts(notebook) == shown
    assert "('TC465J', True)" in shown


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """The results of the cells as text, without what is the machine's: isolation level, hashes of encoded pictures."""
    results = [
        output.data["text/plain"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result" and "image/png" not in output.data
    ]
    return [text.rsplit(",", 1)[0] if "StopReason" in text else text for text in results]
