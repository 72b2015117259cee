"""Files made to harm or to show other things than what is audited: notebooks, bundles, folders, things that are no files."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from forging import record
from PIL import Image, UnidentifiedImageError

from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.finding import Report
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.blocking import run_blocking
from kernel_agent.errors import TrajectoryError
from kernel_agent.trajectory import Trajectory

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n8 8 scale\n"


@pytest.fixture
def notebook(picture: Image.Image, tmp_path: Path) -> Path:
    run_blocking(record(["print(5)\nimage_0.rotate(90, expand=True)", "image_1"], picture, path=tmp_path / "run.ipynb"))
    return tmp_path / "run.ipynb"


def _audit(path: Path) -> Report:
    return run_blocking(audit_file(path, RerunOptions(code=False)))[0]


def _edited(path: Path, change: Callable[[Any], object]) -> Path:
    run = orjson.loads(path.read_bytes())
    change(run)
    path.write_text(json.dumps(run))
    return path


def _cell(run: Any, name: str) -> Any:
    return next(cell for cell in run["cells"] if cell["id"] == name)


def _put_in(path: Path, data: bytes, *, hashed: bool) -> None:
    """These bytes as the picture of the first step; with their hash throughout the record, or not."""
    run = orjson.loads(path.read_bytes())
    cell = _cell(run, "step-0")
    cell["outputs"][-1]["data"]["image/png"] = base64.b64encode(data).decode()
    old = cell["metadata"]["codevision"]["record"]["images"][0]["data_sha256"]
    text = json.dumps(run)
    path.write_text(text.replace(old, hashlib.sha256(data).hexdigest()) if hashed else text)


@pytest.mark.parametrize("hashed", [False, True])
def test_no_picture_of_a_file_starts_a_program(
    hashed: bool, notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghostscript, ran = tmp_path / "bin" / "gs", tmp_path / "ran"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {ran}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}{os.pathsep}{os.environ['PATH']}")
    _put_in(notebook, EPS, hashed=hashed)
    assert _audit(notebook).exit_code == 1
    if hashed:
        run = Trajectory.load(notebook)
        assert "image_1" in run._repr_html_()
        with pytest.raises(UnidentifiedImageError):
            run.images[1].to_pil()
    else:
        with pytest.raises(TrajectoryError, match="lacks the bytes"):
            Trajectory.load(notebook)
    assert not ran.exists()
