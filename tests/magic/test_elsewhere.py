"""The magics where there is no page: nbclient, IPython in a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbclient
import nbconvert
import nbformat
from PIL import Image
from traitlets.config import Config

from tests.model_server import call
from tests.stock_kernels import socket_files

TURN, ANSWER = call("result = image_0.rotate(90, expand=True)", thought="Turn it."), "<answer>AB12</answer>"


def test_a_notebook_run_by_nbclient_keeps_a_static_rendering(
    serve: Callable[..., str], picture_file: Path, tmp_path: Path
) -> None:
    cells = [
        "%load_ext kernel_agent",
        f'%codevision "What?" {picture_file.name} --base-url {serve(TURN, ANSWER)}',
        "print(_.answer)",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    folder = {"metadata": {"path": str(tmp_path)}}
    with socket_files() as sockets:
        config = Config(KernelManager=sockets)
        nbclient.NotebookClient(notebook, timeout=180, resources=folder, config=config).execute()
    nbformat.validate(notebook)
    assert notebook.cells[2].outputs[0].text == "AB12\n"
    view, result = notebook.cells[1].outputs
    assert "application/vnd.jupyter.widget-view+json" in view.data
    assert "codevision-static" in result.data["text/html"]
    page, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    assert "AB12" in page
    assert "data:image/jpeg;base64" in page


def test_ipython_in_a_terminal_shows_progress_and_the_result(serve: Callable[..., str], tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "photo.png")
    lines = [
        "%load_ext kernel_agent",
        f't = %codevision "What?" photo.png --base-url {serve(TURN, ANSWER)}',
        "print('answer:', t.answer)",
        "t.insert_cells()",
    ]
    (tmp_path / "lines.ipy").write_text("\n".join(lines))
    env = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")}
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "lines.ipy"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert "answer: AB12" in done.stdout
    assert "No cells were inserted (this is no notebook)" in done.stdout
    assert "image_0.rotate(90" in done.stderr
