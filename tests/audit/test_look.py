"""How a record is shown has a number: who changes the look raises it, and what another look wrote is no forgery."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from forging import record
from PIL import Image

from kernel_agent.audit import bundle as bundles
from kernel_agent.audit.audit import audit_file
from kernel_agent.audit.finding import Report
from kernel_agent.audit.rerun_setup import RerunOptions
from kernel_agent.audit.shown import _visible
from kernel_agent.blocking import run_blocking
from kernel_agent.trajectory import Trajectory, export
from kernel_agent.trajectory.cells import LOOK, cells_since
from kernel_agent.trajectory.state import Mark, State
from kernel_agent.types import Event, KernelImage, Observation, RunCode, Status, Step, StopReason, TextPart
from tests.trajectory.making import crop_run, kernel_image, shown_step

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGPgAwAABwAGJnL7ngAAAABJRU5ErkJggg==")


def _same_bytes(image: KernelImage) -> KernelImage:
    """The image with bytes that no version of Pillow has a hand in."""
    return replace(image, data=PIXEL, view=PIXEL, pixel_sha256="0" * 64)


def _everything() -> Trajectory:
    """A run of which every cell is known to the byte: all that a step can be, two turns, an end without an answer."""
    old = crop_run()._state
    images = [_same_bytes(image) for _, image in sorted(old.images.items())]
    state = State(
        run_id="0" * 32, header={**old.header, "names": {"pattern": "image_{i}", "first": 1, "saved_files": True}}
    )
    steps = [
        replace(step, cell=step.cell and replace(step.cell, images=tuple(images[i.index] for i in step.cell.images)), new_messages=(), observation=None if step.index != 2 else step.observation)
        for step in old.steps
    ]  # fmt: skip
    for image in images[:2]:
        state.images.add(image)
    run = Trajectory(state)
    run.begin_turn("What is written\non the **label**?")
    for step in steps:
        run.add_step(step)
    run.end_turn("A7 <b>", StopReason.ANSWER)
    run.begin_turn("and then?")
    lossy = replace(_same_bytes(kernel_image(4, Image.new("RGB", (1, 1)), parent=2)), lossless=False, mime="image/jpeg")
    strange = replace(_same_bytes(kernel_image(5, Image.new("RGB", (1, 1)))), mime="image/svg+xml")
    for index, image in ((6, lossy), (7, strange)):
        step = shown_step(index, image.index, "x\n" * 11_000 if index == 7 else "y", Image.new("RGB", (1, 1)))
        assert step.cell is not None
        cell = replace(step.cell, images=(image,), status=Status.KILLED if index == 7 else Status.OK)
        run.add_step(replace(step, cell=cell, observation=None, events=(Event(kind="restart", time=1.0),)))
    refused = Observation(status=Status.REFUSED, content=(TextPart(text="no"),))
    code = RunCode(code="rm", description="ends it")
    run.add_step(
        Step(
            index=8,
            new_messages=(),
            completion=steps[0].completion,
            thought="t " * 11_000,
            action=code,
            observation=refused,
        )
    )
    run.end_turn(None, StopReason.STEP_LIMIT)
    state.turns[:] = [replace(turn, started=1e9, seconds=3.0) for turn in state.turns]
    return run


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def test_a_change_of_the_look_needs_another_number() -> None:
    """Fails where the cells look otherwise than LOOK says: raise trajectory.cells.LOOK, then write the new digest here."""
    run = _everything()
    cells = [*cells_since(run._state, Mark()), export.self_contained(run)["cells"][1]]
    assert (LOOK, _digest([[cell["id"], dict(_visible(cell))] for cell in cells])) == (1, "495e95ae22a6c698")


def test_a_change_of_what_a_bundle_says_needs_another_number() -> None:
    """Fails where a file of a bundle is another than LAYOUT says: raise bundle.LAYOUT, then write the new digest here."""
    held = {name: hashlib.sha256(data).hexdigest() for name, data in bundles.members(_everything()).items()}
    assert (bundles.LAYOUT, _digest(held)) == (2, "7058308853f5248e")


@pytest.fixture
def notebook(picture: Image.Image, tmp_path: Path) -> Path:
    run_blocking(record(["image_0.rotate(90, expand=True)", "1 / 0"], picture, path=tmp_path / "run.ipynb"))
    return tmp_path / "run.ipynb"


def _audit(path: Path) -> Report:
    return run_blocking(audit_file(path, RerunOptions(code=False)))[0]


def _shown(cell: dict[str, Any]) -> None:
    cell["source"] = ["## Another look\n", *cell["source"]]


def _gone(run: dict[str, Any]) -> None:
    run["cells"] = [cell for cell in run["cells"] if cell["id"] != "step-1-thought"]


@pytest.mark.parametrize(("look", "code"), [(LOOK, 1), (LOOK + 1, 2), (0, 2)])
@pytest.mark.parametrize("change", [lambda run: _shown(run["cells"][2]), _gone])
def test_another_look_is_unchecked_and_never_a_forgery(
    look: int, code: int, change: Callable[[Any], None], notebook: Path
) -> None:
    run = orjson.loads(notebook.read_bytes())
    assert {cell["metadata"]["codevision"]["look"] for cell in run["cells"]} == {LOOK}
    for cell in run["cells"]:
        cell["metadata"]["codevision"]["look"] = look
    notebook.write_bytes(orjson.dumps(run))
    assert _audit(notebook).exit_code == 0
    change(run)
    notebook.write_bytes(orjson.dumps(run))
    report = _audit(notebook)
    assert (report.exit_code, len(report.findings)) == (code, 1)
    assert look == LOOK or "look" in report.findings[0].message or report.findings[0].field == "cell"


def test_a_run_that_another_version_continued_is_checked_cell_by_cell(notebook: Path) -> None:
    run = orjson.loads(notebook.read_bytes())
    later, mine = run["cells"][2], run["cells"][4]
    later["metadata"]["codevision"]["look"] = LOOK + 1
    _shown(later)
    notebook.write_bytes(orjson.dumps(run))
    assert _audit(notebook).exit_code == 2
    _shown(mine)
    notebook.write_bytes(orjson.dumps(run))
    report = _audit(notebook)
    assert [str(finding.outcome) for finding in report.findings] == ["unchecked", "fails"]


@pytest.mark.parametrize(("line", "code"), [(b"Layout 2 of", 1), (b"Layout 1 of", 2), (b"Of", 2), (b"Layout 77 of", 2)])
def test_a_bundle_of_another_layout_is_held_to_its_notebook_and_pictures(
    line: bytes, code: int, notebook: Path
) -> None:
    path = notebook.with_suffix(".zip")
    bundles.write_bundle(notebook, path)
    with zipfile.ZipFile(path) as bundle:
        held = {name: bundle.read(name) for name in bundle.namelist()}
    held["README.txt"] = held["README.txt"].replace(b"Layout 2 of", line)
    held["requirements.txt"] += b"# other words\n"

    def audited() -> Report:
        with zipfile.ZipFile(path, "w") as bundle:
            for name, data in held.items():
                bundle.writestr(name, data)
        return _audit(path)

    assert audited().exit_code == code
    held["images/image_1.png"] = held["images/image_0.png"]
    assert audited().exit_code == 1
