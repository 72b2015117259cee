"""What editors do to a notebook that they save is no alarm, with a seal and without."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from forging import record
from PIL import Image

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.keys import load_signer, make_key
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.seal import sign_file
from kernel_agent.blocking import run_blocking
from kernel_agent.trajectory import Trajectory


def _jupyterlab(run: Any) -> None:
    run["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    run["metadata"]["language_info"] = {"name": "python", "version": "3.12.1", "codemirror_mode": {"name": "ipython"}}
    run["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}}
    for cell in run["cells"]:
        cell["metadata"] |= {"editable": True, "slideshow": {"slide_type": ""}}


def _vscode(run: Any) -> None:
    run["metadata"]["orig_nbformat"] = 4
    run["nbformat_minor"] = 2
    for cell in run["cells"]:
        cell["metadata"]["vscode"] = {"languageId": "python"}
        cell.pop("id")


def _colab(run: Any) -> None:
    run["metadata"]["colab"] = {"provenance": [], "toc_visible": True}
    run["metadata"]["accelerator"] = "GPU"
    run["nbformat_minor"] = 0
    for number, cell in enumerate(run["cells"]):
        cell.pop("id")
        cell["metadata"] |= {"id": f"x{number}", "colab": {"base_uri": "https://localhost:8080/"}, "outputId": "1-2"}


def _colab_then_nbformat(run: Any) -> None:
    """It gives ids of its own to cells without."""
    _colab(run)
    run["nbformat_minor"] = 4
    newer = nbformat.v4.upgrade(nbformat.from_dict(run), from_version=4, from_minor=4)
    run.clear()
    run.update(json.loads(nbformat.writes(newer)))
    assert run["nbformat_minor"] == 5
    assert not any(re.match("step|turn|setup", cell["id"]) for cell in run["cells"])


def _nbformat(run: Any) -> None:
    again = json.loads(nbformat.writes(nbformat.from_dict(run)))
    run.clear()
    run.update(again)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("save", [_jupyterlab, _vscode, _colab, _colab_then_nbformat, _nbformat])
def test_a_notebook_saved_by_an_editor_loads_and_holds(
    save: Callable[[Any], None], sealed: bool, picture: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "run.ipynb"
    run_blocking(record(["image_0.rotate(90, expand=True)", "1 / 0"], picture, path=path))
    if sealed:
        make_key(tmp_path / "key.pem")
        sign_file(path, load_signer(tmp_path / "key.pem"))
    before = Trajectory.load(path)
    run = json.loads(path.read_text())
    save(run)
    path.write_text(json.dumps(run))
    assert Trajectory.load(path) == before
    report, _ = run_blocking(audit_file(path, RerunOptions(code=False)))
    assert report.findings == ()
    assert (report.seal is not None) == sealed
