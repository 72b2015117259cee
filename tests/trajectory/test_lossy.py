"""A notebook whose pictures were kept with loss says so, comes back equal, and runs again against the kernel's pixels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from kernel_agent import Agent, Task
from kernel_agent.api import continue_trajectory
from kernel_agent.models import ScriptedModel
from kernel_agent.session.images import pixel_sha256
from kernel_agent.trajectory import Trajectory
from kernel_agent.types import ImageEncoding
from tests.stock_kernels import options

LOSSY = ImageEncoding(notebook="jpeg", view="jpeg")
CROP = "image_0.crop((10, 5, 90, 65)).rotate(7)"
BIG = "image_0.resize((1600, 1200), Image.Resampling.BICUBIC)"


def call(code: str) -> str:
    arguments = {"code": code, "description": "look", "image_index": 0}
    return f"<tool_call>{json.dumps({'name': 'code_image_tool', 'arguments': arguments})}</tool_call>"


def photo() -> Image.Image:
    return Image.effect_noise((120, 90), 60).convert("RGB")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = ScriptedModel([call(CROP), call(BIG), "<answer>7</answer>"])
    Agent(model, encoding=LOSSY).run(Task(question="?", images=(photo(),)), save_to=tmp_path / "run.ipynb")
    return tmp_path / "run.ipynb"


def outputs(path: Path) -> list[nbformat.NotebookNode]:
    cells = nbformat.read(path, as_version=4).cells
    return [
        output for cell in cells if cell.id.startswith("step") and cell.cell_type == "code" for output in cell.outputs
    ]


def test_loss_is_stated_and_comes_back(saved: Path) -> None:
    run = Trajectory.load(saved)
    assert run.header["image_encoding"] == {"notebook": "jpeg", "view": "jpeg"}
    assert [(image.lossless, image.mime) for image in run.images] == [
        (True, "image/png"), (False, "image/jpeg"), (False, "image/jpeg"),
    ]  # fmt: skip
    assert run.images[1].view is run.images[1].data
    assert (run.images[2].view_mime, run.images[2].view_size != run.images[2].size) == ("image/jpeg", True)
    crop = photo_of(run).crop((10, 5, 90, 65)).rotate(7)
    assert run.images[1].pixel_sha256 == pixel_sha256(crop)
    assert run.images[1].to_pil().tobytes() != crop.tobytes()
    for output in outputs(saved):
        assert "image/jpeg" in output.data
        assert output.metadata["codevision"]["lossless"] is False
        assert "lossy" in output.data["text/plain"]
    again = run.save(saved.with_name("again.ipynb"))
    assert Trajectory.load(again) == run


def photo_of(run: Trajectory) -> Image.Image:
    return run.images[0].to_pil()


def test_a_lossless_run_says_nothing_of_loss(tmp_path: Path) -> None:
    model = ScriptedModel([call(CROP), "<answer>7</answer>"])
    Agent(model).run(Task(question="?", images=(photo(),)), save_to=tmp_path / "run.ipynb")
    assert '"lossless"' not in (tmp_path / "run.ipynb").read_text()
    assert Trajectory.load(tmp_path / "run.ipynb").images[1].lossless


def test_run_again_by_nbconvert_it_has_the_kernels_pixels_and_loads(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = saved.parent / "jupyter" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(spec | {"display_name": "Python 3"}))
    monkeypatch.setenv("JUPYTER_PATH", str(saved.parent / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(saved.parent / "ipython"))
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", saved.name]
    before = Trajectory.load(saved)
    done = subprocess.run(
        [*command, *options(saved.parent)], cwd=saved.parent, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert all("image/png" in output.data for output in outputs(saved))
    run = Trajectory.load(saved)
    assert [image.pixel_sha256 for image in run.images] == [image.pixel_sha256 for image in before.images]
    for image in run.images[1:]:  # the exact pixels are back
        assert (image.lossless, image.mime) == (True, "image/png")
        assert pixel_sha256(image.to_pil()) == image.pixel_sha256
    assert run.images[1].view_mime == "image/png"
    assert run.images[2].view_mime == "image/jpeg"


def test_it_goes_on_with_the_exact_pixels_and_the_same_encoding(saved: Path) -> None:
    run = Trajectory.load(saved)
    model = ScriptedModel([call("image_1"), "<answer>8</answer>"])
    more = continue_trajectory(run, "And now?", model=model)
    assert more.images[3].pixel_sha256 == more.images[1].pixel_sha256
    assert not more.images[3].lossless
    assert not [event for event in more.events if event.kind in ("replay_differs", "restored_with_loss")]
